"""The evaluation as one HTML file: figures, plots and pictures; no scripts, and no reference to other files."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from glance_fast.data.images import read_image
from glance_fast.data.text import printable
from glance_fast.evaluation.results import PRO_LIMIT, Evaluation, ScoredSample
from glance_fast.storage.atomic_write import replace_file
from glance_fast.visualization.overlay import is_wide, side_by_side
from glance_fast.visualization.plots import roc_curve, score_histogram

GALLERY_PICTURES = 6  # at most, per gallery
PICTURE_SIZE = (1080, 720)  # largest width and height
PICTURE_BYTES = 100_000  # largest JPEG: thirty of them stay below 5 MB with base64


@dataclass(frozen=True)
class Picture:
    """A JPEG with its caption.

    `panels` names its equal parts from left to right, or from top to bottom when `stacked`; `right` says
    whether the verdict is right, None without a verdict.
    """

    jpeg: bytes
    title: str
    note: str
    panels: tuple[str, ...] = ()
    stacked: bool = False
    right: bool | None = None


@dataclass(frozen=True)
class Gallery:
    """A group of pictures under one heading."""

    heading: str
    note: str
    pictures: tuple[Picture, ...]


def jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """A picture uint8 [H, W, 3] as a JPEG of at most 1080x720 pixels and 100 kB."""
    image = Image.fromarray(pixels)
    image.thumbnail(PICTURE_SIZE)
    while True:
        for quality in (88, 75, 60, 45):
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=quality, optimize=True)
            if buffer.tell() <= PICTURE_BYTES:
                return buffer.getvalue()
        image.thumbnail((image.width * 3 // 4, image.height * 3 // 4))


def write_report(
    evaluation: Evaluation,
    galleries: Sequence[Gallery],
    metadata: Mapping[str, str],
    path: Path,
    title: str = "Evaluation",
) -> None:
    """Write the report to `path`, with `metadata` as a table of names and values. Raises SaveError.

    With thirty pictures from `jpeg` the file stays below 5 MB.
    """
    replace_file(path, render_report(evaluation, galleries, metadata, title).encode(errors="backslashreplace"))


def render_report(evaluation: Evaluation, galleries: Sequence[Gallery], metadata: Mapping[str, str], title: str) -> str:
    """The report as HTML text; every value is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "number": _number,
        "percent": _percent,
        "printable": printable,
        "data_uri": _data_uri,
    }
    template = environment.from_string(files("glance_fast.evaluation").joinpath("report.html.j2").read_text("utf-8"))
    return template.render(
        title=title,
        e=evaluation,
        pro_limit=PRO_LIMIT,
        galleries=galleries,
        metadata=metadata,
        plots=_plots(evaluation),
        counts=_counts(evaluation),
    )


def select_galleries(scored: Sequence[ScoredSample]) -> list[Gallery]:
    """Pictures of the defects with the lowest scores, the normal images with the highest, and clear detections."""
    defective = sorted((sample for sample in scored if not sample.is_normal), key=lambda sample: sample.score)
    normal = sorted((sample for sample in scored if sample.is_normal), key=lambda sample: -sample.score)
    missed = sum(not sample.is_anomalous for sample in defective)
    alarms = sum(sample.is_anomalous for sample in normal)
    detected = _clear_detections(defective[GALLERY_PICTURES:])
    galleries = [
        Gallery(
            "Lowest-scored defects", f"{missed} of {len(defective)} missed", _pictures(defective[:GALLERY_PICTURES])
        ),
        Gallery(
            "Highest-scored normal images",
            f"{alarms} of {len(normal)} false alarms",
            _pictures(normal[:GALLERY_PICTURES]),
        ),
        Gallery("Clear detections", "highest scores of each class of defects", _pictures(detected)),
    ]
    return [gallery for gallery in galleries if gallery.pictures]


def _clear_detections(ascending: Sequence[ScoredSample]) -> list[ScoredSample]:
    """Detected samples by score: the highest of every class, then the second of every class, and so on."""
    ranked: list[tuple[int, float, ScoredSample]] = []
    ranks: dict[str, int] = {}
    for sample in reversed(ascending):
        if sample.is_anomalous:
            rank = ranks[sample.defect] = ranks.get(sample.defect, -1) + 1
            ranked.append((rank, -sample.score, sample))
    return [sample for _, _, sample in sorted(ranked, key=lambda entry: entry[:2])[:GALLERY_PICTURES]]


def _pictures(scored: Sequence[ScoredSample]) -> tuple[Picture, ...]:
    return tuple(_picture(sample) for sample in scored)


def _picture(sample: ScoredSample) -> Picture:
    truth = None if sample.is_normal else sample.mask
    image = read_image(sample.sample.path)
    pixels = jpeg(side_by_side(image, sample.result, truth))
    verdict = "anomalous" if sample.is_anomalous else "normal"
    note = f"score {sample.score:.4g} · p-value {sample.image_score.p_value:.3g} · called {verdict}"
    panels = ("photo", "heat map", "ground truth") if truth is not None else ("photo", "heat map")
    right = sample.is_anomalous != sample.is_normal
    return Picture(pixels, sample.image_score.path, note, panels, is_wide(image), right)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _data_uri(picture: Picture) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(picture.jpeg).decode()


def _counts(evaluation: Evaluation) -> dict[str, int]:
    defective = [image for image in evaluation.images if image.defect != "good"]
    normal = [image for image in evaluation.images if image.defect == "good"]
    return {
        "defective": len(defective),
        "detected": sum(image.is_anomalous for image in defective),
        "normal": len(normal),
        "alarms": sum(image.is_anomalous for image in normal),
    }


def _plots(evaluation: Evaluation) -> dict[str, Markup]:
    normal = np.array([image.score for image in evaluation.images if image.defect == "good"])
    defect = np.array([image.score for image in evaluation.images if image.defect != "good"])
    return {
        "Image scores": score_histogram(normal, defect, evaluation.threshold),
        "ROC: detections against false alarms": roc_curve(normal, defect, evaluation.threshold),
    }
