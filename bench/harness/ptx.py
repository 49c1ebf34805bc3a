"""Resources of compiled PTX, by the assembler that Triton ships; needs no GPU."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path


def resources(ptx: str, target: int) -> tuple[int, int]:
    """Registers and spilled bytes, as reported by the assembler that Triton ships."""
    spec = find_spec("triton")
    assert spec is not None and spec.origin is not None
    tools = Path(spec.origin).parent / "backends" / "nvidia" / "bin"
    assembler = tools / ("ptxas-blackwell" if target >= 100 and (tools / "ptxas-blackwell").exists() else "ptxas")
    name = re.search(r"\.target\s+(\w+)", ptx)
    assert name is not None
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [str(assembler), "-v", f"--gpu-name={name[1]}", file.name, "-o", os.devnull]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    used = re.search(r"Used (\d+) registers", report)
    spills = re.search(r"(\d+) bytes spill stores", report)
    assert used is not None
    return int(used[1]), int(spills[1]) if spills else 0
