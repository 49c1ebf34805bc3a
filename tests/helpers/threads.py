"""Scoring from many threads at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from glance_fast.engine import Engine
from tests.helpers.images import Pixels, textured_image
from tests.helpers.tolerances import assert_same_result


def assert_threads_agree(engine: Engine, images: Sequence[Pixels] | None = None, threads: int = 4) -> None:
    """Three times over: what several threads score at the same time is what a single thread scores."""
    if images is None:
        images = [textured_image(48, 56, seed) for seed in range(12)]
    expected = [engine.score(image) for image in images]
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(3):
            for actual, reference in zip(pool.map(engine.score, images), expected, strict=True):
                assert_same_result(actual, reference)
