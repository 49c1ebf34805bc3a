"""A fairer split of a data set in which objects were photographed several times.

`python -m bench.disjoint DATA OUT --pattern 'num_(\\d+)' --within 150 --normal 60`

Magnetic tiles were photographed six times each under changing light, and the usual random split puts some photographs
of a tile among the training images and others of the same tile among the normal test images. That rewards a method that
memorizes training images. Here a number of normal test images is kept, and every training image whose number (the
pattern's group) is within a distance of a kept image's number is left out. OUT becomes a folder of links in MVTec AD's
layout; DATA is not changed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from bench.harness.splits import photograph_number
from glance_fast.data.datasets import normal_images, test_samples
from glance_fast.errors import DataError
from glance_fast.storage.atomic_write import replace_folder


def main(
    data: Path,
    out: Path,
    pattern: Annotated[str, typer.Option(help="A regular expression with one group, the photograph's number.")],
    within: Annotated[int, typer.Option(help="Photographs whose numbers differ by at most this are related.")],
    normal: Annotated[int, typer.Option(help="How many normal test images are kept.")],
    seed: int = 0,
) -> None:
    """Make the split and print how many images it has."""
    samples = test_samples(data)
    good = [sample.path for sample in samples if sample.is_normal]
    kept = [good[i] for i in sorted(np.random.default_rng(seed).permutation(len(good))[:normal])]
    numbers = np.array([photograph_number(path, pattern) for path in kept])
    train = [path for path in normal_images(data) if np.abs(numbers - photograph_number(path, pattern)).min() > within]
    if not train:
        raise DataError(f"every training image of {data} is related to a kept one; lower --within or --normal")
    with replace_folder(out) as folder:
        for path in train:
            _link(path, folder / path.relative_to(data))
        for path in kept:
            _link(path, folder / path.relative_to(data))
        for sample in samples:
            if not sample.is_normal:
                for path in (sample.path, *sample.masks):
                    _link(path, folder / path.relative_to(data))
    print(f"{len(train)} training images, {len(kept)} normal test images")


def _link(source: Path, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(source.resolve())


if __name__ == "__main__":
    typer.run(main)
