"""The name of `python -m bench.latency` in version 0.1.0."""

from __future__ import annotations

if __name__ == "__main__":
    raise SystemExit("bench.pace is now bench.latency: python -m bench.latency --help")
