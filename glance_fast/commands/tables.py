"""Results as tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from glance_fast.commands.benchmark import Timed
from glance_fast.evaluation.parity import Parity
from glance_fast.evaluation.report import printable
from glance_fast.evaluation.results import PRO_LIMIT, DefectRow, Evaluation


def evaluation_table(evaluation: Evaluation) -> Table:
    """The evaluation as a table for the terminal: one row a defect class, and one for all of them."""
    timing, pixel = evaluation.timing, evaluation.pixel
    table = Table(title=Text(f"{printable(evaluation.data)}: {timing.images} images"), caption_justify="left")
    table.add_column("defect")
    for heading in ("images", "image AUROC", "pixel AUROC", f"AUPRO {PRO_LIMIT}", "detected"):
        table.add_column(heading, justify="right")
    for row in evaluation.defects:
        table.add_row(Text(printable(row.defect)), *_cells(row))
    table.add_section()
    everything = DefectRow(
        defect="all",
        images=sum(row.images for row in evaluation.defects),
        image_auroc=evaluation.image_auroc,
        pixel_auroc=pixel.auroc if pixel else None,
        aupro=pixel.aupro if pixel else None,
        detection_rate=evaluation.detection_rate,
    )
    table.add_row("all", *_cells(everything))
    at_pixels = f", pixels {pixel.f1_max:.3f} at {pixel.f1_threshold:.4g}" if pixel else ""
    table.caption = (
        f"threshold {evaluation.threshold:.4g}: {evaluation.false_alarm_rate:.1%} false alarms\n"
        f"F1-max: images {evaluation.f1_max:.3f} at {evaluation.f1_threshold:.4g}{at_pixels}\n"
        f"time an image: median {timing.median_ms:.1f} ms, p95 {timing.p95_ms:.1f} ms, "
        f"{timing.images_per_second:.1f} images/s"
    )
    return table


def _cells(row: DefectRow) -> list[str]:
    numbers = ["-" if n is None else f"{n:.3f}" for n in (row.image_auroc, row.pixel_auroc, row.aupro)]
    return [str(row.images), *numbers, f"{row.detection_rate:.1%}"]


def parity_table(rows: Sequence[Parity]) -> Table:
    """The report for the terminal."""
    table = Table(title="Exported forms against PyTorch's dense pass")
    for heading in ("form", "images", "largest", "mean", "score", "rank corr.", "ms"):
        first = heading == "form"
        table.add_column(heading, justify="left" if first else "right", min_width=18 if first else None)
    for row in rows:
        differences = (f"{value:.1e}" for value in (row.largest, row.mean, row.score))
        table.add_row(row.name, str(row.images), *differences, f"{row.rank:.6f}", f"{row.ms:.1f}")
    table.caption = "differences as shares of the reference's largest map value; ms an image"
    return table


def timing_table(rows: Sequence[Timed]) -> Table:
    """Times of all backends for the terminal."""
    table = Table(title="Engine.score, one image a call", caption_justify="left")
    for heading in ("backend", "precision", "p50 ms", "p95 ms", "p99 ms", "images/s", "load s", "MB", "J", "apart"):
        words = heading in ("backend", "precision")
        table.add_column(heading, justify="left" if words else "right", min_width=11 if heading == "backend" else None)
    for row in rows:
        times = (f"{value:.1f}" for value in (row.p50, row.p95, row.p99, row.images_per_second))
        memory = "-" if row.memory is None else f"{row.memory / 1e6:.0f}"
        joules = "-" if row.joules is None else f"{row.joules:.2f}"
        costs = (f"{row.load_seconds:.2f}", memory, joules)
        table.add_row(row.backend, row.precision, *times, *costs, f"{row.difference:.1e}")
    table.caption = (
        f"{rows[0].images} images each, in turn; MB: most memory of a process that scores one image; J: energy an\n"
        "image, where it can be read; apart: the map's largest difference from the first line's"
    )
    return table
