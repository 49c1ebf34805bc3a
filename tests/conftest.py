"""Every test: repeatable algorithms, NaN in fresh memory, fixed examples in CI; model folders that many tests read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

# cuBLAS repeats its results only with a fixed workspace, which it reads when it starts.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

# Where there is no GPU, Triton interprets kernels; it must know before any of its modules is imported.
if not os.path.exists("/dev/nvidia0"):
    os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest
import torch
from hypothesis import settings

from glance_fast.engine import Engine
from glance_fast.teachers import Teacher, load_teacher
from tests.helpers.models import fitted_model, save_exported, save_tiny, tiny_model
from tests.helpers.triton_interpreter import shorten_interpretation

settings.register_profile("home", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "home")
shorten_interpretation()


@pytest.fixture(autouse=True)
def _repeatable() -> Iterator[None]:
    """Refuse algorithms whose results vary; torch then also fills fresh memory with NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model, without exports; read only."""
    return save_tiny(tmp_path_factory.mktemp("tiny") / "model", tiny_model())


@pytest.fixture(scope="session")
def engine(tiny_folder: Path) -> Engine:
    """PyTorch's engine of the tiny model."""
    return Engine.load(tiny_folder)


@pytest.fixture(scope="session")
def exported_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model with its exports to ONNX and OpenVINO; read only."""
    return save_exported(tmp_path_factory.mktemp("exported") / "model", fitted_model({"smoothing_sigma": 0.5}))


@pytest.fixture
def exported_copy(exported_folder: Path, tmp_path: Path) -> Path:
    """A copy of `exported_folder` that a test may damage."""
    return Path(shutil.copytree(exported_folder, tmp_path / "model"))


@pytest.fixture(scope="session")
def teacher() -> Teacher:
    """EfficientNet-Lite0, the default teacher."""
    return load_teacher()
