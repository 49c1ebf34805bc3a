"""Figures of the documents, generated from the committed rows of `bench/results`."""
