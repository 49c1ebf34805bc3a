"""What the machine can do at most: products and convolutions a second, and bytes a second from memory.

They take turns with the cases. A case's roofline is the time that its multiply-adds take at the better pace of the
first two, and what it streams from memory at the third: one after the other, as no part of a network does both at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import numpy as np
import openvino
import torch
from openvino import opset13 as opset

from bench.harness.interleaved import Case, Taken
from bench.harness.runners import Point, in_openvino

# They see no image.
NOWHERE = Point(0, 0)
PRODUCT, CONVOLUTION, MEMORY = "matrix product", "convolution", "memory"
# Beyond every cache, L3 of a server among them.
MEGABYTES = 512


def limits(threads: int, precisions: Sequence[str]) -> list[Case]:
    """A matrix product and a convolution that nothing holds up, with constant weights; and a sum over memory."""
    rng, cases = np.random.default_rng(0), []
    left, right = rng.standard_normal((2, 1024, 1024), np.float32)
    image, kernel = rng.standard_normal((1, 128, 64, 64), np.float32), rng.standard_normal((128, 128, 3, 3), np.float32)
    given, seen = opset.parameter([1024, 1024], np.float32), opset.parameter([1, 128, 64, 64], np.float32)
    # With something to add, OpenVINO takes its fastest form.
    product = opset.add(opset.matmul(given, opset.constant(right), False, False), opset.constant(right[:1]))
    convolution = opset.relu(opset.convolution(seen, opset.constant(kernel), [1, 1], [1, 1], [1, 1], [1, 1]))
    for name, model, value, macs in (
        (PRODUCT, openvino.Model([product], [given]), left, 1024.0**3),
        (CONVOLUTION, openvino.Model([convolution], [seen]), image, 64.0**2 * kernel.size),
    ):
        for precision in precisions:
            run = in_openvino(model, value, precision, threads)
            cases.append(Case(name, "OpenVINO", precision, run, macs, point=NOWHERE))
    held = torch.ones(MEGABYTES * 2**18)
    return [*cases, Case(MEMORY, "PyTorch", "fp32", held.sum, 0.0, 4.0 * held.numel(), point=NOWHERE)]


def bytes_a_second(cases: Sequence[Case], taken: Sequence[Taken]) -> list[float]:
    """What memory gives, in each turn."""
    case, mine = next(pair for pair in zip(cases, taken, strict=True) if pair[0].method == MEMORY)
    return [case.streamed / seconds for seconds in mine.seconds]


def rooflines(cases: Sequence[Case], taken: Sequence[Taken], case: Case) -> list[float] | None:
    """Seconds of a case's run at the machine's limits of its precision, in each turn; None without limits."""
    paces = [
        [one.macs / seconds for seconds in mine.seconds]
        for one, mine in zip(cases, taken, strict=True)
        if one.method in (PRODUCT, CONVOLUTION) and one.precision == case.precision
    ]
    if not paces:
        return None
    best = [max(turn) for turn in zip(*paces, strict=True)]
    memory, macs = bytes_a_second(cases, taken), case.macs * case.point.batch
    return [macs / pace + case.streamed / moved for pace, moved in zip(best, memory, strict=True)]


def of_limit(roofline: list[float] | None, mine: Taken) -> float | None:
    """The roofline as a share of what was taken, the median over the turns."""
    if roofline is None:
        return None
    return round(median(least / seconds for least, seconds in zip(roofline, mine.seconds, strict=True)), 3)
