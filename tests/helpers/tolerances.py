"""How close a fast path must come to its float64 reference: one table for all tests, never loosened in CI."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

# Largest deviation allowed, relative to the largest absolute value of the reference.
TOLERANCES: dict[torch.dtype, float] = {torch.float64: 1e-10, torch.float32: 1e-5}
# The same for Global-Net in kernels at lower precision, which add up in float32. (Triton's interpreter multiplies the
# bits of bfloat16 as integers, so without a GPU that dtype is compiled and not run.)
KERNEL_TOLERANCES: dict[torch.dtype, float] = {torch.float16: 5e-3}
# The same for exports at lower precision: of whole pipelines with random weights, which amplify more than trained ones.
EXPORT_TOLERANCES: dict[str, float] = {"bf16": 5e-2, "fp16": 5e-3, "int8": 0.2}


def deviation(actual: Any, reference: Any) -> float:
    """Largest deviation from a reference, over the reference's largest absolute value; arrays or tensors."""
    given, expected = (np.asarray(torch.as_tensor(values).detach(), np.float64) for values in (actual, reference))
    assert given.shape == expected.shape, f"shape {given.shape} instead of {expected.shape}"
    assert given.size, "nothing to compare"
    largest = float(np.abs(expected).max())
    assert largest > 0, "a reference of zeros could not tell right from wrong"
    return float(np.abs(given - expected).max()) / largest


def assert_close(actual: Any, reference: Any, dtype: torch.dtype) -> None:
    """Hold `actual`, which was computed in `dtype`, to a float64 reference; NaN anywhere is a failure."""
    given, expected = torch.as_tensor(actual), torch.as_tensor(reference)
    assert given.dtype == dtype, f"computed in {given.dtype} instead of {dtype}"
    assert expected.dtype == torch.float64, f"a reference must be float64, not {expected.dtype}"
    found = deviation(given, expected)
    assert found <= TOLERANCES[dtype], f"off by {found:.2e} of the largest value, not {TOLERANCES[dtype]:.0e}"
