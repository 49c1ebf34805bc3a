"""The pool lends every item to one borrower at a time; batches are slices of every sequence."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import count
from threading import Barrier

import numpy as np
import pytest

from glance_fast.data.batches import batched
from glance_fast.data.pool import Pool


def test_a_pool_makes_as_many_items_as_are_in_use_at_once() -> None:
    numbers = count()
    pool, together = Pool(lambda: next(numbers)), Barrier(3)

    def borrow(_: int) -> int:
        with pool.lend() as item:
            together.wait(timeout=10)
            return item

    with ThreadPoolExecutor(3) as threads:
        for _ in range(3):
            assert sorted(threads.map(borrow, range(3))) == [0, 1, 2]
    assert len(pool) == 3


def test_an_item_is_returned_to_the_pool_after_an_error() -> None:
    pool = Pool(object)
    with pytest.raises(ValueError, match="in use"), pool.lend():
        raise ValueError("in use")
    assert len(pool) == 1


def test_batches_are_slices_of_a_list_or_an_array() -> None:
    assert list(batched([1, 2, 3, 4, 5], 2)) == [[1, 2], [3, 4], [5]]
    assert [batch.shape for batch in batched(np.zeros((9, 2)), 4)] == [(4, 2), (4, 2), (1, 2)]
    assert list(batched([], 4)) == []
