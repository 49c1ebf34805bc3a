"""Fixtures of the tests of backends: a faked machine with TensorRT, and a model folder with an engine for it."""

from tests.helpers.fake_machine import engine_folder, machine

__all__ = ["engine_folder", "machine"]
