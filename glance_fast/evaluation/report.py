"""The evaluation as one HTML file: figures, plots and pictures; no scripts, and no reference to other files."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from glance_fast.data.text import printable
from glance_fast.evaluation.galleries import Gallery, Picture
from glance_fast.evaluation.results import PRO_LIMIT, Evaluation
from glance_fast.storage.atomic_write import replace_file
from glance_fast.visualization.plots import roc_curve, score_histogram


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
