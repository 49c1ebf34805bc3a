"""Evaluation of a model on a test folder: scores, metrics, timings, and the files that show them."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from glance_fast.data.datasets import Sample, test_samples
from glance_fast.data.images import read_image, read_rgb
from glance_fast.data.masks import read_masks
from glance_fast.data.meaning import RgbImage
from glance_fast.engine import Engine
from glance_fast.errors import DataError, ImageError
from glance_fast.evaluation.array_file import require_room
from glance_fast.evaluation.galleries import Galleries
from glance_fast.evaluation.report import write_report
from glance_fast.evaluation.results import Evaluation, ImageScore, ScoredSample, Scorer
from glance_fast.evaluation.summary import Summary, values_size
from glance_fast.storage.atomic_write import replace_file
from glance_fast.storage.folder_lock import locked


def evaluate(
    engine: Scorer,
    folder: Path,
    output: Path | None,
    progress: bool = True,
    title: str = "Evaluation",
    metadata: Mapping[str, str] | None = None,
) -> Evaluation:
    """Score every test image of `folder` and compute the metrics.

    With an `output` folder it writes `evaluation.json`, `scores.csv` and `report.html` there; the report shows `title`
    and `metadata`, names with values. Images are read and scored one at a time; the values of the maps, four bytes per
    pixel, go to a temporary file in `output`, or else in the system's folder for temporary files. Raises DataError
    without both normal and defective images or with a mask of another size, ImageError for an image that cannot be read
    or scored, SaveError for an output that cannot be written or that another run writes to, and for
    values that have no room.
    """
    samples = evaluation_samples(folder)
    with locked(output) if output is not None else nullcontext():
        require_room(values_size(samples), output)
        galleries = Galleries()
        with Summary(output) as summary:
            for scored in score_samples(engine, folder, samples, progress):
                summary.add(scored)
                if output is not None:
                    galleries.add(scored)
                del scored  # before the next image is read
            evaluation = summary.evaluation(engine, folder)
        if output is not None:
            write_evaluation(evaluation, galleries, output, title, metadata or {})
    return evaluation


def write_evaluation(
    evaluation: Evaluation, galleries: Galleries, output: Path, title: str, metadata: Mapping[str, str]
) -> None:
    """Write the files of `evaluate`; `galleries` has had every image of the evaluation."""
    replace_file(output / "evaluation.json", _json(evaluation))
    replace_file(output / "scores.csv", _csv(evaluation.images))
    write_report(evaluation, galleries.galleries(evaluation.images), metadata, output / "report.html", title)


def score_samples(
    engine: Scorer, folder: Path, samples: Sequence[Sample], progress: bool = True
) -> Iterator[ScoredSample]:
    """Score test images of `folder` one at a time; raises as `evaluate` does."""
    engine.score(_read(engine, samples[0].path))  # untimed: the first call also makes plans, caches and thread pools
    steps = track(samples, "Scoring", console=Console(stderr=True), disable=not progress, transient=True)
    return (_score_sample(engine, sample, folder) for sample in steps)


def evaluation_samples(folder: Path) -> list[Sample]:
    """All test images of a folder; raises DataError unless normal and defective ones are among them."""
    samples = test_samples(folder)
    normal = sum(sample.is_normal for sample in samples)
    if normal in (0, len(samples)):
        raise DataError(
            f"{folder} has {normal} normal and {len(samples) - normal} defective test images; an evaluation "
            "needs at least one of each: put them in test/good and in test/<defect>"
        )
    return samples


def _score_sample(engine: Scorer, sample: Sample, folder: Path) -> ScoredSample:
    image = _read(engine, sample.path)
    start = time.perf_counter()
    try:
        result = engine.score(image)
    except ImageError as error:
        raise ImageError(f"{sample.path}: {error}") from error
    seconds = time.perf_counter() - start
    if not (np.isfinite(result.score) and np.isfinite(result.map).all()):
        raise ImageError(f"{sample.path}: the model's score or map is not finite; train the model again")
    path = sample.path.relative_to(folder).as_posix()
    score, p_value = float(result.score), float(result.p_value)
    image_score = ImageScore(path, sample.defect, score, p_value, bool(result.is_anomalous))
    pixels = image.pixels if isinstance(image, RgbImage) else image
    return ScoredSample(sample, pixels, image_score, result, _mask(sample, pixels.shape[0], pixels.shape[1]), seconds)


def _read(engine: Scorer, path: Path) -> RgbImage | NDArray[np.uint8]:
    """An image as the model's settings say; scorers of other libraries take uint8 [H, W, 3]."""
    return read_rgb(path, engine.input_settings) if isinstance(engine, Engine) else read_image(path)


def _mask(sample: Sample, height: int, width: int) -> NDArray[np.bool_] | None:
    if sample.is_normal:
        return np.zeros((height, width), np.bool_)
    return read_masks(sample.masks, (height, width)) if sample.masks else None


def _json(evaluation: Evaluation) -> bytes:
    values = {name: value for name, value in asdict(evaluation).items() if name != "images"}
    return (json.dumps(values, indent=2, allow_nan=False) + "\n").encode()


def _csv(rows: Sequence[ImageScore]) -> bytes:
    text = io.StringIO()
    table = csv.DictWriter(text, list(ImageScore.__dataclass_fields__), lineterminator="\n")
    table.writeheader()
    table.writerows(asdict(row) for row in rows)
    return text.getvalue().encode(errors="backslashreplace")  # a file name need not be valid Unicode
