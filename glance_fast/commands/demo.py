"""A whole run on real photographs: train on crops, detect defects that are drawn on held-out crops.

scikit-image includes photographs of brick, grass and gravel (512x512, grey), so no download is needed. Crops of the
left half of a photograph are the normal class; the threshold is calibrated on crops of its top right quarter, and the
test crops come from its bottom right quarter, so no pixel is in two of the three sets. The defects are drawn here with
Pillow, deliberately not by `glance_fast.stains`, which training uses.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from rich.console import Console

from glance_fast.backends.tolerances import relative_error
from glance_fast.commands.score_files import ScoreOptions, score_files
from glance_fast.commands.tables import evaluation_table
from glance_fast.config import ModelConfig, TrainConfig
from glance_fast.data.datasets import expand, test_samples
from glance_fast.data.images import read_image
from glance_fast.engine import Engine
from glance_fast.errors import ConfigError
from glance_fast.evaluation.evaluate import evaluate
from glance_fast.storage.atomic_write import replace_folder
from glance_fast.training.train import Job, train_model

TEXTURES = ("brick", "grass", "gravel")
SIDE = 128
HALF = 256
TRAIN_CROPS, CALIBRATION_CROPS, TEST_CROPS = 100, 60, 16

MODEL = ModelConfig(image_size=(SIDE, SIDE))
TRAIN = TrainConfig(distil_steps=150, finetune_steps=500, global_steps=160, dad_steps=200, patches_per_step=96)

Grey = NDArray[np.uint8]
Defect = Callable[[Image.Image, np.random.Generator], tuple[Image.Image, Image.Image]]


def run_demo(output: Path, texture: str, console: Console) -> None:
    """Make the data, train, evaluate, draw and time; writes `model/`, `report.html` and `overlays/` to `output`."""
    started = time.monotonic()
    if texture not in TEXTURES:
        raise ConfigError(f"unknown texture {texture!r}; legal are {', '.join(TEXTURES)}")
    data, model = output / "data", output / "model"
    console.print(f"normal class: crops of scikit-image's photograph of {texture}; defects drawn on held-out crops")
    with replace_folder(data) as folder:
        make_data(folder, texture)
    job = Job(data, model, calibration_data=data / "calibration", restart=True, overwrite=True)
    train_model(job, MODEL, TRAIN)
    engine = Engine.load(model)
    evaluation = evaluate(engine, data, output, title=f"Demo: {texture}", metadata=engine.metadata())
    score_files(engine, expand([data / "test"]), output, ScoreOptions(overwrite=True))
    console.print(evaluation_table(evaluation))
    methods = compare(engine, read_image(test_samples(data)[0].path))
    dense, loop = methods.dense_seconds, methods.loop_seconds
    console.print(f"image AUROC {evaluation.image_auroc:.3f}")
    console.print(
        f"one image of {SIDE}x{SIDE}: per-patch loop {loop * 1e3:.0f} ms, dense pass {dense * 1e3:.1f} ms "
        f"({loop / dense:.0f} times faster), maps differ by {methods.difference:.1e} of the largest value"
    )
    console.print(f"report    {output / 'report.html'}\noverlays  {output / 'overlays'}\nmodel     {model}")
    console.print(f"total time {time.monotonic() - started:.0f} s")


@dataclass(frozen=True)
class MethodComparison:
    """Seconds of the dense pass (median of 5) and of the loop, and the relative error of the dense pass's map."""

    dense_seconds: float
    loop_seconds: float
    difference: float


def compare(engine: Engine, image: NDArray[np.uint8]) -> MethodComparison:
    """Score one image by the dense pass and by the loop."""
    seconds, maps = {}, {}
    for method, runs in (("dense", 5), ("loop", 1)):
        engine.score(image, "dense")  # untimed: the first call also makes caches and thread pools
        times = []
        for _ in range(runs):
            start = time.perf_counter()
            maps[method] = engine.score(image, method).map
            times.append(time.perf_counter() - start)
        seconds[method] = median(times)
    return MethodComparison(seconds["dense"], seconds["loop"], relative_error(maps["dense"], maps["loop"]))


def make_data(folder: Path, texture: str, seed: int = 0) -> None:
    """Fill an empty folder with crops, defects and masks in MVTec AD's layout."""
    rng = np.random.default_rng(seed)
    photograph: Grey = getattr(skimage.data, texture)()
    left, top, right = photograph[:, :HALF], photograph[:HALF, HALF:], photograph[HALF:, HALF:]
    for i in range(CALIBRATION_CROPS):
        _save(_crop(top, rng), folder / "calibration" / f"{i:03}.png")
    for i in range(TRAIN_CROPS):
        _save(_crop(left, rng), folder / "train" / "good" / f"{i:03}.png")
    for i in range(TEST_CROPS):
        _save(_crop(right, rng), folder / "test" / "good" / f"{i:03}.png")
        for name, defect in DEFECTS.items():
            defective, mask = defect(_crop(right, rng), rng)
            _save(defective, folder / "test" / name / f"{i:03}.png")
            _save(mask, folder / "ground_truth" / name / f"{i:03}_mask.png")


def _crop(photograph: Grey, rng: np.random.Generator) -> Image.Image:
    y, x = (int(rng.integers(0, side - SIDE + 1)) for side in photograph.shape)
    return Image.fromarray(photograph[y : y + SIDE, x : x + SIDE])


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def _ellipse(rng: np.random.Generator, low: int, high: int) -> Image.Image:
    """A mask: a filled ellipse with half-axes of `low` to `high` pixels."""
    ry, rx = rng.integers(low, high + 1, 2)
    y, x = rng.integers(high, SIDE - high, 2)
    mask = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(mask).ellipse([x - rx, y - ry, x + rx, y + ry], fill=255)
    return mask


def _composite(crop: Image.Image, other: Image.Image, mask: Image.Image) -> tuple[Image.Image, Image.Image]:
    return Image.composite(other, crop, mask.filter(ImageFilter.GaussianBlur(0.8))), mask


def _hole(crop: Image.Image, rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    return _composite(crop, Image.new("L", crop.size, int(rng.integers(0, 30))), _ellipse(rng, 5, 12))


def _scratch(crop: Image.Image, rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    y, x = rng.integers(20, SIDE - 20, 2)
    angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(25, 50)
    mask = Image.new("L", crop.size)
    end = (int(x + length * np.cos(angle)), int(y + length * np.sin(angle)))
    ImageDraw.Draw(mask).line([(int(x), int(y)), end], fill=255, width=int(rng.integers(2, 4)))
    return _composite(crop, Image.new("L", crop.size, int(rng.integers(215, 256))), mask)


def _smear(crop: Image.Image, rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    return _composite(crop, crop.filter(ImageFilter.GaussianBlur(5)), _ellipse(rng, 12, 22))


def _rotated(crop: Image.Image, rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """A part of the same crop rotated by 90 degrees: only its position and direction are wrong."""
    return _composite(crop, crop.transpose(Image.Transpose.ROTATE_90), _ellipse(rng, 12, 22))


DEFECTS: dict[str, Defect] = {"hole": _hole, "scratch": _scratch, "smear": _smear, "turned": _rotated}
