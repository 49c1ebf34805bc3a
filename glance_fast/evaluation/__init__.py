"""Metrics of a model on a test set, and how near its exports are to the reference."""
