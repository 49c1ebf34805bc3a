"""Trained models as portable graphs and native engines: the whole pipeline, from uint8 pixels to the decision."""
