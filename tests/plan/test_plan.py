"""The plan: its keys against 2-D masks, its tables' invariants, its costs against counts, its errors."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from glance_fast.dense.loop import LoopPass
from glance_fast.dense.torch_pass import DensePass
from glance_fast.errors import ConfigError
from glance_fast.models.global_net import GlobalNet, global_layers
from glance_fast.plan.axis import readout_cells
from glance_fast.plan.layer import OUTSIDE, Layer, conv, pool
from glance_fast.plan.patches import grid_starts
from glance_fast.plan.plan import Plan, compile_plan, refine_bands
from glance_fast.plan.step import Step
from tests.helpers.models import tiny_model

Key = tuple[int, int, tuple[int, int], tuple[int, int]]
Masks = NDArray[np.bool_]


def receptive_fields(layers: Sequence[Layer], size: tuple[int, int]) -> list[Masks]:
    """For each level, which pixels each cell sees, by growing masks in two dimensions: bool [h, w, H, W]."""
    count = size[0] * size[1]
    fields = [np.eye(count, dtype=bool).reshape(*size, *size)]
    for layer in layers:
        height, width = (layer.size(side) for side in fields[-1].shape[:2])
        grown = np.zeros((height, width, *size), bool)
        for y, x in product(range(height), range(width)):
            for below in window(layer, (y, x), fields[-1].shape):
                grown[y, x] |= fields[-1][below]
        fields.append(grown)
    return fields


def window(layer: Layer, cell: tuple[int, int], below: Sequence[int]) -> list[tuple[int, int]]:
    """The cells inside the level below that a cell reads."""
    spans = [range(c * layer.stride - layer.pad, c * layer.stride - layer.pad + layer.kernel) for c in cell]
    return [(y, x) for y, x in product(*spans) if 0 <= y < below[0] and 0 <= x < below[1]]


def nearest(start: int, patch: int, readout: int, stride: int, size: int) -> range:
    """The run of `readout` cells whose middle is nearest the hole's, the later of two as near."""
    firsts = range(size - readout + 1)
    away = [abs((first + readout / 2) * stride - (start + patch / 2)) for first in firsts]
    first = max(f for f in firsts if away[f] == min(away))
    return range(first, first + readout)


def box(mask: Masks) -> tuple[tuple[int, int], tuple[int, int]]:
    """First and one past the last row and column of a mask that is a full rectangle."""
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    found = (int(rows[0]), int(rows[-1]) + 1), (int(cols[0]), int(cols[-1]) + 1)
    assert mask.sum() == (found[0][1] - found[0][0]) * (found[1][1] - found[1][0])
    return found


def entries_by_masks(layers: Sequence[Layer], plan: Plan) -> list[set[Key]]:
    """The distinct (cell, I) of each level, pixels first, found by walking down from every location alone."""
    fields = receptive_fields(layers, plan.image_size)
    stride = int(np.prod([layer.stride for layer in layers]))
    side = int(np.sqrt(plan.readout.shape[1]))
    entries: list[set[Key]] = [set() for _ in fields]
    for start in product(plan.holes_y, plan.holes_x):
        hole = np.zeros(plan.image_size, bool)
        last = (max(start[0] + plan.patch, 0), max(start[1] + plan.patch, 0))
        hole[max(start[0], 0) : last[0], max(start[1], 0) : last[1]] = True
        rows, cols = (nearest(start[a], plan.patch, side, stride, fields[-1].shape[a]) for a in (0, 1))
        needed = set(product(rows, cols))
        for level in range(len(layers), -1, -1):
            for cell in needed:
                seen = fields[level][cell] & hole
                if seen.any() and (seen != fields[level][cell]).any():
                    entries[level].add((cell[0], cell[1], *box(seen)))
            if level:
                below = fields[level - 1].shape
                needed = {read for cell in needed for read in window(layers[level - 1], cell, below)}
    return entries


def entries_of(step: Step) -> list[Key]:
    """The keys of a table's entries in the order of its rows."""
    rows, cols = step.table.rows, step.table.cols
    every = np.arange(max(len(rows), len(cols)))
    pairs = [pair for row, col in step.table.bands for pair in product(every[row.keys], every[col.keys])]
    return [
        (int(rows.cell[r]), int(cols.cell[c]), (int(rows.hole[r, 0]), int(rows.hole[r, 1])), (int(a), int(b)))
        for r, c in pairs
        for a, b in [cols.hole[c]]
    ]


def compiled(layers: Sequence[Layer], size: tuple[int, int], patch: int, stride: int, readout: int = 1) -> Plan:
    holes = (grid_starts(size[0], patch, stride), grid_starts(size[1], patch, stride))
    return compile_plan(layers, size, patch, holes, readout)


