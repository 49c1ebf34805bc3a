"""Holding a fast path to its float64 reference; the tolerances are the library's, and never loosened in CI."""

from __future__ import annotations

from typing import Any

import torch

from glance_fast.backends.tolerances import Compared, relative_error, tolerance
from glance_fast.postprocessing.result import FailedResult, Result

# What every path on a CPU computes in. (Triton's interpreter multiplies the bits of bfloat16 as integers, so without a
# GPU that dtype is compiled and not run.)
DTYPES: dict[torch.dtype, str] = {torch.float64: "fp64", torch.float32: "fp32"}


def assert_close(actual: Any, reference: Any, dtype: torch.dtype) -> None:
    """Hold `actual`, which was computed in `dtype`, to a float64 reference; NaN anywhere is a failure."""
    values, expected = torch.as_tensor(actual), torch.as_tensor(reference)
    assert values.dtype == dtype, f"computed in {values.dtype} instead of {dtype}"
    assert expected.dtype == torch.float64, f"a reference must be float64, not {expected.dtype}"
    error, limit = relative_error(values, expected), tolerance("output", DTYPES[dtype])
    assert error <= limit, f"off by {error:.2e} of the largest value, not {limit:.0e}"


def assert_near(actual: Any, reference: Any, compared: Compared = "output") -> None:
    """Hold float32 values to the tolerance of what is compared."""
    error, limit = relative_error(actual, reference), tolerance(compared, "fp32")
    assert error <= limit, f"off by {error:.2e} of the largest value, not {limit:.0e}"


def assert_same_result(actual: Result[Any] | FailedResult, reference: Result[Any] | FailedResult) -> None:
    """Hold the map and the score of a result to another's; p-value and verdict are equal."""
    assert_near(actual.map, reference.map)
    assert_near(actual.score, reference.score)
    assert (actual.p_value, actual.is_anomalous) == (reference.p_value, reference.is_anomalous)
