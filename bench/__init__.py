"""Measurements of the shipped code, as ratios against something timed in the same run."""
