"""What a trained model is (the bundle), and where models are kept."""
