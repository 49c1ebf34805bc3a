"""Seconds to the first score of a fresh process: what `bench.startup` starts, once per run.

    python -I bench/harness/first_score.py MODEL BACKEND IMAGE

It runs as a file, in environments that have glance_fast and not this folder, and prints a line of JSON: `seconds` to
import the engine, to load the model and to score; `torch`, whether PyTorch was imported; and the `score`.
"""

from __future__ import annotations

import json
import sys
import time


def main(model: str, backend: str, image: str) -> None:
    """Import, load and score once; print the seconds."""
    start = time.perf_counter()
    from glance_fast.engine import Engine

    imported = time.perf_counter()
    engine = Engine.load(model, backend)
    loaded = time.perf_counter()
    score = engine.score(image).score
    seconds = [imported - start, loaded - imported, time.perf_counter() - loaded]
    print(json.dumps({"seconds": seconds, "torch": "torch" in sys.modules, "score": score}))


if __name__ == "__main__":
    main(*sys.argv[1:])