def padded_plan(layers: Sequence[Layer], size: tuple[int, int], patch: int, stride: int) -> Plan:
    """Holes that reach beyond every border by up to a pixel less than a whole patch."""
    holes = [range(1 - patch, side, stride) for side in size]
    return compile_plan(layers, size, patch, (holes[0], holes[1]))


PLANS: dict[str, tuple[list[Layer], tuple[int, int], int, int, int]] = {
    "odd": (global_layers((4, 5, 6), 1), (17, 22), 6, 3, 1),
    "two convolutions": (global_layers((4, 5, 6), 2), (16, 19), 5, 4, 2),
    "every pixel": (global_layers((4, 5), 1), (12, 13), 4, 1, 1),
    "large patch": (global_layers((4, 5, 6), 1), (20, 16), 12, 4, 2),
    "blind": (global_layers((4,), 1), (14, 15), 8, 3, 1),
    "other kernels": ([conv(4, 5), pool(4, 3), conv(6, 1), conv(5)], (18, 23), 7, 4, 2),
    "pool first": ([pool(3), conv(4), pool(4), conv(4)], (19, 18), 6, 4, 1),
}


def plan_of(name: str, min_keys: int) -> Plan:
    """One of PLANS, as it is where `min_keys` is 0, or refined; from 4 on small bands are joined."""
    plan = compiled(*PLANS[name])
    return refine_bands(plan, min_keys) if min_keys else plan


@pytest.mark.parametrize("min_keys", [0, 1, 3, 12])
@pytest.mark.parametrize("name", PLANS)
def test_entries_are_the_distinct_keys_found_by_masks(name: str, min_keys: int) -> None:
    layers, plan = PLANS[name][0], plan_of(name, min_keys)
    expected = entries_by_masks(layers, plan)
    assert expected[0] == set(), "a pixel is covered or not"
    for step, keys in zip(plan.steps, expected[1:], strict=True):
        found = entries_of(step)
        assert len(found) == len(set(found)) == step.table.entries == len(keys)
        assert set(found) == keys


@pytest.mark.parametrize("name", ["odd", "two convolutions", "other kernels", "pool first"])
def test_entries_of_holes_that_reach_beyond_the_image(name: str) -> None:
    layers, size, patch, stride, _ = PLANS[name]
    plan = padded_plan(layers, size, patch, stride)
    for step, keys in zip(plan.steps, entries_by_masks(layers, plan)[1:], strict=True):
        assert set(entries_of(step)) == keys


@settings(max_examples=25)
@given(st.integers(8, 14), st.integers(8, 14), st.integers(1, 8), st.integers(1, 5), st.integers(1, 2), st.data())
def test_entries_of_any_small_plan(
    height: int, width: int, patch: int, stride: int, convs: int, data: st.DataObject
) -> None:
    layers = global_layers((2,) * data.draw(st.integers(1, 3)), convs)
    readout = data.draw(st.integers(1, 2))
    plan = compiled(layers, (height, width), patch, stride, readout)
    expected = entries_by_masks(layers, plan)
    for found in (plan, refine_bands(plan, data.draw(st.integers(1, 4)))):
        assert [set(entries_of(step)) for step in found.steps] == expected[1:]


@pytest.mark.parametrize("min_keys", [0, 1, 3, 12])
@pytest.mark.parametrize("name", PLANS)
def test_invariants_of_tables(name: str, min_keys: int) -> None:
    plan = plan_of(name, min_keys)
    for i, step in enumerate(plan.steps):
        assert i == 0 or step.below is plan.steps[i - 1].table
        kernel, table, below = step.layer.kernel, step.table, step.below
        valid, first, read = step.valid_counts(), 0, set()
        assert len(valid) == table.zero and valid.min() >= 1 and valid.max() <= kernel**2
        for block in step.blocks():
            assert block.entries == slice(first, first + len(block.sources))
            first = block.entries.stop
            assert block.sources.min() >= 0 and block.sources.max() <= below.zero
            alive = valid[table.base :][block.entries]
            assert block.sources.shape[1] == len(block.taps) <= kernel**2
            assert min_keys or not block.recompute or len(block.taps) == kernel**2
            if block.recompute:
                # A dead tap that is left out would have read the zero row.
                np.testing.assert_array_equal(alive, (block.sources != below.zero).sum(axis=1))
                entries = block.sources[(block.sources >= below.base) & (block.sources < below.zero)] - below.base
            else:
                assert step.layer.kind == "conv" and len(block.taps) < kernel**2
                dead = ((block.sources >= below.entries) & (block.sources < below.zero)).sum(axis=1)
                np.testing.assert_array_equal(alive, valid[table.base_index()[block.entries]] - dead)
                entries = block.sources[block.sources < below.entries]
            read |= set(entries.tolist())
        assert first == table.entries
        numbers = range(below.entries)
        assert read.issuperset(numbers), "every entry is read by an entry"


