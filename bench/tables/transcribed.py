"""Tables and figures from `transcribed.jsonl`: measured before their commands kept rows (`bench/results/README.md`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from bench.tables.rows import Lines, Row, Table, read_rows

ROWS = "transcribed.jsonl"
# Units that stand right behind their number.
ATTACHED = ("%", "×")
PRECISIONS = {"fp32": "fp32", "bf16": "bf16", "fp16": "fp16", "int8": "int8, ranges from 128 training photographs"}
QUANTIZERS = {"float32": "float32", "modelopt": "ModelOpt", "onnxruntime": "ONNX Runtime's quantizer"}
METRICS = ("image-auroc", "aupro")


def _row(name: str) -> Row:
    (row,) = (row for row in read_rows(ROWS) if row["name"] == name)
    return row


def value(name: str) -> str:
    """A value as it was printed, without its unit."""
    return str(_row(name)["value"])


def with_unit(name: str) -> str:
    """A value with its unit: "0.74 s", "77%"."""
    unit = str(_row(name)["unit"])
    return value(name) + (unit if not unit or unit in ATTACHED else f" {unit}")


def precision() -> Lines:
    """Accuracy, map differences and file size of `fast` in OpenVINO at each precision."""
    lines: Lines = [["", "image AUROC", "AUPRO", "largest and mean map difference", "file"]]
    for name, label in PRECISIONS.items():
        metrics = [value(f"precision-{name}-{metric}") for metric in METRICS]
        differences = ", ".join(value(f"precision-{name}-map-{kind}") for kind in ("largest", "mean"))
        if name == "fp32":
            differences += f" (from the loop, 2 images: {value('precision-fp32-loop-largest')})"
        lines.append([label, *metrics, differences, with_unit(f"precision-{name}-file")])
    return lines


def modelopt() -> Lines:
    """ModelOpt's 8-bit graph and ONNX Runtime's, against float32."""
    lines: Lines = [
        ["", *("image AUROC", "AUPRO", "largest and mean map difference", "rank correlation of scores with float32")]
    ]
    for name, label in QUANTIZERS.items():
        cells = [value(f"modelopt-{name}-{metric}") for metric in METRICS]
        if name == "float32":
            cells += ["", ""]
        else:
            cells.append(", ".join(value(f"modelopt-{name}-map-{kind}") for kind in ("largest", "mean")))
            cells.append(value(f"modelopt-{name}-rank-correlation"))
        lines.append([label, *cells])
    return lines


def _largest_change() -> str:
    """The most that a precision changes image AUROC or AUPRO by, three digits."""
    changes = [
        abs(float(value(f"precision-{name}-{metric}")) - float(value(f"precision-fp32-{metric}")))
        for name in PRECISIONS
        for metric in METRICS
    ]
    return f"{max(changes):.4f}"


TABLES: dict[str, Table] = {"precision": precision, "modelopt": modelopt}
# NAME gives a value with its unit, NAME.value the value alone.
FIGURES: dict[str, Callable[[], str]] = {
    "precision-largest-change": _largest_change,
    **{row["name"]: partial(with_unit, row["name"]) for row in read_rows(ROWS)},
    **{f"{row['name']}.value": partial(value, row["name"]) for row in read_rows(ROWS)},
}
