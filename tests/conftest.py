"""What holds for every test: repeatable algorithms, NaN in fresh memory, fixed examples in CI."""

from __future__ import annotations

import os
from collections.abc import Iterator

# cuBLAS repeats its results only with a fixed workspace, which it reads when it starts.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

# Where there is no GPU, Triton interprets kernels; it must know before any of its modules is imported.
if not os.path.exists("/dev/nvidia0"):
    os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest
import torch
from hypothesis import settings

settings.register_profile("home", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "home")


@pytest.fixture(autouse=True)
def _repeatable() -> Iterator[None]:
    """Refuse algorithms whose results vary; torch then also fills fresh memory with NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