@pytest.mark.parametrize("min_keys", [0, 1, 3, 12])
@pytest.mark.parametrize("name", PLANS)
def test_a_home_is_the_entry_without_its_hole(name: str, min_keys: int) -> None:
    for step in plan_of(name, min_keys).steps:
        cells = [(y, x) for y, x, _, _ in entries_of(step)]
        assert step.table.base_index().tolist() == [y * step.table.base_shape[1] + x for y, x in cells]


@pytest.mark.parametrize("min_keys", [0, 1, 3, 12])
@pytest.mark.parametrize("name", PLANS)
def test_a_convolution_reads_changes_where_the_hole_meets_its_window_and_nowhere_else(name: str, min_keys: int) -> None:
    layers, plan = PLANS[name][0], plan_of(name, min_keys)
    fields = receptive_fields(layers, plan.image_size)
    for level, step in enumerate(plan.steps):
        kernel = step.layer.kernel
        met, whole = np.zeros((step.table.entries, kernel**2), bool), np.zeros(step.table.entries, bool)
        for block in step.blocks():
            met[block.entries, list(block.taps)], whole[block.entries] = True, block.recompute
        if step.layer.kind == "pool":
            assert met.all()
            continue
        for entry, (y, x, rows, cols) in enumerate(entries_of(step)):
            hole = np.zeros(plan.image_size, bool)
            hole[slice(*rows), slice(*cols)] = True
            touched, live = np.zeros((kernel, kernel), bool), np.zeros((kernel, kernel), bool)
            for below in window(step.layer, (y, x), fields[level].shape):
                tap = below[0] - y + step.layer.pad, below[1] - x + step.layer.pad
                touched[tap] = (fields[level][below] & hole).any()
                live[tap] = (fields[level][below] & ~hole).any()
            field = box(fields[level + 1][y, x])
            # A key that is dead along an axis names all taps there, and so does one of a small band.
            exact = field[0] != rows and field[1] != cols and min_keys < 4
            if whole[entry] and min_keys:
                assert (met[entry] >= live.ravel()).all()
            else:
                assert (met[entry] == touched.ravel()).all() if exact else (met[entry] >= touched.ravel()).all()


def runs_of(plan: Plan) -> float:
    """The share of what pools read of entries that a band's tap reads from one entry to another without a gap."""
    counts = np.zeros(2)
    for step in plan.steps:
        if step.layer.kind == "pool" and step.table.entries:
            for read in (step.blocks()[0].sources[span] for span in step.table.spans):
                entries = read[:, (read >= step.below.base).all(axis=0) & (read < step.below.zero).all(axis=0)]
                counts += entries.size, entries[:, (np.diff(entries, axis=0) == 1).all(axis=0)].size
    return float(counts[1] / counts[0])


def test_a_split_plan_leaves_out_dead_taps_and_lines_up_what_pools_read() -> None:
    plan = compiled(global_layers((8, 8, 8, 8, 8), 1), (256, 256), 32, 8)
    found = refine_bands(plan)
    assert found.macs < 0.9 * plan.macs
    assert runs_of(plan) < 0.1 < 0.6 < runs_of(found)


@pytest.mark.parametrize("name", PLANS)
def test_the_readout_reads_every_entry_of_the_last_table(name: str) -> None:
    plan = compiled(*PLANS[name])
    last = plan.steps[-1].table
    assert plan.readout.shape[0] == plan.locations == len(plan.holes_y) * len(plan.holes_x)
    read = set(plan.readout[(plan.readout >= last.base) & (plan.readout < last.zero)].tolist())
    assert read == set(range(last.base, last.zero))
    assert plan.readout.min() >= 0 and plan.readout.max() <= last.zero


@given(st.integers(1, 64), st.integers(1, 4), st.integers(1, 5), st.integers(5, 16), st.integers(0, 100))
def test_readout_cells_are_the_nearest(patch: int, readout: int, halvings: int, size: int, start: int) -> None:
    found = readout_cells([start], patch, readout, 2**halvings, size)[0]
    assert found.tolist() == [*nearest(start, patch, readout, 2**halvings, size)]


def test_repeated_holes_cost_nothing() -> None:
    layers = global_layers((4, 5, 6), 1)
    once = compile_plan(layers, (30, 33), 8, ([2, 17], [5, 20]))
    again = compile_plan(layers, (30, 33), 8, ([17, 2, 17], [20, 5, 5]))
    assert (once.macs, once.bytes) == (again.macs, again.bytes)
    assert again.locations == 9
    rows = once.readout.reshape(2, 2)
    np.testing.assert_array_equal(again.readout.reshape(3, 3), rows[[1, 0, 1]][:, [1, 0, 0]])


