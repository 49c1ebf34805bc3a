"""Batches for the backends that capture one launch per batch size: which launch runs how many images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol

from glance_fast.data.batches import batched
from glance_fast.data.pool import Pool


class Slot(Protocol):
    """A stream with its memory and captured launch, for one thread at a time."""

    def run(self, images: Sequence[Any]) -> list[Any]:
        """Score grids of up to the slot's batch size of images."""


class Launches:
    """Launches of fixed batch sizes; each run borrows a slot of the smallest size that its images fit into.

    `batch_sizes`: images per launch; longer sequences are cut into batches of the largest. `make` creates a slot of a
    batch size, at the first run that needs it.
    """

    def __init__(self, batch_sizes: Iterable[int], make: Callable[[int], Slot]) -> None:
        self.slots = {size: Pool(partial(make, size)) for size in sorted(set(batch_sizes))}

    def run(self, images: Sequence[Any]) -> list[Any]:
        """Score grids of all images, in order."""
        grids = []
        for batch in batched(images, max(self.slots)):
            size = next(size for size in self.slots if size >= len(batch))
            with self.slots[size].lend() as slot:
                grids += slot.run(batch)
        return grids
