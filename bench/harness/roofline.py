"""The machine's limits: multiply-adds per second of a matrix product and a convolution, bytes per second from memory.

They are timed in turn with the cases. The roofline of a case is the time of its multiply-adds at the higher of the
first two rates, plus the time to read its streamed bytes at the third: added, as no part of a network does both at
once.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import numpy as np
import openvino
import torch
from openvino import opset13 as opset

from bench.harness.interleaved import Case, Measurement
from bench.harness.runners import Point, openvino_runner

# The limits are computed on no image.
NO_IMAGE = Point(0, 0)
PRODUCT, CONVOLUTION, MEMORY = "matrix product", "convolution", "memory"
# Larger than every cache, also the L3 of a server.
MEGABYTES = 512


def machine_limits(threads: int, precisions: Sequence[str]) -> list[Case]:
    """A matrix product and a convolution with constant weights at each precision, and a sum over memory."""
    rng, cases = np.random.default_rng(0), []
    left, right = rng.standard_normal((2, 1024, 1024), np.float32)
    image, kernel = rng.standard_normal((1, 128, 64, 64), np.float32), rng.standard_normal((128, 128, 3, 3), np.float32)
    rows, pixels = opset.parameter([1024, 1024], np.float32), opset.parameter([1, 128, 64, 64], np.float32)
    # With an addition after the product, OpenVINO chooses its fastest implementation.
    product = opset.add(opset.matmul(rows, opset.constant(right), False, False), opset.constant(right[:1]))
    convolution = opset.relu(opset.convolution(pixels, opset.constant(kernel), [1, 1], [1, 1], [1, 1], [1, 1]))
    for name, model, value, macs in (
        (PRODUCT, openvino.Model([product], [rows]), left, 1024.0**3),
        (CONVOLUTION, openvino.Model([convolution], [pixels]), image, 64.0**2 * kernel.size),
    ):
        for precision in precisions:
            run = openvino_runner(model, value, precision, threads)
            cases.append(Case(name, "OpenVINO", precision, run, macs, point=NO_IMAGE))
    block = torch.ones(MEGABYTES * 2**18)
    return [*cases, Case(MEMORY, "PyTorch", "fp32", block.sum, 0.0, 4.0 * block.numel(), point=NO_IMAGE)]


def memory_bandwidth(cases: Sequence[Case], measurements: Sequence[Measurement]) -> list[float]:
    """Bytes per second from memory, in each turn."""
    case, measurement = next(pair for pair in zip(cases, measurements, strict=True) if pair[0].method == MEMORY)
    return [case.streamed_bytes / seconds for seconds in measurement.seconds]


def roofline_seconds(cases: Sequence[Case], measurements: Sequence[Measurement], case: Case) -> list[float] | None:
    """Seconds of a run of `case` at the machine's limits of its precision, in each turn; None without limits."""
    rates = [
        [limit.macs / seconds for seconds in measurement.seconds]
        for limit, measurement in zip(cases, measurements, strict=True)
        if limit.method in (PRODUCT, CONVOLUTION) and limit.precision == case.precision
    ]
    if not rates:
        return None
    best = [max(turn) for turn in zip(*rates, strict=True)]
    bandwidth, macs = memory_bandwidth(cases, measurements), case.macs * case.point.batch
    return [macs / rate + case.streamed_bytes / bytes_per_s for rate, bytes_per_s in zip(best, bandwidth, strict=True)]


def roofline_share(roofline: list[float] | None, measurement: Measurement) -> float | None:
    """The roofline as a share of the measured time, the median over the turns; None without limits."""
    if roofline is None:
        return None
    return round(median(limit / seconds for limit, seconds in zip(roofline, measurement.seconds, strict=True)), 3)
