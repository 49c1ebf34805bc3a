"""The tests; a package so that they share `tests.helpers.tiny_models` and `tests.helpers.tolerances`."""
