"""Each operation of the dense pass in plain PyTorch: the formula that every kernel is held to."""
