"""Sequences cut into batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

Item = TypeVar("Item")
Scalar = TypeVar("Scalar", bound=np.generic)

# Images per batch where scores do not depend on it: few enough for the memory, enough to keep a device busy.
SCORING_BATCH = 8


@overload
def batched(items: NDArray[Scalar], size: int = ...) -> Iterator[NDArray[Scalar]]: ...
@overload
def batched(items: Sequence[Item], size: int = ...) -> Iterator[Sequence[Item]]: ...


def batched(items: Any, size: int = SCORING_BATCH) -> Iterator[Any]:
    """Consecutive slices of a sequence or of an array's first axis, each of `size` items; the last may be shorter.

    `itertools.batched` gives tuples, and is of Python 3.12.
    """
    for start in range(0, len(items), size):
        yield items[start : start + size]
