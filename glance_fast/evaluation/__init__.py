"""How good a model is on a test set, and how near its exports are to the reference."""
