"""The Triton kernels: in the interpreter they are the loop, and they compile for every GPU without spilling."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from typing import Any

import pytest
import torch

from glance_fast.backends.tolerances import relative_error, tolerance
from glance_fast.dense.triton_pass import CONV_POOL_KERNEL, TritonPass
from glance_fast.kernels.gpu.configurations import override_options, tuning_key
from glance_fast.models.global_net import global_layers
from glance_fast.plan.layer import conv, pool
from tests.helpers.compilers import DEVICE, KERNELS, compile_in_process
from tests.helpers.dense_cases import DenseCase, dense_case, hole_grid
from tests.helpers.tolerances import assert_close

CASES: dict[str, Callable[[], DenseCase]] = {
    "odd": lambda: dense_case(global_layers((4, 5, 6), 1), (21, 26), 8, hole_grid((21, 26), 8, 6)),
    "batch, read-out": lambda: dense_case(global_layers((5, 7), 1), (19, 23), 7, ([0, 12], [0, 7, 16]), 2, 2),
    "two convolutions": lambda: dense_case(global_layers((4, 6), 2), (17, 19), 6, hole_grid((17, 19), 6, 5)),
    "corners": lambda: dense_case(global_layers((4, 5, 6), 1), (18, 21), 6, ([0, 5, 12], [0, 15])),
    "beyond the borders": lambda: dense_case(global_layers((4, 5), 1), (16, 17), 7, ([-6, 3, 14], [-3, 12])),
    "other kernels": lambda: dense_case(
        [conv(4, 5), pool(4, 3), conv(6, 1), conv(5)], (18, 23), 7, ([0, 11], [0, 9, 16]), 2
    ),
    "pool first": lambda: dense_case([pool(3), conv(4), pool(4), conv(4)], (19, 18), 6, hole_grid((19, 18), 6, 4)),
    "more than a block of channels": lambda: dense_case([conv(40), pool(40), conv(130)], (8, 8), 3, ([0, 4], [2])),
    "no entry": lambda: dense_case(global_layers((4,), 1), (16, 16), 16, ([0], [0])),
}


def run(case: DenseCase, dtype: torch.dtype) -> torch.Tensor:
    net = case.net.float()
    try:
        return TritonPass(case.plan, net, DEVICE, dtype)(case.images.to(DEVICE, dtype)).cpu()
    finally:
        case.net.cpu().double()


@pytest.mark.parametrize("name", CASES)
def test_the_kernels_are_the_loop(name: str) -> None:
    case = CASES[name]()
    assert_close(run(case, torch.float32), case.loop(), torch.float32)


JOINED_CASES: dict[str, Callable[[], DenseCase]] = {
    **{name: CASES[name] for name in ("odd", "two convolutions", "corners", "pool first")},
    "beyond the borders": lambda: dense_case(global_layers((4, 5, 6), 1), (16, 21), 7, ([-6, 3, 14], [-3, 12])),
    "other windows": lambda: dense_case(
        [conv(4, 5), conv(6), pool(6, 3), conv(5)], (18, 23), 7, ([0, 11], [0, 9, 16]), 2
    ),
    "more than a block of channels": lambda: dense_case(
        [conv(3), conv(70), pool(70), conv(5)], (12, 12), 5, ([0, 4], [2]), 2
    ),
    "batch, read-out": lambda: dense_case(global_layers((5, 7, 6), 1), (19, 23), 7, ([0, 12], [0, 7, 16]), 2, 2),
    "no entry": lambda: dense_case(global_layers((4, 5, 6), 1), (16, 16), 16, ([0], [0])),
}


@pytest.mark.parametrize("name", JOINED_CASES)
def test_pooling_in_the_convolutions_launch_is_the_loop(name: str) -> None:
    case = JOINED_CASES[name]()
    with joined(case, torch.float32):
        assert_close(run(case, torch.float32), case.loop(), torch.float32)


@pytest.mark.parametrize("dtype", [torch.float16], ids=str)
def test_pooling_in_the_convolutions_launch_is_near_the_loop_at_lower_precision(dtype: torch.dtype) -> None:
    case = CASES["odd"]()
    with joined(case, dtype):
        actual = relative_error(run(case, dtype), case.loop())
    assert tolerance("output", "fp32") < actual < tolerance("output", "fp16")


@contextmanager
def joined(case: DenseCase, dtype: torch.dtype) -> Iterator[None]:
    """Meanwhile the table of configurations says that every convolution is faster with its pooling in one launch."""
    steps = case.plan.steps
    keys = {tuning_key(CONV_POOL_KERNEL, step.channels, DEVICE, dtype) for step in steps if step.layer.kind == "conv"}
    with ExitStack() as stack:
        for key in keys:
            stack.enter_context(override_options(key, {"num_warps": 8, "BLOCK_M": 32}))
        launches = TritonPass(case.plan, case.net.float(), DEVICE, dtype).launches
        case.net.double()
        assert any(launch.kernel == CONV_POOL_KERNEL for launch in launches)
        yield


@pytest.mark.parametrize("dtype", [torch.float16], ids=str)
def test_the_kernels_are_near_the_loop_at_lower_precision(dtype: torch.dtype) -> None:
    case = CASES["odd"]()
    actual = relative_error(run(case, dtype), case.loop())
    assert tolerance("output", "fp32") < actual < tolerance("output", "fp16")


@pytest.mark.parametrize(
    "field, part, value",
    [
        ("row_taps", (..., 1), 0), ("col_taps", (..., 1), 0), ("row_taps", (..., 2), 1), ("col_taps", (..., 3), 0),
        ("row_keys", (..., 0), 0), ("row_keys", (..., 2), 0), ("col_keys", (..., 2), 0), ("block_offsets", ..., 0),
    ],
)  # fmt: skip
def test_a_wrong_table_is_noticed(field: str, part: Any, value: int) -> None:
    """Values that lead to other rows of the tables, never beyond them: what lies there may be anything."""
    case = dense_case(global_layers((4, 5), 1), (17, 19), 6, ([3, 7], [2, 9]))
    kernels = TritonPass(case.plan, case.net.float(), DEVICE, torch.float32)
    getattr(kernels.tables[2], field)[part] = value
    actual = kernels(case.images.to(DEVICE, torch.float32)).cpu()
    case.net.cpu().double()
    assert relative_error(actual, case.loop()) > 100 * tolerance("output", "fp32")


# Registers beyond which fewer than two programs of four warps fit an SM, and the shared memory of the smallest target.
MAX_REGISTERS, MAX_SHARED = 255, {75: 64 * 1024, 86: 99 * 1024, 89: 99 * 1024, 120: 99 * 1024}
# Sizes were chosen so that Triton 3.7 spills nothing; 3.6 was seen to spill 8 to 48 bytes in two kernels.
MAX_SPILLED = 0 if version("triton").startswith("3.7.") else 64


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The rows of `bench.compile_kernels` for a part of each kind and all targets, and of products in float32."""
    code = (
        "import json\nfrom dataclasses import asdict\n"
        "from bench.compile_kernels import SAMPLES, TARGETS, compile_part\n"
        "jobs = [(part, 'fp16', target) for part in SAMPLES for target in TARGETS]\n"
        "jobs += [(part, 'fp32', 100) for part in SAMPLES[:2]]\n"
        "print(json.dumps([asdict(row) for job in jobs for row in compile_part(*job)]))"
    )
    rows: list[dict[str, Any]] = compile_in_process(["-c", code], tmp_path_factory.mktemp("cache"))
    return rows


@pytest.mark.parametrize("target", [75, 80, 86, 89, 90, 100, 120])
def test_kernels_compile_for_every_gpu_without_spills_and_use_its_tensor_cores(
    target: int, compiled: list[dict[str, Any]]
) -> None:
    rows = [row for row in compiled if row["target"] == target and row["dtype"] == "fp16"]
    assert {row["kernel"] for row in rows} == {kernel for kernels in KERNELS.values() for kernel in kernels}
    for row in rows:
        assert row["spilled_bytes"] <= MAX_SPILLED and 0 < row["registers"] <= MAX_REGISTERS
        assert row["shared_bytes"] <= MAX_SHARED.get(target, 160 * 1024)
    if target >= 80:
        assert all(row["matrix_instructions"] for row in rows if row["kernel"] != "pool_kernel")


def test_float32_products_of_pixels_are_not_taken_in_tf32(compiled: list[dict[str, Any]]) -> None:
    """Where Triton would, for values that came from 8 bits."""
    rows = [row for row in compiled if row["dtype"] == "fp32"]
    assert {"pixel_conv_kernel", "pixel_base_kernel", "pixel_entries_kernel"} <= {row["kernel"] for row in rows}
    assert not any(row["matrix_instructions"] for row in rows)
