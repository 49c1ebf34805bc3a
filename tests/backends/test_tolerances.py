"""The table of tolerances, and the one relative error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from glance_fast.backends.tolerances import TOLERANCES, relative_error, tolerance
from glance_fast.errors import BackendError
from glance_fast.storage.export_record import EXPORT_FORMATS


def test_relative_error_is_the_largest_difference_over_the_references_largest_value() -> None:
    assert relative_error([[1.0, -3.5]], [[1.0, -4.0]]) == 0.125
    assert relative_error([1.0, 2.0], [1.0, 4.0], scale=8) == 0.25
    assert relative_error(np.array([1e-3, 1], np.float32), np.array([0.0, 1.0])) == pytest.approx(1e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_tensors_are_compared_in_float64(dtype: torch.dtype) -> None:
    actual = torch.tensor([1.0, 1.5], dtype=dtype, requires_grad=True)
    assert relative_error(actual, np.array([1.0, 1.0 + 2**-40])) == (0.5 - 2**-40) / (1 + 2**-40)


@pytest.mark.parametrize(
    ("actual", "expected", "message"),
    [
        ([1.0], [0.0], "zeros"),
        ([np.nan], [1.0], "not finite"),
        ([1.0], [np.nan], "not finite"),
        ([np.inf], [1.0], "not finite"),
    ],
)
def test_a_comparison_without_meaning_is_refused(actual: Any, expected: Any, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        relative_error(np.array(actual), np.array(expected))


@pytest.mark.parametrize(
    ("actual", "expected", "message"),
    [([], [], "without values"), ([1.0, 2.0], [1.0], r"shape \[2\] cannot be compared with \[1\]")],
)
def test_a_comparison_of_other_shapes_is_refused(actual: Any, expected: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        relative_error(np.array(actual), np.array(expected))


def test_every_export_has_a_tolerance_with_a_reason() -> None:
    precisions = {precision for legal in EXPORT_FORMATS.values() for precision in legal}
    assert all(tolerance("trained map", precision) >= tolerance("output", precision) for precision in precisions)
    assert all(0 < row.limit <= 0.5 and len(row.reason) > 10 for row in TOLERANCES.values())


def test_an_unknown_precision_is_refused_with_the_legal_ones() -> None:
    with pytest.raises(BackendError, match="no tolerance for kernel at 'int4'; legal precisions are fp32, tf32, fp16"):
        tolerance("kernel", "int4")
