"""The environment of a measurement: date, processor and its instructions, cores, threads, load, versions, commit."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from glance_fast.backends.base import cpu_threads
from glance_fast.version import __version__

# The instruction sets that decide how fast a matrix product is.
FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8", "asimd", "bf16")
# A CPU's numbers, which name its generation where its name does not.
MODEL = {"cpu family": "family", "model": "model", "stepping": "stepping"}
PACKAGES = ("openvino", "onnxruntime")


def environment() -> dict[str, str]:
    """What is recorded with every measurement; all values are text."""
    cpu = _cpu()
    flags = (cpu.get("flags") or cpu.get("Features", "")).split()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": cpu.get("model name") or platform.processor() or platform.machine(),
        "processor_model": ", ".join(f"{MODEL[name]} {cpu[name]}" for name in MODEL if name in cpu),
        "flags": " ".join(flag for flag in FLAGS if flag in flags),
        "cores": str(cpu_threads()),
        "threads": str(torch.get_num_threads()),
        "load": f"{os.getloadavg()[0]:.2f}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        **_versions(),
        "glance_fast": __version__,
        "commit": _commit(),
    }


def append_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append `rows` to a file of JSON lines, each with the environment; its folder is made if it is missing."""
    recorded = environment()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as lines:
        lines.writelines(json.dumps({**row, **recorded}) + "\n" for row in rows)


def use_all_cores() -> int:
    """Give PyTorch as many threads as the product's CPU backends take, also where OMP_NUM_THREADS says otherwise."""
    torch.set_num_threads(cpu_threads())
    return cpu_threads()


def _cpu() -> dict[str, str]:
    """Linux's description of the first processor; empty elsewhere."""
    try:
        first, _, _ = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")
    except OSError:
        return {}
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())}


def _versions() -> dict[str, str]:
    installed = {}
    for package in PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent, check=False)
    return done.stdout.strip() or "unknown"
