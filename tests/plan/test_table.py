"""The tables of a plan: their keys against masks in two dimensions, their invariants."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from glance_fast.models.global_net import global_layers
from glance_fast.plan.axis import readout_cells
from glance_fast.plan.plan import Plan, refine_bands
from tests.helpers.plan_masks import (
    PLANS,
    bounds,
    entries_by_masks,
    entries_of,
    grid_plan,
    nearest_cells,
    padded_plan,
    receptive_fields,
    refined_plan,
    window,
)


@pytest.mark.parametrize("min_keys", [0, 1, 3, 12])
@pytest.mark.parametrize("name", PLANS)
def test_entries_are_the_distinct_keys_that_masks_give(name: str, min_keys: int) -> None:
    layers, plan = PLANS[name][0], refined_plan(name, min_keys)
    expected = entries_by_masks(layers, plan)
    assert expected[0] == set(), "a pixel is covered or not"
    for step, keys in zip(plan.steps, expected[1:], strict=True):
        actual = entries_of(step)
        assert len(actual) == len(set(actual)) == step.table.entries == len(keys)
        assert set(actual) == keys


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
    plan = grid_plan(layers, (height, width), patch, stride, readout)
    expected = entries_by_masks(layers, plan)
    for actual in (plan, refine_bands(plan, data.draw(st.integers(1, 4)))):
        assert [set(entries_of(step)) for step in actual.steps] == expected[1:]


@pytest.mark.parametrize("min_keys", [0, 1, 3, 12])
@pytest.mark.parametrize("name", PLANS)
def test_invariants_of_tables(name: str, min_keys: int) -> None:
    plan = refined_plan(name, min_keys)
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
def test_a_base_index_is_the_entry_without_its_hole(name: str, min_keys: int) -> None:
    for step in refined_plan(name, min_keys).steps:
        cells = [(y, x) for y, x, _, _ in entries_of(step)]
        assert step.table.base_index().tolist() == [y * step.table.base_shape[1] + x for y, x in cells]


@pytest.mark.parametrize("min_keys", [0, 1, 3, 12])
@pytest.mark.parametrize("name", PLANS)
def test_a_convolution_reads_changes_where_the_hole_meets_its_window_and_nowhere_else(name: str, min_keys: int) -> None:
    layers, plan = PLANS[name][0], refined_plan(name, min_keys)
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
            field = bounds(fields[level + 1][y, x])
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


def test_a_refined_plan_leaves_out_dead_taps_and_aligns_what_pools_read() -> None:
    plan = grid_plan(global_layers((8, 8, 8, 8, 8), 1), (256, 256), 32, 8)
    actual = refine_bands(plan)
    assert actual.macs < 0.9 * plan.macs
    assert runs_of(plan) < 0.1 < 0.6 < runs_of(actual)


@pytest.mark.parametrize("name", PLANS)
def test_the_readout_reads_every_entry_of_the_last_table(name: str) -> None:
    plan = grid_plan(*PLANS[name])
    last = plan.steps[-1].table
    assert plan.readout.shape[0] == plan.locations == len(plan.holes_y) * len(plan.holes_x)
    read = set(plan.readout[(plan.readout >= last.base) & (plan.readout < last.zero)].tolist())
    assert read == set(range(last.base, last.zero))
    assert plan.readout.min() >= 0 and plan.readout.max() <= last.zero


@given(st.integers(1, 64), st.integers(1, 4), st.integers(1, 5), st.integers(5, 16), st.integers(0, 100))
def test_readout_cells_are_the_nearest(patch: int, readout: int, halvings: int, size: int, start: int) -> None:
    actual = readout_cells([start], patch, readout, 2**halvings, size)[0]
    assert actual.tolist() == [*nearest_cells(start, patch, readout, 2**halvings, size)]
