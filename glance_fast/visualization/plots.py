"""Plots of an evaluation as SVG elements with the colours and fonts of the page around them."""

from __future__ import annotations

import io
import re
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

NORMAL_COLOR, DEFECT_COLOR = "#3f8fd6", "#e2703a"
TEXT_COLOR = "#010203"  # replaced by currentColor, the text colour of the page


def score_histogram(normal: NDArray[np.float64], defect: NDArray[np.float64], threshold: float) -> Markup:
    """Histogram of normal and defective scores, in percent of each; logarithmic if a few are far above the rest."""
    figure, axes = _figure()
    everything = np.concatenate([normal, defect, [threshold]])
    low, high = float(everything.min()), float(everything.max())
    logarithmic = low > 0 and high > 20 * float(np.median(everything))
    edges = (np.geomspace if logarithmic else np.linspace)(low, high, 41).tolist()
    if high > low:
        for scores, color, name in ((normal, NORMAL_COLOR, "normal"), (defect, DEFECT_COLOR, "defective")):
            weights = np.full(len(scores), 100 / len(scores))
            axes.hist(scores, edges, weights=weights, histtype="stepfilled", color=color, alpha=0.6, label=name)
    axes.axvline(threshold, color=TEXT_COLOR, linestyle="--", linewidth=1.2, label="threshold")
    axes.set(xscale="log" if logarithmic else "linear", xlabel="anomaly score", ylabel="% of images per kind")
    axes.legend(frameon=False, labelcolor=TEXT_COLOR)
    return _svg(figure, "Histogram of the scores of normal and defective images")


def roc_curve(normal: NDArray[np.float64], defect: NDArray[np.float64], threshold: float) -> Markup:
    """Detection rate over false-alarm rate for every threshold, with a mark at the calibrated threshold."""
    figure, axes = _figure()
    cuts = np.concatenate([[-np.inf], np.unique(np.concatenate([normal, defect])), [np.inf]])
    false_alarms, detections = (1 - np.searchsorted(np.sort(kind), cuts) / len(kind) for kind in (normal, defect))
    axes.plot([0, 1], [0, 1], color=TEXT_COLOR, alpha=0.3, linewidth=1)
    axes.plot(false_alarms, detections, color=DEFECT_COLOR, linewidth=2)
    axes.plot((normal > threshold).mean(), (defect > threshold).mean(), "o", color=TEXT_COLOR, label="at the threshold")
    axes.set(xlabel="false-alarm rate", ylabel="detection rate", xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
    axes.legend(frameon=False, labelcolor=TEXT_COLOR, loc="lower right")
    return _svg(figure, "Detection rate over false-alarm rate")


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.6, 2.9), layout="constrained")
    figure.patch.set_alpha(0)
    axes: Any = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set(color=TEXT_COLOR, alpha=0.4)
    axes.tick_params(colors=TEXT_COLOR)
    axes.xaxis.label.set_color(TEXT_COLOR)
    axes.yaxis.label.set_color(TEXT_COLOR)
    return figure, axes


def _svg(figure: Figure, label: str) -> Markup:
    """The figure as an SVG element in the page's text colour and font, without references to other files."""
    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
        figure.savefig(buffer, format="svg", metadata=no_metadata)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(TEXT_COLOR, "currentColor")
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "inherit", svg)
    styles_and_ids = r'<style.*?</style>| id="[a-z0-9]+_\d+"'  # they would apply to the whole page
    svg = re.sub(styles_and_ids, "", svg, flags=re.DOTALL)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1))
