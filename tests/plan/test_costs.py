"""The costs of a plan against counts, and the table that shows them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from glance_fast.dense.loop import LoopPass
from glance_fast.dense.torch_pass import DensePass
from glance_fast.models.global_net import GlobalNet, global_layers
from glance_fast.plan.plan import Plan, compile_plan
from tests.helpers.plan_masks import (
    grid_plan,
)


def test_repeated_holes_cost_nothing() -> None:
    layers = global_layers((4, 5, 6), 1)
    distinct = compile_plan(layers, (30, 33), 8, ([2, 17], [5, 20]))
    repeated = compile_plan(layers, (30, 33), 8, ([17, 2, 17], [20, 5, 5]))
    assert (distinct.macs, distinct.bytes) == (repeated.macs, repeated.bytes)
    assert repeated.locations == 9
    rows = distinct.readout.reshape(2, 2)
    np.testing.assert_array_equal(repeated.readout.reshape(3, 3), rows[[1, 0, 1]][:, [1, 0, 0]])


def counted(run: str, convs: int, readout: int) -> tuple[int, Plan]:
    """Multiply-adds that torch counts in the convolutions' products of the loop or the dense pass."""
    layers = global_layers((4, 5, 6), convs)
    plan = grid_plan(layers, (21, 26), 8, 6, readout)
    net, image = GlobalNet(layers, 7, readout), torch.zeros(1, 3, 21, 26)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        if run == "loop":
            LoopPass(plan)(net, image)
        else:
            DensePass(plan)(net, image)
    # Beside them: sum(M), which the loop finds by a convolution of the mask, and the projection.
    cells = sum(step.table.base * 9 for step in plan.steps if step.layer.kind == "conv")
    masks = plan.locations * cells if run == "loop" else 0
    return counter.get_total_flops() // 2 - masks - plan.locations * net.project.weight.numel(), plan


@pytest.mark.parametrize("convs, readout", [(1, 1), (2, 3)])
def test_costs_are_those_that_are_counted(convs: int, readout: int) -> None:
    macs, plan = counted("dense", convs, readout)
    assert macs == plan.macs
    loop_macs, _ = counted("loop", convs, readout)
    assert loop_macs == plan.loop_macs > plan.macs


def test_bytes_are_those_that_are_read_and_written() -> None:
    plan = grid_plan(global_layers((4, 5), 1), (21, 26), 8, 6)
    first, pooled, last = plan.steps
    reads = [sum(block.sources.size for block in step.blocks()) for step in plan.steps]
    tables = [table.zero for table in plan.tables]
    # Windows of the base and of the entries, then results; a pool has no more.
    assert pooled.bytes == 4 * 4 * (4 * 130 + reads[1] + tables[2])
    # A convolution writes the base's sums, which its entries start from, and its changes: entries and their homes
    # read, the base read, all of them written.
    sums, moved = 546 + first.table.entries, 546 + 546
    assert first.bytes == 4 * (3 * (9 * 546 + reads[0] + moved) + 4 * (tables[1] + sums))
    sums, moved = 130 + last.table.entries, 3 * pooled.table.entries + 130 + 130
    assert last.bytes == 4 * (4 * (9 * 130 + reads[2] + moved) + 5 * (tables[3] + sums))
    assert plan.bytes == first.bytes + pooled.bytes + last.bytes
    assert plan.loop_bytes == 4 * plan.locations * (
        21 * 26 * (9 * 3 + 4) + 10 * 13 * (4 * 4 + 4) + 10 * 13 * (9 * 4 + 5)
    )


def test_the_default_plan_costs_what_the_docs_say() -> None:
    plan = grid_plan(global_layers((32, 48, 64, 96, 128, 128), 1), (256, 256), 32, 8)
    assert plan.locations == 841
    assert sum(step.table.base for step in plan.steps) * plan.locations == 91_823_744
    assert f"{plan.macs / 1e9:.2f}" == "6.13" and f"{plan.loop_macs / 1e9:.2f}" == "412.71"


def test_str_is_a_table_with_totals() -> None:
    plan = grid_plan(global_layers((4, 5, 6), 1), (48, 40), 12, 4)
    head, *rows, total, last = str(plan).splitlines()
    assert head.split() == ["layer", "cells", "base", "entries", "GMAC", "loop", "MB", "loop"]
    assert [row.split()[:2] for row in rows] == [[str(i), step.layer.kind] for i, step in enumerate(plan.steps)]
    assert rows[2].split()[2:4] == ["4→5", "24x20"]
    for step, row in zip(plan.steps, rows, strict=True):
        assert row.split()[4:6] == [f"{step.table.base:,}", f"{step.table.entries:,}"]
    sums = [sum(getattr(step.table, part) for step in plan.steps) for part in ("base", "entries")]
    assert total.split()[:3] == ["total", *(f"{count:,}" for count in sums)]
    assert len({len(line) for line in (head, *rows, total)}) == 1, "columns line up"
    assert "80 runs" in last and f"{plan.loop_macs / plan.macs:.1f} times the multiply-adds" in last
