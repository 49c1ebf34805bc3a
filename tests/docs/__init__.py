"""Tests of the pages in docs/, of README and of CONTRIBUTING."""
