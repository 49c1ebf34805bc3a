"""The grids that a model is calibrated on: all normal images, each as if its locations' statistics had not seen it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from glance_fast.backends.tolerances import relative_error
from glance_fast.backends.torch_backend import TorchBackend
from glance_fast.models.model import GlanceModel
from glance_fast.teachers import Teacher
from glance_fast.training import calibration_grids as module
from glance_fast.training.base_stage import Context
from glance_fast.training.calibration_grids import calibration_grids, score_lower
from glance_fast.training.dad_stage import DadStage
from glance_fast.training.dataset import Split
from glance_fast.training.global_stage import GlobalNetStage
from tests.helpers.models import tiny_config
from tests.helpers.training import TRAIN, stage_context

COUNT, HELD_OUT = 16, 4


def whitened(teacher: Teacher) -> tuple[Context, Split]:
    """A context whose statistics are fitted to all images, and the images that they are fitted to."""
    photos = np.random.default_rng(5).integers(0, 256, (COUNT, 48, 56, 3)).astype(np.uint8)
    train = TRAIN.model_copy(update={"whitening_pooling": 0.0, "whitening_shrinkage": 1e-4})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GlanceModel(tiny_config(location_whitening=True, iad_weight=1.0))
    context = replace(stage_context(teacher, train), model=model, photos=photos[HELD_OUT:], statistics_photos=photos)
    finalize(context)
    return context, Split(photos[HELD_OUT:], photos[:HELD_OUT], photos, "")


def finalize(context: Context) -> None:
    GlobalNetStage(context, 1).finalize_statistics(lambda items: items)
    DadStage(context, 1).finalize_statistics(lambda items: items)


def test_an_image_is_scored_as_by_statistics_that_never_saw_it(teacher: Teacher) -> None:
    context, split = whitened(teacher)
    model, grids = context.model, calibration_grids(context, split)
    assert grids.shape == (COUNT, 5, 6)
    assert grids.dtype == np.float32
    offset, scale = model.score_offset.clone(), model.score_scale.clone()
    seen = TorchBackend(model.eval(), context.device).grids(list(split.statistics[:1]))[0]
    finalize(replace(context, statistics_photos=split.statistics[1:]))
    model.score_offset.copy_(offset)
    model.score_scale.copy_(scale)
    new = TorchBackend(model.eval(), context.device).grids(list(split.statistics[:1]))[0]
    # ε is that of one image less.
    assert relative_error(grids[0], new) < 0.05
    assert relative_error(grids[0], seen) > 0.2


def test_images_of_another_folder_are_scored_as_the_engine_scores_them(teacher: Teacher) -> None:
    context, split = whitened(teacher)
    other = Split(split.statistics, split.held_out, split.statistics, "")
    expected = TorchBackend(context.model.eval(), context.device).grids(list(split.held_out))
    assert np.array_equal(calibration_grids(context, other), torch.stack(list(expected)).numpy())


def test_images_that_the_networks_remember_are_not_calibrated_on(
    teacher: Teacher, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    context, split = whitened(teacher)
    everything = calibration_grids(context, split)
    remembered = everything.copy()
    remembered[HELD_OUT:] -= 100
    monkeypatch.setattr(module, "_left_out", lambda context: remembered)
    with caplog.at_level("INFO"):
        assert np.array_equal(calibration_grids(context, split), everything[:HELD_OUT])
    assert "on the 4 held-out images alone" in caplog.text


def test_a_rank_test_tells_lower_scores_from_equal_ones() -> None:
    rng = np.random.default_rng(0)
    others = list(rng.normal(size=20))
    assert score_lower(list(rng.normal(size=100) - 2), others)
    assert not score_lower(list(rng.normal(size=100) + 2), others)
    wrong = sum(score_lower(list(rng.normal(size=100)), list(rng.normal(size=20))) for _ in range(400))
    assert wrong < 400 * 2 * module.MEMORY_LEVEL
