"""The stages: draws that repeat, their own parameters, and the labels of DAD."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from glance_fast.models.model import GlanceModel
from glance_fast.teachers import Teacher
from glance_fast.training import dad_stage
from glance_fast.training.base_stage import STAINED_PIXELS, balanced_bce
from glance_fast.training.distillation import FineTuningStage, compactness
from glance_fast.training.sampling import (
    FEATURE_SCALE_STREAM,
    draw_grid_subset,
    step_rng,
)
from glance_fast.training.schedule import build_stages
from tests.helpers.training import TRAIN, stage_context


def test_after_fine_tuning_the_features_have_mean_0_and_variance_1(teacher: Teacher) -> None:
    c = stage_context(teacher)
    stage = build_stages(c)[1]
    stage.finish()
    assert isinstance(stage, FineTuningStage)
    patches = c.model.normalise(stage.patches(step_rng(TRAIN.seed, FEATURE_SCALE_STREAM, 0, 0), c.photos))
    z = c.model.local_net(patches).flatten(1)
    assert z.mean().abs() < 0.5
    assert 0.3 < z.std(0).mean() < 2


@pytest.mark.parametrize("index", range(4))
def test_a_stage_trains_its_own_parameters_alone(teacher: Teacher, index: int) -> None:
    c = stage_context(teacher)
    stage = build_stages(c)[index]
    losses = stage(*stage.draw(step_rng(0, index, 0, 0)))
    torch.autograd.backward(torch.stack(list(losses.values())).sum())
    trained = {id(parameter) for parameter in stage.parameters()}
    everything = [*c.model.parameters(), *c.teacher.parameters()]
    assert all((p.grad is not None) == (id(p) in trained) for p in everything)
    assert all(p.grad is not None for p in stage.parameters())


def test_each_step_repeats_its_random_draws(teacher: Teacher) -> None:
    c = stage_context(teacher)
    for index in range(4):
        # Stages of their own, as DAD's keeps what it drew.
        first, second, other = (build_stages(c)[index].draw(step_rng(7, index, step, 0)) for step in (3, 3, 4))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        assert not torch.equal(first[0], other[0])


def test_dad_uses_samples_of_earlier_steps_also_in_a_resumed_run(teacher: Teacher) -> None:
    c = stage_context(teacher)
    whole, resumed = build_stages(c)[3], build_stages(c)[3]
    for step in range(3):
        whole.draw(step_rng(1, 3, step, 0))
    resumed.resume([step_rng(1, 3, step, 0) for step in range(3)])
    expected, actual = (stage.draw(step_rng(1, 3, 3, 0)) for stage in (whole, resumed))
    assert all(torch.equal(a, b) for a, b in zip(expected, actual, strict=True))
    assert not torch.equal(expected[0], build_stages(c)[3].draw(step_rng(1, 3, 3, 0))[0])


def test_a_full_pool_forgets_the_oldest_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dad_stage, "POOL_ROWS", 10)
    pool = dad_stage.SamplePool(1)
    assert len(pool.draw(5, np.random.default_rng(0))) == 0
    for first in range(0, 24, 4):
        pool.add(torch.arange(first, first + 4.0)[:, None])
    assert set(pool.draw(500, np.random.default_rng(0)).flatten().tolist()) == set(range(14, 24))


def test_a_change_belongs_to_the_location_whose_middle_is_nearest(teacher: Teacher) -> None:
    c = stage_context(teacher)
    subset = draw_grid_subset((5, 6), 9, np.random.default_rng(0))
    mask = np.zeros((48, 56), bool)
    mask[0, 0] = mask[20:22, 30] = mask[47, 55] = True
    changed = dad_stage._changed_per_location(c, mask, subset, 0).reshape(5, 6)
    # Middles lie at 8, 16, ... and each has the 8 pixels round it; the outermost have the border too.
    assert changed[0, 0] == 1 and changed[4, 5] == 1 and changed.sum() == 4
    assert changed[2, 3] == 2
    assert dad_stage._changed_per_location(c, mask, subset, 2).reshape(5, 6)[0, 3] == 2


def test_a_change_belongs_to_the_location_whose_offset_point_is_nearest(teacher: Teacher) -> None:
    c = stage_context(teacher)
    offset = replace(c, model=GlanceModel(c.model.config.model_copy(update={"center_offset": 3})))
    subset = draw_grid_subset((5, 6), 9, np.random.default_rng(0))
    mask = np.random.default_rng(1).random((48, 56)) < 0.2
    moved = np.pad(mask, ((3, 0), (3, 0)))[:48, :56]
    inner = (slice(1, 4), slice(1, 5))  # the outermost locations include the border
    expected = dad_stage._changed_per_location(c, moved, subset, 1).reshape(5, 6)[inner]
    np.testing.assert_array_equal(
        dad_stage._changed_per_location(offset, mask, subset, 1).reshape(5, 6)[inner], expected
    )


def test_compactness_is_the_mean_absolute_off_diagonal_correlation() -> None:
    z = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 5)) @ np.random.default_rng(1).normal(size=(5, 5)))
    correlation = np.abs(np.corrcoef(z.numpy().T))
    expected = (correlation.sum() - 5) / 20
    assert float(compactness(z)) == pytest.approx(expected)


def test_barely_stained_locations_are_neither_normal_nor_stained() -> None:
    logit = torch.tensor([2.0, 50.0, -1.0])
    changed = torch.tensor([0, STAINED_PIXELS - 1, STAINED_PIXELS])
    normal, stained = balanced_bce(logit, changed)
    assert float(normal) == pytest.approx(np.log1p(np.exp(-2.0)))
    assert float(stained) == pytest.approx(np.log1p(np.exp(-1.0)))
