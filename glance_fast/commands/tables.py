"""Tables of results for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from glance_fast.commands.benchmark import BackendTiming
from glance_fast.data.text import printable
from glance_fast.evaluation.parity import Parity
from glance_fast.evaluation.results import PRO_LIMIT, DefectRow, Evaluation


def evaluation_table(evaluation: Evaluation) -> Table:
    """Metrics of an evaluation: one row per defect class, and one for all of them."""
    timing, pixel = evaluation.timing, evaluation.pixel
    headings = ("images", "image\nAUROC", "pixel\nAUROC", f"AUPRO\n{PRO_LIMIT}", "detected")
    table = _table(f"{printable(evaluation.data)}: {timing.images} images", "defect", headings)
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
        f"time per image: median {timing.median_ms:.1f} ms, p95 {timing.p95_ms:.1f} ms, "
        f"{timing.images_per_second:.1f} images/s"
    )
    return table


def _cells(row: DefectRow) -> list[str]:
    numbers = ["-" if n is None else f"{n:.3f}" for n in (row.image_auroc, row.pixel_auroc, row.aupro)]
    return [str(row.images), *numbers, f"{row.detection_rate:.1%}"]


def parity_table(rows: Sequence[Parity]) -> Table:
    """The parity report: one row per export, and one for the per-patch loop."""
    headings = ("images", "largest", "within", "mean", "score", "rank", "ms")
    table = _table("Exports against PyTorch's dense pass", "export", headings)
    for row in rows:
        largest, within = f"{row.largest:.1e}", f"{row.within:g}"
        others = f"{row.mean:.1e}", f"{row.score:.1e}", f"{row.rank:.6f}", _short(row.ms, 1)
        table.add_row(Text(row.name), str(row.images), largest, within, *others)
    table.caption = (
        "largest, mean, score: differences over the reference's largest map value\n"
        "within: the precision's tolerance for the largest\n"
        "rank: Spearman's correlation of the scores; ms: median per image"
    )
    return table


def timing_table(rows: Sequence[BackendTiming]) -> Table:
    """Times of all backends: one row per backend and precision."""
    headings = ("p50", "p95", "p99", "img/s", "load\ns", "MB", "J", "error", "within")
    table = _table("Engine.score in ms, one image per call", "backend", headings)
    for row in rows:
        times = (_short(value, 1) for value in (row.p50, row.p95, row.p99, row.images_per_second))
        memory = "-" if row.memory is None else f"{row.memory / 1e6:.0f}"
        joules = "-" if row.joules is None else _short(row.joules, 2)
        costs = (_short(row.load_seconds, 2), memory, joules)
        name, check = Text(f"{row.backend} {row.precision}"), (f"{row.difference:.0e}", f"{row.within:g}")
        table.add_row(name, *times, *costs, *check)
    table.caption = (
        f"{rows[0].images} images per backend, interleaved; img/s: images per second\n"
        "MB: peak memory of a process that scores one image\n"
        "J: energy per image, where it can be read\n"
        "error: largest difference from the first row's map, over its largest value\n"
        "within: the precision's tolerance that the error was checked against"
    )
    return table


def _table(title: str, first: str, headings: Sequence[str]) -> Table:
    """A table that 80 columns show whole: only the names, headed by `first`, go on in further lines."""
    table = Table(
        title=Text(title),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column(first, overflow="fold")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _short(value: float, digits: int) -> str:
    """A number with `digits` decimals, and without them if it is large: 5 characters below 100,000."""
    return f"{value:.{digits}f}" if value < 10 ** (4 - digits) else f"{value:.0f}"
