"""The evaluation as one HTML file: figures, plots and pictures, no scripts, nothing from outside."""

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
from glance_fast.evaluation.results import Evaluation, Seen
from glance_fast.storage.atomic_write import replace_file
from glance_fast.visualization.overlay import is_wide, side_by_side
from glance_fast.visualization.plots import roc_curve, score_histogram

SHOWN = 6  # pictures in a gallery of samples
PICTURE_SIZE = (1080, 720)  # widest and highest picture
PICTURE_BYTES = 100_000  # of one JPEG at most, so that thirty of them stay below 5 MB


@dataclass(frozen=True)
class Picture:
    """A JPEG with its caption.

    `panels` names its equal parts from left to right, or from top to bottom when `stacked`; `right` says
    whether the verdict is right, None for no verdict.
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
    """A picture uint8 [H, W, 3] made as small as a report needs: at most 1080x720 pixels and 100 kB."""
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
    facts: Mapping[str, str],
    path: Path,
    title: str = "Evaluation",
) -> None:
    """Write the report to `path`, with `facts` as rows of names and values. Raises SaveError.

    Thirty pictures made by `jpeg` keep it below 5 MB.
    """
    replace_file(path, render_report(evaluation, galleries, facts, title).encode(errors="backslashreplace"))


def render_report(evaluation: Evaluation, galleries: Sequence[Gallery], facts: Mapping[str, str], title: str) -> str:
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
        galleries=galleries,
        facts=facts,
        plots=_plots(evaluation),
        counts=_counts(evaluation),
    )


def printable(text: str) -> str:
    """The text with control characters, bidirectional marks and bytes outside Unicode spelled out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def galleries_of(seen: Sequence[Seen]) -> list[Gallery]:
    """The telling pictures: defects that look normal, normal ones that look defective, clear finds."""
    defective = sorted((one for one in seen if not one.sample.is_normal), key=lambda one: one.row.score)
    normal = sorted((one for one in seen if one.sample.is_normal), key=lambda one: -one.row.score)
    missed = sum(not one.row.is_anomalous for one in defective)
    alarms = sum(one.row.is_anomalous for one in normal)
    found = _best_of_each(defective[SHOWN:])
    galleries = [
        Gallery("Lowest-scored defects", f"{missed} of {len(defective)} missed", _pictures(defective[:SHOWN])),
        Gallery(
            "Highest-scored normal images",
            f"{alarms} of {len(normal)} false alarms",
            _pictures(normal[:SHOWN]),
        ),
        Gallery("Clear detections", "highest scores of each class of defects", _pictures(found)),
    ]
    return [gallery for gallery in galleries if gallery.pictures]


def _best_of_each(ascending: Sequence[Seen]) -> list[Seen]:
    """The highest of every class, then the second of every class, and so on; found ones only."""
    ranked: list[tuple[int, float, Seen]] = []
    ranks: dict[str, int] = {}
    for one in reversed(ascending):
        if one.row.is_anomalous:
            rank = ranks[one.sample.defect] = ranks.get(one.sample.defect, -1) + 1
            ranked.append((rank, -one.row.score, one))
    return [one for _, _, one in sorted(ranked, key=lambda entry: entry[:2])[:SHOWN]]


def _pictures(seen: Sequence[Seen]) -> tuple[Picture, ...]:
    return tuple(_picture(one) for one in seen)


def _picture(one: Seen) -> Picture:
    truth = None if one.sample.is_normal else one.mask
    image = read_image(one.sample.path)
    pixels = jpeg(side_by_side(image, one.result, truth))
    verdict = "anomalous" if one.row.is_anomalous else "normal"
    note = f"score {one.row.score:.4g} · p-value {one.row.p_value:.3g} · called {verdict}"
    panels = ("photo", "heat map", "ground truth") if truth is not None else ("photo", "heat map")
    right = one.row.is_anomalous != one.sample.is_normal
    return Picture(pixels, one.row.path, note, panels, is_wide(image), right)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _data_uri(shown: Picture) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(shown.jpeg).decode()


def _counts(evaluation: Evaluation) -> dict[str, int]:
    defective = [one for one in evaluation.images if one.defect != "good"]
    normal = [one for one in evaluation.images if one.defect == "good"]
    return {
        "defective": len(defective),
        "found": sum(one.is_anomalous for one in defective),
        "normal": len(normal),
        "alarms": sum(one.is_anomalous for one in normal),
    }


def _plots(evaluation: Evaluation) -> dict[str, Markup]:
    normal = np.array([one.score for one in evaluation.images if one.defect == "good"])
    defect = np.array([one.score for one in evaluation.images if one.defect != "good"])
    return {
        "Image scores": score_histogram(normal, defect, evaluation.threshold),
        "ROC: detections against false alarms": roc_curve(normal, defect, evaluation.threshold),
    }
