"""Faults on purpose: damaged bytes, kills at random moments, and the order of the calls that keep data."""
