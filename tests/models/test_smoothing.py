"""Smoothing of the grid: SciPy's Gaussian as a matrix."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from glance_fast.models.smoothing import blur_weights
from tests.helpers.tolerances import assert_near


@pytest.mark.parametrize("count, sigma", [(1, 0.75), (5, 0.5), (17, 0.75), (17, 2.0), (9, 6.0)])
def test_blur_weights_are_scipys_gaussian(count: int, sigma: float) -> None:
    values = np.random.default_rng(0).normal(size=count)
    expected = gaussian_filter1d(values, sigma, mode="nearest")
    assert_near(blur_weights(count, sigma) @ values, expected, "interpolation")


def test_no_blur_is_the_identity() -> None:
    np.testing.assert_array_equal(blur_weights(4, 0), np.eye(4))
