"""A machine with TensorRT and GPUs, faked, and the fixtures that give it to tests."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest

from glance_fast.export.export import export
from glance_fast.export.tensorrt.options import TensorRtOptions
from glance_fast.kernels.gpu import ahead_of_time
from tests.helpers import fake_plugin, fake_tensorrt
from tests.helpers.fake_cuda import Driver, Library
from tests.helpers.models import fitted_model, save_tiny

REIMPORTED = tuple(
    f"glance_fast.{name}"
    for name in (
        "export.tensorrt.build",
        "export.tensorrt.plugins",
        "backends.tensorrt_backend",
        "backends.cuda_driver.device",
    )
)


class Machine:
    """One machine with GPUs: what tests change of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.patch = monkeypatch
        self.library = Library()
        self.gpus = [("NVIDIA L4", (8, 9))]
        self.version = "11.4.0.106"

    def install(self, name: str = "tensorrt") -> None:
        """Put TensorRT, under its own name or the lean one's, and PyCUDA where imports find them."""
        trt = ModuleType(name)
        for key, value in vars(fake_tensorrt).items():
            if not key.startswith("__"):
                setattr(trt, key, value)
        trt.__version__ = self.version  # type: ignore[attr-defined]
        trt.__spec__ = ModuleSpec(name, None)
        pycuda = ModuleType("pycuda")
        pycuda.driver = Driver(self.gpus)  # type: ignore[attr-defined]
        trt.plugin = fake_plugin  # type: ignore[attr-defined]
        self.patch.setitem(sys.modules, f"{name}.plugin", fake_plugin)
        self.patch.setattr(ahead_of_time, "compile_ahead", fake_plugin.compile_ahead)
        fake_plugin.described.clear()
        fake_plugin.implemented.clear()
        for module in (trt, pycuda):
            self.patch.setitem(sys.modules, module.__name__, module)
        self.patch.setitem(sys.modules, "pycuda.driver", pycuda.driver)
        for module_name in REIMPORTED:  # they hold what they imported
            self.patch.delitem(sys.modules, module_name, raising=False)
        self.patch.setattr("glance_fast.backends.cuda_driver.capture.driver_library", lambda: self.library)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(monkeypatch)
    machine.install()
    return machine


@pytest.fixture
def engine_folder(tmp_path: Path, machine: Machine) -> Path:
    """A model with a TensorRT engine for the machine's GPU."""
    path = save_tiny(tmp_path / "model", fitted_model({"smoothing_sigma": 0.5}))
    export(path, "tensorrt", tensorrt=TensorRtOptions(batch=3))
    return path