def counted(run: str, convs: int, readout: int) -> tuple[int, Plan]:
    """Multiply-adds that torch counts in the convolutions' products of the loop or the dense pass."""
    layers = global_layers((4, 5, 6), convs)
    plan = compiled(layers, (21, 26), 8, 6, readout)
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
    plan = compiled(global_layers((4, 5), 1), (21, 26), 8, 6)
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
    plan = compiled(global_layers((32, 48, 64, 96, 128, 128), 1), (256, 256), 32, 8)
    assert plan.locations == 841
    assert sum(step.table.base for step in plan.steps) * plan.locations == 91_823_744
    assert f"{plan.macs / 1e9:.2f}" == "6.13" and f"{plan.loop_macs / 1e9:.2f}" == "412.71"


def test_str_is_a_table_with_totals() -> None:
    plan = compiled(global_layers((4, 5, 6), 1), (48, 40), 12, 4)
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


@pytest.mark.parametrize(
    "channels, patch, readout, blind",
    [((4,), 8, 1, 9), ((4, 4, 4), 8, 1, 0), ((4,), 8, 6, 9), ((4,), 8, 7, 0), ((4,), 2, 1, 0)],
)
def test_blind_counts_locations_that_see_nothing(
    channels: tuple[int, ...], patch: int, readout: int, blind: int
) -> None:
    holes = ([4, 10, 20], [4, 10, 20])
    plan = compile_plan(global_layers(channels, 1), (32, 32), patch, holes, readout)
    assert plan.blind() == blind


def test_blind_counts_some_of_the_locations() -> None:
    """At a border the field is cut off: only there the hole covers it."""
    torch.manual_seed(0)
    plan = compile_plan(global_layers((4, 4, 4), 1), (48, 48), 20, ([0, 14], [0, 14]))
    net = GlobalNet(global_layers((4, 4, 4), 1), 5).double()
    with torch.no_grad():
        found = LoopPass(plan)(net, torch.randn(1, 3, 48, 48, dtype=torch.float64))[0]
    nothing = int((found == net.project.bias).all(dim=1).sum())
    assert plan.blind() == nothing
    assert 0 < nothing < plan.locations


def test_a_model_that_sees_nothing_is_refused_with_what_to_do() -> None:
    model = tiny_model(global_channels=(6,))
    with pytest.raises(ConfigError, match=r"at 30 of 30 locations the 16-pixel hole .* use more global_channels"):
        model.compile_plan()


@pytest.mark.parametrize("holes", [([], [0]), ([0], []), ([-8], [0]), ([0], [0, 20]), ([16], [0])], ids=str)
def test_impossible_holes_are_refused(holes: tuple[list[int], list[int]]) -> None:
    with pytest.raises(ConfigError, match=r"holes of 8 pixels must start from -7 to (15|19), got \["):
        compile_plan([conv(4)], (16, 20), 8, holes)


def test_impossible_layers_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"layer 1 \(pool\) has no cell left on an image of \(3, 20\)"):
        compile_plan([conv(4), pool(4, 4)], (3, 20), 2, ([0], [0]))
    with pytest.raises(ConfigError, match=r"the last level has \(4, 5\) cells, fewer than a read-out of 5"):
        compile_plan([pool(3, 4)], (16, 20), 8, ([0], [0]), readout=5)
    with pytest.raises(ConfigError, match=r"a pool keeps the channels .* got channels \[4, 5\]"):
        compile_plan([conv(4), pool(5)], (16, 20), 8, ([0], [0]))


@pytest.mark.parametrize("kind, channels, size", [(conv, 4, 2), (conv, 4, 0), (conv, 0, 3), (pool, 4, 1), (pool, 0, 2)])
def test_an_impossible_layer_is_refused(kind: Callable[[int, int], Layer], channels: int, size: int) -> None:
    with pytest.raises(ConfigError, match=rf"{kind.__name__} needs .*, got .*{size}, channels {channels}"):
        kind(channels, size)


def test_a_layer_reads_its_window() -> None:
    assert (conv(1).size(7), conv(1, 5).size(7), pool(1).size(7), pool(1, 3).size(7)) == (7, 7, 3, 2)
    cells = np.array([0, 6])
    assert conv(1).window(cells, 7).tolist() == [[OUTSIDE, 0, 1], [5, 6, OUTSIDE]]
    assert pool(1).window(np.array([2]), 7).tolist() == [[4, 5]]


def test_a_plan_is_compiled_without_torch() -> None:
    code = (
        "import sys; from glance_fast.plan.plan import compile_plan; from glance_fast.plan.layer import conv, pool\n"
        "print(compile_plan([conv(4), pool(4)], (16, 16), 8, ([0, 8], [4])).macs, 'torch' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split()[1] == "False"
