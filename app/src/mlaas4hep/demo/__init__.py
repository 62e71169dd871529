"""The main job before one's eyes: simulated events, the five files, the services, a prediction."""
