"""int8 for every runtime: the quantizers, and the photographs that ranges are taken from."""
