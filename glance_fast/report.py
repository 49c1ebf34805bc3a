"""The evaluation as one HTML file: figures, plots and pictures, no scripts, nothing from outside."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from glance_fast.files import replace_file
from glance_fast.images import read_image
from glance_fast.overlay import is_wide, side_by_side

if TYPE_CHECKING:
    from glance_fast.evaluation import Evaluation, Seen

NORMAL, DEFECT = "#3f8fd6", "#e2703a"
INK = "#010203"  # stands for the page's own text colour, which an SVG inside the page can take over
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


def render_report(
    evaluation: Evaluation, galleries: Sequence[Gallery], facts: Mapping[str, str], title: str
) -> str:
    """The report as HTML text; every value is escaped."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "number": _number,
        "percent": _percent,
        "printable": printable,
        "data_uri": _data_uri,
    }
    template = environment.from_string(files("glance_fast").joinpath("report.html.j2").read_text("utf-8"))
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
        Gallery(
            "Lowest-scored defects", f"{missed} of {len(defective)} missed", _pictures(defective[:SHOWN])
        ),
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
        "Image scores": _histogram(normal, defect, evaluation.threshold),
        "ROC: detections against false alarms": _roc(normal, defect, evaluation.threshold),
    }


def _histogram(normal: NDArray[np.float64], defect: NDArray[np.float64], threshold: float) -> Markup:
    """Share of each kind of images a bin of score; logarithmic where a few scores lie far above the rest."""
    figure, axes = _figure()
    everything = np.concatenate([normal, defect, [threshold]])
    low, high = float(everything.min()), float(everything.max())
    logarithmic = low > 0 and high > 20 * float(np.median(everything))
    edges = (np.geomspace if logarithmic else np.linspace)(low, high, 41).tolist()
    if high > low:
        for scores, color, name in ((normal, NORMAL, "normal"), (defect, DEFECT, "defective")):
            weights = np.full(len(scores), 100 / len(scores))
            axes.hist(
                scores, edges, weights=weights, histtype="stepfilled", color=color, alpha=0.6, label=name
            )
    axes.axvline(threshold, color=INK, linestyle="--", linewidth=1.2, label="threshold")
    axes.set(xscale="log" if logarithmic else "linear", xlabel="anomaly score", ylabel="% of its kind")
    axes.legend(frameon=False, labelcolor=INK)
    return _svg(figure, "Histogram of the scores of normal and defective images")


def _roc(normal: NDArray[np.float64], defect: NDArray[np.float64], threshold: float) -> Markup:
    figure, axes = _figure()
    cuts = np.concatenate([[-np.inf], np.unique(np.concatenate([normal, defect])), [np.inf]])
    alarms, found = (1 - np.searchsorted(np.sort(kind), cuts) / len(kind) for kind in (normal, defect))
    axes.plot([0, 1], [0, 1], color=INK, alpha=0.3, linewidth=1)
    axes.plot(alarms, found, color=DEFECT, linewidth=2)
    axes.plot(
        (normal > threshold).mean(), (defect > threshold).mean(), "o", color=INK, label="at the threshold"
    )
    axes.set(xlabel="false-alarm rate", ylabel="detection rate", xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
    axes.legend(frameon=False, labelcolor=INK, loc="lower right")
    return _svg(figure, "Detection rate over false-alarm rate")


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.6, 2.9), layout="constrained")
    figure.patch.set_alpha(0)
    axes: Any = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set(color=INK, alpha=0.4)
    axes.tick_params(colors=INK)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    return figure, axes


def _svg(figure: Figure, label: str) -> Markup:
    """The figure as an SVG element that takes the page's text colour and font, and refers to nothing."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
        figure.savefig(buffer, format="svg", metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "inherit", svg)
    svg = re.sub(
        r'<style.*?</style>| id="[a-z0-9]+_\d+"', "", svg, flags=re.DOTALL
    )  # they would reach the whole page
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1))
