"""The committed rows of `bench.compile_kernels`: every kernel, shape, dtype and target of now, within these limits."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bench.compile_kernels import DTYPES, TARGETS, ConvCase, Part, StemCase, parts
from glance_fast.plan.patches import IMAGE
from tests.helpers.compilers import KERNELS

ROWS = Path(__file__).resolve().parents[2] / "bench" / "results" / "kernels.jsonl"
# Registers per thread, shared memory per program: what every target has, and what a kernel gets there without asking.
MAX_REGISTERS, MAX_SHARED = 255, 48 * 1024


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]


def launched(part: Part) -> tuple[str, ...]:
    """The kernels that a part of a preset needs."""
    if isinstance(part, StemCase):
        return KERNELS["stem"]
    if isinstance(part, ConvCase):
        conditions = {"layer of pixels": part.before == IMAGE.channels, "layer and its pooling": part.pooled}
        return sum((KERNELS[name] for name, holds in conditions.items() if holds), KERNELS["layer"])
    return KERNELS["heads"]


def test_the_rows_are_the_kernels_that_the_presets_launch(rows: list[dict[str, Any]]) -> None:
    sizes = [(kernel, part.before, part.after) for part in parts() for kernel in launched(part)]
    due = Counter((*size, dtype, target) for size in sizes for dtype in DTYPES for target in TARGETS)
    names = ("kernel", "before", "after", "dtype", "target")
    assert Counter(tuple(row[name] for name in names) for row in rows) == due


def test_the_rows_are_within_the_limits(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert row["registers"] <= MAX_REGISTERS and row["shared_bytes"] <= MAX_SHARED, row
        assert row["spilled_bytes"] == 0, row


def test_half_floats_are_multiplied_by_tensor_cores(rows: list[dict[str, Any]]) -> None:
    products = [row for row in rows if row["kernel"] not in ("pool_kernel", "score_kernel")]
    half = [row for row in products if row["dtype"] != "fp32" and row["target"] > 75]
    assert half and all(row["matrix_instructions"] for row in half)


def test_float32_is_not_multiplied_by_tensor_cores_in_tf32(rows: list[dict[str, Any]]) -> None:
    assert not any(row["matrix_instructions"] for row in rows if row["dtype"] == "fp32")
