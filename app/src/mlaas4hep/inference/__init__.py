"""Answering predictions: models in memory, replaced and batched, without knowing HTTP."""
