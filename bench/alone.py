"""The name of `python -m bench.harness.peak_memory` in version 0.1.0."""

from __future__ import annotations

if __name__ == "__main__":
    raise SystemExit(
        "bench.alone is now bench.harness.peak_memory; its source says how to call python -m bench.harness.peak_memory"
    )
