"""Damage to the bytes of a file: what disks, cables, copies and editors do to it. Repeatable by seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

PAGE = 4096

# From the bytes of a file to damaged ones, for a source of randomness.
Damage = Callable[[bytes, np.random.Generator], bytes]


def flip(data: bytes, rng: np.random.Generator) -> bytes:
    """Flip a bit."""
    damaged = bytearray(data)
    damaged[rng.integers(len(data))] ^= 1 << rng.integers(8)
    return bytes(damaged)


def flip_in_head(data: bytes, rng: np.random.Generator) -> bytes:
    """Flip a bit of the first 200 bytes, where lengths and names stand."""
    return flip(data[:200], rng) + data[200:]


def cut(data: bytes, rng: np.random.Generator) -> bytes:
    """Lose the end."""
    return data[: rng.integers(len(data))]


def extend(data: bytes, rng: np.random.Generator) -> bytes:
    """Gain bytes at the end."""
    return data + rng.bytes(int(rng.integers(1, PAGE)))


def zero_page(data: bytes, rng: np.random.Generator) -> bytes:
    """Read zeros where a page was never written."""
    start = PAGE * int(rng.integers((len(data) + PAGE - 1) // PAGE))
    return data[:start] + bytes(min(PAGE, len(data) - start)) + data[start + PAGE :]


def overwrite(data: bytes, rng: np.random.Generator) -> bytes:
    """Hold eight bytes of something else."""
    start = int(rng.integers(len(data)))
    return data[:start] + rng.bytes(8) + data[start + 8 :]


DAMAGES: Mapping[str, Damage] = {
    function.__name__: function for function in (flip, flip_in_head, cut, extend, zero_page, overwrite)
}
