"""Tables in a terminal of 80 columns: nothing is cut."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console
from rich.table import Table

from glance_fast.commands.benchmark import BackendTiming
from glance_fast.commands.tables import evaluation_table, parity_table, timing_table
from glance_fast.evaluation.parity import Parity
from glance_fast.evaluation.results import DefectRow, Evaluation, PixelMetrics, Timing

LONG = "a_class_of_defects_whose_name_is_longer_than_a_terminal_is_wide_" * 2
EVALUATION = Evaluation(
    data="[bold]tiles[/]",
    threshold=12345.678,
    pixel_threshold=1.5,
    image_auroc=0.98765,
    f1_max=0.9,
    f1_threshold=123456.7,
    pixel=PixelMetrics(0.9876, 0.8765, 0.7654, 123456.7),
    false_alarm_rate=0.05,
    detection_rate=1.0,
    defects=tuple(DefectRow(name, 123456, 1.0, 0.5, None, 1.0) for name in (LONG, "[red]crack[/red]", ":warning:")),
    timing=Timing(123456, 12345.6, 12345.6, 12345.6),
    images=(),
)
PARITIES = [
    Parity("onnxruntime fp32", 123456, 1.2e-7, 1e-5, 1.2e-8, 1.2e-7, 0.999999, 12345.6),
    Parity("loop [torch] fp32", 1, 1.2e-7, 1e-5, 1.2e-8, 1.2e-7, float("nan"), 0.1),
]
TIMINGS = [
    BackendTiming(
        backend="onnxruntime", precision="fp32", images=3000, p50=12345.6, p95=23456.7, p99=34567.8,
        images_per_second=99999.4, load_seconds=1234.5, difference=1.2e-7, within=0.00005, joules=12345.6,
        memory=98_765_000_000,
    ),
    BackendTiming(
        backend="tensorrt", precision="int8", images=3000, p50=0.1, p95=0.2, p99=0.3, images_per_second=9999.9,
        load_seconds=0.01, difference=0.0, within=0.5, joules=None, memory=None,
    ),
]  # fmt: skip


def rendered(table: Table, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, markup=False, emoji=False)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("table", "names", "words"),
    [
        (
            evaluation_table(EVALUATION),
            [LONG, "[red]crack[/red]", ":warning:"],
            "[bold]tiles[/]: image pixel AUROC AUPRO detected 123456 1.000 0.500 100.0% 370368",
        ),
        (
            parity_table(PARITIES),
            ["onnxruntime fp32", "loop [torch] fp32"],
            "images largest within mean score rank ms 123456 1.2e-07 1e-05 1.2e-08 0.999999 12346 nan",
        ),
        (
            timing_table(TIMINGS),
            ["onnxruntime fp32", "tensorrt int8"],
            "p50 p95 p99 img/s load MB J error within 12346 23457 34568 99999 98765 1e-07 5e-05 0.01 10000",
        ),
    ],
    ids=["evaluation", "parity", "timing"],
)
def test_a_table_is_whole_at_80_columns(table: Table, names: list[str], words: str) -> None:
    text = rendered(table)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert set(words.split()) <= set(re.findall(r"\S+", text))
    first_column = "".join(re.findall(r"^\S+(?: \S+)*", text, re.MULTILINE)).replace(" ", "")
    assert all(name.replace(" ", "") in first_column for name in names)
