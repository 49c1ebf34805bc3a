"""The photographs of a run at the networks' input size: read once, checked before training."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import track

from glance_fast.config import ModelConfig, TrainConfig
from glance_fast.data.datasets import normal_images
from glance_fast.data.images import read_rgb, resize_rgb
from glance_fast.data.meaning import MIN_SURE_BITS, InputSettings, camera_bits
from glance_fast.data.prepare import too_small
from glance_fast.data.resizing import letterbox_window
from glance_fast.errors import DataError
from glance_fast.postprocessing.calibration import images_needed
from glance_fast.training.sampling import CALIBRATION_SPLIT_STREAM
from glance_fast.training.usable_photos import MIN_TRAINING_PHOTOS, Photos, Requirement, shared_photos, usable_photos

# A smaller network size is recommended where all images have one aspect ratio, up to this factor between the largest
# and the smallest, and where that size has less than this fraction of the model's pixels.
MAX_ASPECT_RATIO, MAX_FILLED, SIDE_MULTIPLE = 1.02, 0.9, 8

HIGHER_RATE = ", or ask for a higher false_alarm_rate"

log = logging.getLogger("glance_fast")


@dataclass(frozen=True)
class Split:
    """Normal images uint8 [n, H, W, 3]: those to train on, and those held out for calibration.

    `statistics`: those that statistics of locations are fitted to: all of the folder, in random order.
    """

    train: Photos
    held_out: Photos
    statistics: Photos
    fingerprint: str

    @property
    def other_calibration(self) -> bool:
        """Whether those held out are of another folder, so that no statistics were fitted to them."""
        return len(self.statistics) == len(self.train)


def read_split(folder: Path, model: ModelConfig, train: TrainConfig, calibration: Path | None = None) -> Split:
    """Read a folder's normal images and hold some out; raises DataError or ImageError before any training.

    With a folder of other normal images for `calibration`, those are held out and all of `folder` is trained on.
    """
    held_out_needed = images_needed(train.false_alarm_rate)
    rate = f"a false-alarm rate of {train.false_alarm_rate:g}"
    if calibration is not None:
        training = Requirement(MIN_TRAINING_PHOTOS, "training")
        photos, fingerprint = read_usable(folder, model, training)
        requirement = Requirement(held_out_needed, f"calibration to {rate}", HIGHER_RATE)
        held_out, other = read_usable(calibration, model, requirement)
        if shared := shared_photos(photos, held_out):
            log.warning("%s: %d images are trained on too; the threshold will be too low", calibration, shared)
        return Split(photos, held_out, photos, fingerprint + other)
    purpose = f"training, with {held_out_needed} images held out for {rate},"
    requirement = Requirement(held_out_needed + MIN_TRAINING_PHOTOS, purpose, HIGHER_RATE)
    photos, fingerprint = read_usable(folder, model, requirement)
    count = max(round(len(photos) * train.calibration_fraction), held_out_needed)
    count = min(count, len(photos) - MIN_TRAINING_PHOTOS)
    order = np.random.default_rng([train.seed, CALIBRATION_SPLIT_STREAM]).permutation(len(photos))
    shuffled = photos[order]
    return Split(shuffled[count:], shuffled[:count], shuffled, fingerprint)


def read_usable(folder: Path, model: ModelConfig, requirement: Requirement) -> tuple[Photos, str]:
    """A folder's normal images that can be used, and the fingerprint of all; raises DataError for too few."""
    paths = normal_images(folder)
    requirement.check(folder, len(paths), f"{len(paths)} normal images")
    photos = read_photos(paths, model)
    usable = usable_photos(folder, paths, photos, requirement)
    return photos if usable.all() else photos[usable], _fingerprint(paths, photos)


def read_photos(paths: list[Path], model: ModelConfig) -> Photos:
    """Read images at the model's size, uint8 [n, H, W, 3].

    Raises DataError for an image smaller than a patch, and for 16-bit images that use the range of 14 bits or fewer
    while neither they nor the model state a range.
    """
    photos, shapes, used_bits = np.empty((len(paths), *model.image_size, 3), np.uint8), [], [0]
    settings = InputSettings.of(model)
    for i, path in enumerate(track(paths, "reading images", transient=True)):
        image = read_rgb(path, settings)
        if (fault := too_small(image.size, model.patch)) is not None:
            raise DataError(f"{path}: {fault}; remove it or use a smaller patch")
        photos[i] = resize_rgb(image, model.image_size, model.resize)
        shapes.append(image.size)
        used_bits.append(image.used_bits or 0)
    if 0 < max(used_bits) < MIN_SURE_BITS:
        bits = camera_bits(max(used_bits))
        raise DataError(
            f"the 16-bit images in {paths[0].parent} use the range of {bits} bits: say --set bits={bits} if the camera "
            f"gives {bits} bits, or --set bits=16 if the scene is that dark"
        )
    if better := fitting_size(shapes, model):
        saved = 1 - better[0] * better[1] / (model.image_size[0] * model.image_size[1])
        log.info("all images have one aspect: --set 'image_size=[%d, %d]' has it too, and costs %.0f%% less", *better,
                 100 * saved)  # fmt: skip
    return photos


def fitting_size(shapes: list[tuple[int, int]], model: ModelConfig) -> tuple[int, int] | None:
    """The network size that images (height, width) of one aspect ratio fill, no larger than the model's.

    Its sides are multiples of SIDE_MULTIPLE. None where the aspect ratios differ, or where the model's size has less
    than a tenth of margin or stretching to save.
    """
    aspects = [height / width for height, width in shapes]
    if max(aspects) > MAX_ASPECT_RATIO * min(aspects):
        return None
    windows = letterbox_window(shapes[0], model.image_size, "letterbox")
    height, width = (
        SIDE_MULTIPLE * max(round(len(window) / SIDE_MULTIPLE), -(-model.patch // SIDE_MULTIPLE)) for window in windows
    )
    pixels = model.image_size[0] * model.image_size[1]
    return (height, width) if height * width < MAX_FILLED * pixels else None


def _fingerprint(paths: list[Path], photos: Photos) -> str:
    digest = hashlib.sha256(photos.data)
    digest.update("\n".join(path.name for path in paths).encode())
    return digest.hexdigest()
