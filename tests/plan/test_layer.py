"""Layers: the cells that a layer reads, and impossible layers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from glance_fast.errors import ConfigError
from glance_fast.plan.layer import OUTSIDE, Layer, conv, pool


@pytest.mark.parametrize("kind, channels, size", [(conv, 4, 2), (conv, 4, 0), (conv, 0, 3), (pool, 4, 1), (pool, 0, 2)])
def test_an_impossible_layer_is_refused(kind: Callable[[int, int], Layer], channels: int, size: int) -> None:
    with pytest.raises(ConfigError, match=rf"{kind.__name__} needs .*, got .*{size}, channels {channels}"):
        kind(channels, size)


def test_a_layer_reads_its_window() -> None:
    assert (conv(1).size(7), conv(1, 5).size(7), pool(1).size(7), pool(1, 3).size(7)) == (7, 7, 3, 2)
    cells = np.array([0, 6])
    assert conv(1).window(cells, 7).tolist() == [[OUTSIDE, 0, 1], [5, 6, OUTSIDE]]
    assert pool(1).window(np.array([2]), 7).tolist() == [[4, 5]]
