"""The tests; a package so that they share `tests.tiny` and `tests.tolerances`."""
