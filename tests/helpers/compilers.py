"""What compiles here, and what Triton compiles in a process that does not interpret it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from glance_fast.kernels.cpu.build import COMPILERS

ROOT = Path(__file__).resolve().parents[2]
# Triton's kernels run on this device: in the interpreter where there is no GPU.
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Whether the kernels for CPUs can be compiled here.
HAS_CPP_COMPILER = sys.platform == "linux" and any(map(shutil.which, COMPILERS))
# The kernels that each part of a model launches, parts as in `bench.compile_kernels`.
KERNELS = {
    "stem": ("pixel_conv_kernel",),
    "layer": ("base_kernel", "entries_kernel", "pool_kernel"),
    "layer of pixels": ("pixel_base_kernel", "pixel_entries_kernel"),
    "layer and its pooling": ("pooled_entries_kernel",),
    "heads": ("score_kernel",),
}


def compile_in_process(arguments: list[str], cache: Path) -> Any:
    """What Python prints as JSON in a process of its own, where Triton compiles and interprets nothing."""
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    env |= {"TRITON_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
