"""The name of `python -m bench.harness.scaling_point` in version 0.1.0."""

from __future__ import annotations

if __name__ == "__main__":
    raise SystemExit(
        "bench.scaling_point is now bench.harness.scaling_point: python -m bench.harness.scaling_point --help"
    )
