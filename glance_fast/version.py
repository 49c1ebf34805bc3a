"""The version of this package, read by setup.py and by every saved model."""

__version__ = "0.2.0.dev0"
