"""The self-check: every engine repeats scores that were saved with the model, so it computes what was trained.

Its images are a normal photograph, half covered by noise of several scales, and the negative of that. A photograph
alone would not do: its scores are small differences of large numbers, so healthy exports differ by more than the
tolerance (2e-5 of the largest score in float32, 0.2 in fp16, on metal parts; with noise 3e-7 and 3e-3). The negative
reaches units that the first leaves dead: of 364 random damages to a small model that moved the scores of another
photograph by more than 1e-5, the first image misses 5, by up to 1e-2, and both miss one, of 1.04e-5.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from glance_fast.backends.tolerances import relative_error, tolerance
from glance_fast.errors import BackendError, ModelFolderError
from glance_fast.storage.export_record import RUNTIME_FORMAT, export_command
from glance_fast.storage.model_folder import ModelFiles
from glance_fast.storage.self_check import SelfCheck

if TYPE_CHECKING:
    from glance_fast.models.model import GlanceModel

NOISE_SCALES = (1, 2, 4, 8, 16, 32)  # pixels
NOISE_STD = 64  # grey levels

Grids = Callable[[Sequence[Any]], Sequence[Any]]

log = logging.getLogger("glance_fast")


def make_self_check(model: GlanceModel, photo: NDArray[np.uint8]) -> SelfCheck:
    """The self-check of a model, from a normal photograph uint8 [H, W, 3] at its size; computed on the CPU."""
    from glance_fast.backends.torch_backend import TorchBackend

    image, backend = _covered(photo), TorchBackend(copy.deepcopy(model).eval())
    images = np.stack([image, 255 - image])
    return SelfCheck(images, _grids(backend.grids, images))


def _grids(grids: Grids, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Score grids of images, one at a time: a batch would take more memory than an image needs."""
    each = [grids([image])[0] for image in images]
    return np.stack([grid.cpu().numpy() if hasattr(grid, "cpu") else grid for grid in each])


def _covered(photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The mean of a photograph and noise of all scales."""
    rng, noise = np.random.default_rng(0), np.zeros(photo.shape)
    for scale in NOISE_SCALES:
        squares = rng.standard_normal((*(-(-side // scale) for side in photo.shape[:2]), 3))
        noise += squares.repeat(scale, 0).repeat(scale, 1)[: photo.shape[0], : photo.shape[1]]
    noise = (128 + NOISE_STD / noise.std() * noise).clip(0, 255)
    covered: NDArray[np.uint8] = ((photo + noise) / 2).astype(np.uint8)
    return covered


def require_self_check(files: ModelFiles, grids: Grids, backend: str, precision: str) -> None:
    """Raise ModelFolderError unless `grids`, of an engine with this backend, repeats the scores of the self-check.

    In a folder without one an image of zeros must be scored, whatever the scores are. Raises what `grids` raises.
    """
    check = files.self_check()
    if check is None:
        log.info("%s has format %d, which has no self-check: train it again for one", files.path, files.written_as)
        grids([np.zeros((*files.model.image_size, 3), np.uint8)])
        return
    actual, limit = _grids(grids, check.image), tolerance("trained map", precision)
    try:
        error = relative_error(actual, check.grid)
    except BackendError as failure:
        raise ModelFolderError(f"{files.path}: self-check: {failure}; {_remedy(files, backend, precision)}") from None
    if error > limit:
        raise ModelFolderError(
            f"{files.path}: {backend} at {precision} does not repeat the scores that the model was saved with: they "
            f"differ by {error:.1e} of the largest, and {limit:.0e} is legal; {_remedy(files, backend, precision)}"
        )


def _remedy(files: ModelFiles, backend: str, precision: str) -> str:
    instead = "or this machine or runtime computes otherwise: try another backend, version or machine"
    if backend in RUNTIME_FORMAT:
        again = export_command(files.path, RUNTIME_FORMAT[backend], precision)
        return f"the export is damaged or stale (make it again with: {again}), {instead}"
    return f"the weights are damaged (restore the folder from a copy, or train the model again), {instead}"
