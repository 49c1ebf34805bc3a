"""Judge every part of a line as its frame arrives: accept, reject, or no verdict within the line's rules.

Run: python examples/05_embed_in_a_line.py parts.model parts

The loop is where a camera's driver and the line's controller are connected. Frames are scored one by one: the next
frame exists only after the part has moved on, so there is nothing to read ahead.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glance_fast import Engine, GlanceError


def camera(folder: Path) -> Iterator[NDArray[np.uint8]]:
    """In place of a camera's driver: the test photographs, uint8 [H, W, 3]."""
    for path in sorted(folder.glob("test/*/*.png")):
        yield np.asarray(Image.open(path))


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

    accepted, rejected, times = 0, 0, []
    for number, frame in enumerate(camera(options.data)):
        start = time.perf_counter()
        try:
            score = engine.score(frame).score
        except GlanceError as error:  # for example a frame that is smaller than one patch
            print(f"part {number}: no verdict, rejected: {error}")
            rejected += 1
            continue
        times.append(time.perf_counter() - start)
        accepted, rejected = accepted + (score <= threshold), rejected + (score > threshold)
        print(f"part {number}: {score:.3f} {'reject' if score > threshold else 'accept'}")
    print(f"{accepted} accepted, {rejected} rejected; slowest {1e3 * max(times):.0f} ms")


if __name__ == "__main__":
    main()
