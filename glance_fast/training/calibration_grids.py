"""Score grids of the normal images that a model is calibrated on, each as a new image of the same source would have.

Statistics of locations are fitted to all normal images, and each is whitened as if it had been left out of them. The
networks saw seven images in eight. Where that shows, as those score lower than the ones held out of training, only the
latter are calibrated on.
"""

from __future__ import annotations

import logging

import numpy as np
import torch
from numpy.typing import NDArray

from glance_fast.backends.torch_backend import TorchBackend
from glance_fast.data.batches import batched
from glance_fast.dense.strip_pass import make_pass
from glance_fast.postprocessing.anomaly_map import image_score
from glance_fast.training.base_stage import Context
from glance_fast.training.dataset import Split

# Trained images score lower when a rank test says so at this level: it is wrong in as many runs where they do not.
MEMORY_LEVEL = 0.05

Grids = NDArray[np.float32]

log = logging.getLogger("glance_fast")


def calibration_grids(context: Context, split: Split) -> Grids:
    """The grids [n, gy, gx] of all normal images, or of those that were held out of training alone."""
    if context.model.whitening is None or split.other_calibration:
        return _scored(context, split.held_out)
    grids = _left_out(context)
    held_out = len(split.held_out)  # they come first
    scores = [image_score(grid, context.model.config.top_k) for grid in grids]
    if not score_lower(scores[held_out:], scores[:held_out]):
        log.info("calibration: on all %d normal images", len(grids))
        return grids
    log.info(
        "calibration: on the %d held-out images alone, as the networks score the %d that they were trained on lower",
        held_out, len(grids) - held_out,
    )  # fmt: skip
    return grids[:held_out]


def score_lower(scores: list[float], others: list[float]) -> bool:
    """Whether `scores` are lower than `others`, by the one-sided rank test of Mann, Whitney and Wilcoxon."""
    from scipy.stats import mannwhitneyu

    return bool(mannwhitneyu(scores, others, alternative="less").pvalue < MEMORY_LEVEL)


def _scored(context: Context, photos: NDArray[np.uint8]) -> Grids:
    """As `Engine.score` computes them."""
    backend = TorchBackend(context.model.eval(), context.device)
    return np.stack([grid.cpu().numpy() for batch in batched(photos) for grid in backend.grids(list(batch))])


@torch.inference_mode()
def _left_out(context: Context) -> Grids:
    """Of the images that the statistics were fitted to, each without itself."""
    model = context.model.eval()
    dense = make_pass(model.compile_plan(), context.device)
    grids = []
    for photos in context.statistics_batches():
        scores = model.combine(*model.left_out_scores(*dense.features(model, context.network_input(photos))))
        grids.append(scores.reshape(len(photos), *map(len, model.grid)).cpu().numpy())
    return np.concatenate(grids)
