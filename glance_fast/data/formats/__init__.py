"""Decoders of the image formats that are read, each held to what its format declares."""
