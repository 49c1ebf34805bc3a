"""Bytes of every package in an environment: what `bench.startup` runs with that environment's Python.

    python -I bench/harness/package_sizes.py

It needs nothing but the standard library, and prints a line of JSON: names with bytes.
"""

from __future__ import annotations

import json
from importlib.metadata import Distribution, distributions
from pathlib import Path


def size(package: Distribution) -> int:
    """Bytes of the files that the package's record lists and that exist."""
    paths = (Path(str(package.locate_file(file))) for file in package.files or [])
    return sum(path.stat().st_size for path in paths if path.is_file())


if __name__ == "__main__":
    print(json.dumps({package.metadata["Name"]: size(package) for package in distributions()}))
