"""What a figure was measured on: date, processor and its instructions, threads, load, versions, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import torch

from glance_fast.version import __version__

# The instruction sets that decide how fast a matrix product is.
FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8", "asimd", "bf16")


def machine() -> dict[str, str]:
    """Facts to stand beside every figure."""
    told = _cpu()
    has = (told.get("flags") or told.get("Features", "")).split()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": told.get("model name") or platform.processor() or platform.machine(),
        "flags": " ".join(flag for flag in FLAGS if flag in has),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "load": f"{os.getloadavg()[0]:.2f}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "glance_fast": __version__,
        "commit": _commit(),
    }


def _cpu() -> dict[str, str]:
    """What Linux says of the first processor; nothing elsewhere."""
    try:
        first, _, _ = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")
    except OSError:
        return {}
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())}


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent, check=False)
    return done.stdout.strip() or "unknown"
