"""The main job, end to end: simulated events, the five files, the services, a prediction."""
