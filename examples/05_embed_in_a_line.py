"""Judge every part of a line as its frame arrives: accept, reject, or no verdict within the line's rules.

Run: python examples/05_embed_in_a_line.py parts.model parts

The loop is where a camera's driver and the line's controller are connected. A stream gives a result as soon as its
frame is scored, and then asks for the next: it exists only after the part has moved on.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glance_fast import Engine


def camera(folder: Path, arrivals: list[float]) -> Iterator[NDArray[np.uint8]]:
    """In place of a camera's driver: the test photographs, uint8 [H, W, 3]; notes when each of them came."""
    for path in sorted(folder.glob("test/*/*.png")):
        frame = np.asarray(Image.open(path))
        arrivals.append(time.perf_counter())
        yield frame


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--threshold", type=float, help="scores above it are rejected; default: the calibrated one")
    options = parser.parse_args()

    engine = Engine.load(options.model)
    threshold = engine.threshold if options.threshold is None else options.threshold
    # The first score also fills caches and thread pools; it must not be the first part's time.
    engine.score(np.zeros((*engine.config.image_size, 3), np.uint8))

    accepted, rejected = 0, 0
    arrivals: list[float] = []
    times = []
    with engine.stream(camera(options.data, arrivals)) as results:
        for number, result in enumerate(results):
            times.append(time.perf_counter() - arrivals[-1])
            if result.error is not None:  # for example a frame that is smaller than one patch
                rejected += 1
                print(f"part {number}: no verdict, rejected: {result.error}")
            elif result.score > threshold:
                rejected += 1
                print(f"part {number}: {result.score:.3f} reject")
            else:
                accepted += 1
                print(f"part {number}: {result.score:.3f} accept")
    print(f"{accepted} accepted, {rejected} rejected; slowest {1e3 * max(times, default=0):.0f} ms")


if __name__ == "__main__":
    main()
