"""Evaluation of a model on a test folder: scores, metrics, timings, and the files that show them."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from glance_fast.data.datasets import Sample, test_samples
from glance_fast.data.images import read_image
from glance_fast.data.masks import read_masks
from glance_fast.errors import DataError, ImageError, SaveError
from glance_fast.evaluation.metrics import PixelCurve, auroc, f1_max
from glance_fast.evaluation.report import select_galleries, write_report
from glance_fast.evaluation.results import (
    PRO_LIMIT,
    DefectRow,
    Evaluation,
    ImageScore,
    PixelMetrics,
    ScoredSample,
    Scorer,
    Timing,
)
from glance_fast.storage.atomic_write import replace_file


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
    and `metadata`, names with values. Raises DataError without both normal and defective images or with a mask of
    another size, ImageError for an image that cannot be read or scored, SaveError for an output that cannot be written.
    """
    samples = _samples(folder)
    if output is not None:
        _make_folder(output)
    scored = score_samples(engine, folder, samples, progress)
    if output is None:
        return summarise(engine, folder, scored)
    return write_evaluation(engine, folder, scored, output, title, metadata or {})


def write_evaluation(
    engine: Scorer, folder: Path, scored: Sequence[ScoredSample], output: Path, title: str, metadata: Mapping[str, str]
) -> Evaluation:
    """Write the files of `evaluate` for test images that are scored already; returns the evaluation."""
    evaluation = summarise(engine, folder, scored)
    replace_file(output / "evaluation.json", _json(evaluation))
    replace_file(output / "scores.csv", _csv(evaluation.images))
    write_report(evaluation, select_galleries(scored), metadata, output / "report.html", title)
    return evaluation


def score_samples(
    engine: Scorer, folder: Path, samples: Sequence[Sample] | None = None, progress: bool = True
) -> list[ScoredSample]:
    """Score test images of `folder`, all of them without `samples`; raises as `evaluate` does."""
    samples = samples or _samples(folder)
    engine.score(read_image(samples[0].path))  # untimed: the first call also makes plans, caches and thread pools
    steps = track(samples, "Scoring", console=Console(stderr=True), disable=not progress, transient=True)
    return [_score_sample(engine, sample, folder) for sample in steps]


def _samples(folder: Path) -> list[Sample]:
    """All test images of a folder; raises DataError unless normal and defective ones are among them."""
    samples = test_samples(folder)
    normal = sum(sample.is_normal for sample in samples)
    if normal in (0, len(samples)):
        raise DataError(
            f"{folder} has {normal} normal and {len(samples) - normal} defective test images; an evaluation "
            "needs at least one of each: put them in test/good and in test/<defect>"
        )
    return samples


def _make_folder(output: Path) -> None:
    """Make the output folder before anything is scored, so that a wrong path costs no time."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SaveError(f"cannot make the folder {output}: {error.strerror}; choose another one") from error


def _score_sample(engine: Scorer, sample: Sample, folder: Path) -> ScoredSample:
    image = read_image(sample.path)
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
    return ScoredSample(sample, image_score, result, _mask(sample, image.shape[0], image.shape[1]), seconds)


def _mask(sample: Sample, height: int, width: int) -> NDArray[np.bool_] | None:
    if sample.is_normal:
        return np.zeros((height, width), np.bool_)
    return read_masks(sample.masks, (height, width)) if sample.masks else None


def summarise(engine: Scorer, folder: Path, scored: Sequence[ScoredSample]) -> Evaluation:
    """Metrics of scored test images, normal and defective; `folder` gives the data's name."""
    normal = [sample for sample in scored if sample.is_normal]
    defective = [sample for sample in scored if not sample.is_normal]
    labels, scores = _labels_and_scores(scored)
    best_f1, best_threshold = f1_max(labels, scores)
    names = sorted({sample.defect for sample in defective})
    classes = [[sample for sample in defective if sample.defect == name] for name in names]
    return Evaluation(
        data=folder.resolve().name,
        threshold=float(engine.threshold),
        pixel_threshold=float(engine.pixel_threshold),
        image_auroc=float(auroc(labels, scores)),
        f1_max=float(best_f1),
        f1_threshold=float(best_threshold),
        pixel=_pixel_metrics(scored),
        false_alarm_rate=_alarm_rate(normal),
        detection_rate=_alarm_rate(defective),
        defects=tuple(_defect_row(normal, members) for members in classes),
        timing=_timing([sample.seconds for sample in scored]),
        images=tuple(sample.image_score for sample in scored),
    )


def _labels_and_scores(scored: Sequence[ScoredSample]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    return np.array([not sample.is_normal for sample in scored]), np.array([sample.score for sample in scored])


def _alarm_rate(scored: Sequence[ScoredSample]) -> float:
    return sum(sample.is_anomalous for sample in scored) / len(scored)


def _defect_row(normal: Sequence[ScoredSample], defective: Sequence[ScoredSample]) -> DefectRow:
    together = [*normal, *defective]
    pixel = _pixel_metrics(together)
    return DefectRow(
        defect=defective[0].defect,
        images=len(defective),
        image_auroc=float(auroc(*_labels_and_scores(together))),
        pixel_auroc=pixel.auroc if pixel else None,
        aupro=pixel.aupro if pixel else None,
        detection_rate=_alarm_rate(defective),
    )


def _pixel_metrics(scored: Sequence[ScoredSample]) -> PixelMetrics | None:
    """Over the images with a mask, which is empty for normal images; None when no pixel is marked."""
    pairs = [(sample.mask, sample.result.map) for sample in scored if sample.mask is not None]
    if not any(mask.any() for mask, _ in pairs):
        return None
    curve = PixelCurve([mask for mask, _ in pairs], [anomaly_map for _, anomaly_map in pairs])
    best_f1, best_threshold = curve.f1_max()
    return PixelMetrics(float(curve.auroc()), float(curve.aupro(PRO_LIMIT)), float(best_f1), float(best_threshold))


def _timing(seconds: Sequence[float]) -> Timing:
    median, p95 = np.percentile(seconds, [50, 95]) * 1000
    return Timing(len(seconds), float(median), float(p95), len(seconds) / max(sum(seconds), 1e-9))


def _json(evaluation: Evaluation) -> bytes:
    values = {name: value for name, value in asdict(evaluation).items() if name != "images"}
    return (json.dumps(values, indent=2, allow_nan=False) + "\n").encode()


def _csv(rows: Sequence[ImageScore]) -> bytes:
    text = io.StringIO()
    table = csv.DictWriter(text, list(ImageScore.__dataclass_fields__), lineterminator="\n")
    table.writeheader()
    table.writerows(asdict(row) for row in rows)
    return text.getvalue().encode(errors="backslashreplace")  # a file name need not be valid Unicode
