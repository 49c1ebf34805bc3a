"""Everything that `Engine.score` takes, and a stream of frames.

Run: python examples/02_score_arrays_and_streams.py parts.model parts
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glance_fast import Engine


def frames(folder: Path) -> Iterator[NDArray[np.uint8]]:
    """Frames as a camera's driver gives them: uint8 [H, W, 3]."""
    for path in sorted(folder.glob("*.png")):
        yield np.asarray(Image.open(path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    options = parser.parse_args()
    engine = Engine.load(options.model)
    path = options.data / "test" / "hole" / "000.png"
    pixels = np.asarray(Image.open(path))

    # The same photograph as a path, a PIL image, uint8, and floating point in 0..1: the same score.
    for image in (path, Image.open(path), pixels, pixels.astype(np.float32) / 255):
        print(f"{type(image).__name__:>12}: {engine.score(image).score:.4f}")

    # A list gives a list. An array of four axes is a list along its first axis. An image that cannot be read or judged
    # has a result of its own, which holds the error.
    results = engine.score([pixels, pixels[:, ::-1], pixels[:5, :5]])
    print(f"list: {[result.verdict for result in results]}")

    # An image of another size is resized for the networks; the map has the image's own size.
    large = Image.open(path).resize((200, 160))
    print(f"image of 160x200 pixels: map {engine.score(large).map.shape}")

    # A stream gives results in order. With `ahead`, the next frames are read while the engine scores: more frames per
    # second in bounded memory. With an export to OpenVINO, Engine.load(..., streams=2) scores two at once on a CPU.
    with engine.stream(frames(options.data / "test" / "hole"), ahead=8) as stream:
        for number, result in enumerate(stream):
            print(f"frame {number}: {result.score:.3f} {result.verdict}")


if __name__ == "__main__":
    main()
