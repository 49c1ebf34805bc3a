"""The name of `python -m bench.kernel_roofline` in version 0.1.0."""

from __future__ import annotations

if __name__ == "__main__":
    raise SystemExit("bench.needs is now bench.kernel_roofline: python -m bench.kernel_roofline --help")
