"""Trained models as portable graphs and native engines. No exporter is built yet."""
