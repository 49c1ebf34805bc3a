"""Fixtures of the tests of exports: a faked machine with TensorRT, and a model folder with a plan for it."""

from tests.helpers.fake_machine import machine, plan_folder

__all__ = ["machine", "plan_folder"]
