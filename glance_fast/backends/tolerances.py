"""How far numbers may differ from their reference: the one table that the library, the benchmarks and the tests use.

Every difference is a `relative_error`. What is compared:

- "output": features, scores and maps of a model with random weights, from any backend, with the per-patch loop's.
- "trained map": maps of a trained model from its exports, with those of PyTorch's dense pass.
- "kernel": results of one GPU kernel in two configurations.
- "gradient": gradients of Global-Net's weights through the dense pass, with those through the loop.
- "peer map": maps of another method's network between runtimes or with its definition, in the benchmarks.
- "interpolation": maps and weights by linear interpolation in float32, with the same in float64.
- "same graph": results of one exported file from two programs that run it.
- "graph weights": sums of the weights of an exported graph, with those of a recorded graph.
- "teacher": features of a published network from another form of it, another batch or memory layout.
- "resized map": maps of images that PyTorch and Pillow have resized, whose pixels may differ by one grey level.
- "metric": areas, rates and F1 values, with those counted at every threshold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from glance_fast.errors import BackendError

if TYPE_CHECKING:
    from torch import Tensor

Compared = Literal[
    "output", "trained map", "kernel", "gradient", "peer map",
    "interpolation", "same graph", "graph weights", "teacher", "resized map", "metric",
]  # fmt: skip


@dataclass(frozen=True)
class Tolerance:
    """The largest relative error that is accepted, and why it is not smaller."""

    limit: float
    reason: str


# Precisions are those that numbers are computed in. A layer of the presets sums at most 1,536 products, and an error
# in a plan or a kernel, such as a wrong tap, changes the first digits at any precision.
TOLERANCES: Mapping[tuple[Compared, str], Tolerance] = {
    ("output", "fp64"): Tolerance(1e-10, "another order of sums: 1e-15 seen"),
    ("output", "fp32"): Tolerance(1e-5, "another order of sums: 2e-7 to 4e-7 seen"),
    ("output", "fp16"): Tolerance(5e-3, "values of 11 bits, summed in float32: 5e-4 to 8e-4 seen"),
    ("output", "bf16"): Tolerance(5e-2, "values of 8 bits, summed in float32: 5e-3 seen"),
    ("output", "int8"): Tolerance(0.2, "8-bit blocks with ranges from 24 images: 7e-3 to 2.4e-2 seen"),
    ("trained map", "fp32"): Tolerance(1e-5, "another order of sums: 1e-6 seen"),
    # Whitening divides by the small standard deviations of a trained model, which multiplies the rounding of z_l.
    ("trained map", "fp16"): Tolerance(1e-2, "whitening multiplies rounding: 3e-3 to 5e-3 seen"),
    ("trained map", "bf16"): Tolerance(5e-2, "whitening multiplies rounding: 3e-2 seen"),
    # 0.23 at an image AUROC of 0.913 instead of 0.915: few pixels move by so much, and the scores keep their order.
    ("trained map", "int8"): Tolerance(0.5, "0.23 seen with ranges from 40 images, 3e-3 to 9e-3 from 96 or more"),
    ("kernel", "fp32"): Tolerance(1e-5, "another order of sums"),
    ("kernel", "tf32"): Tolerance(1e-3, "factors of 11 bits, summed in float32 in another order"),
    ("kernel", "fp16"): Tolerance(5e-3, "results of 11 bits: the last bit of the largest is 1e-3"),
    ("kernel", "bf16"): Tolerance(2e-2, "results of 8 bits: the last bit of the largest is 8e-3"),
    ("gradient", "fp32"): Tolerance(1e-4, "sums over 36 holes and all cells, in another order"),
    ("peer map", "fp32"): Tolerance(1e-3, "distances are differences of large sums; runtimes merge layers"),
    ("interpolation", "fp32"): Tolerance(3e-7, "two products per axis: 1e-7 to 2e-7 seen"),
    ("same graph", "fp32"): Tolerance(1e-6, "the runtime's number of threads may change the order of sums"),
    ("graph weights", "fp32"): Tolerance(1e-6, "weights are folded on the CPU at hand, which rounds its way"),
    ("teacher", "fp32"): Tolerance(5e-6, "batch norms are folded into weights: 1e-6 seen"),
    ("resized map", "fp32"): Tolerance(3e-2, "pixels that differ by one grey level: 4e-3 seen"),
    ("metric", "fp64"): Tolerance(1e-12, "the same counts, added in another order"),
}


def tolerance(compared: Compared, precision: str) -> float:
    """The largest relative error that is accepted; raises BackendError for a precision without a row."""
    row = TOLERANCES.get((compared, precision))
    if row is None:
        legal = ", ".join(name for what, name in TOLERANCES if what == compared)
        raise BackendError(f"no tolerance for {compared} at {precision!r}; legal precisions are {legal}")
    return row.limit


def relative_error(actual: ArrayLike | Tensor, expected: ArrayLike | Tensor, scale: float | None = None) -> float:
    """Largest absolute difference over the reference's largest absolute value, max|a − e| / max|e|, in float64.

    `actual` and `expected`: arrays or tensors of one shape. `scale` replaces max|e|, for a reference that is one part
    of many. Raises ValueError for different shapes and for no values, and BackendError where a runtime's numbers cannot
    be compared: a value that is not finite, or a reference of zeros.
    """
    values, reference = _float64(actual), _float64(expected)
    if values.shape != reference.shape:
        raise ValueError(f"shape {list(values.shape)} cannot be compared with {list(reference.shape)}")
    if not values.size:
        raise ValueError("arrays without values cannot be compared")
    if not (np.isfinite(values).all() and np.isfinite(reference).all()):
        raise BackendError("a value that is compared is not finite")
    largest = float(np.abs(reference).max()) if scale is None else scale
    if not largest > 0:
        raise BackendError("a reference of zeros cannot be compared with: it has no scale")
    return float(np.abs(values - reference).max()) / largest


def _float64(values: ArrayLike | Tensor) -> NDArray[np.float64]:
    if hasattr(values, "detach"):
        # numpy has no bfloat16, so the tensor is converted first.
        values = cast("Any", values).detach().cpu().double().numpy()
    return np.asarray(values, np.float64)
