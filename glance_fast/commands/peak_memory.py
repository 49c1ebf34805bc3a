"""Peak resident memory of a process, and a command that scores one image and prints its own.

    python -m glance_fast.commands.peak_memory MODEL BACKEND DEVICE PRECISION

The process scores one black image and does nothing else, so its peak is that of the backend and of Python alone.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

STATUS = Path("/proc/self/status")


def peak_rss() -> int | None:
    """Peak resident memory of this process in bytes; None where the system does not report it."""
    try:
        # Linux's `ru_maxrss` starts at the parent's peak, VmHWM does not.
        lines = STATUS.read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def peak_rss_of(command: Sequence[str], folder: Path | None = None) -> int | None:
    """Run a command in `folder` and parse the last word that it prints: its `peak_rss` in bytes, or "None".

    Raises subprocess.CalledProcessError where the command fails.
    """
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    last = done.stdout.split()[-1]
    return int(last) if last.isdigit() else None


def main(model: str, backend: str, device: str, precision: str) -> None:
    """Score one black image of the model's size and print the peak resident memory."""
    import numpy as np

    from glance_fast.engine import Engine

    engine = Engine.load(Path(model), backend, device, precision)
    engine.score(np.zeros((*engine.config.image_size, 3), np.uint8))
    sys.stdout.write(f"{peak_rss()}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
