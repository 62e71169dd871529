"""What is served by HTTP: the training API and its page, TFaaS, and the data proxy."""
