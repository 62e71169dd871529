"""Predictions, independent of HTTP: models in memory, their replacement, batches."""
