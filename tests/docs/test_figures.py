"""Figures in the documents: generated from committed rows, or listed with the reason why they are not."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.figures import FIGURE, TABLE, TABLES, WITHOUT_ROWS, generated, pages
from bench.tables import sentences, speed
from bench.tables.rows import ROOT, markdown

ALLOWED = Path(__file__).with_name("figures_allowed.toml")
# The pages on which every measured number must have rows or a reason.
MEASURED = [ROOT / "README.md", *sorted((ROOT / "docs" / "benchmarks").glob("*.md"))]
CODE = re.compile(r"```.*?```|`[^`]*`", re.DOTALL)
NUMBER = re.compile(
    r"(?<![\w.])\d[\d.,]*(?:[ \n]?(?:(?:ms|s|µs|seconds?|minutes?|MB|GB|GMAC|GFLOP/s|times)\b|×(?!\d)|%))"
    r"|(?<![\w.])0\.\d{3,}(?!\d)"
)


def label(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def prose(page: Path) -> str:
    """A page without code, generated tables and generated figures, its spaces and line ends as single spaces."""
    text = page.read_text(encoding="utf-8")
    for pattern in (TABLE, FIGURE, CODE):
        text = pattern.sub("", text)
    return " ".join(text.split())


def allowed() -> Iterator[tuple[str, str, str]]:
    """The page, the phrase and the reason of each number without rows."""
    for entry in tomllib.loads(ALLOWED.read_text(encoding="utf-8"))["allowed"]:
        yield entry["page"], " ".join(CODE.sub("", entry["text"]).split()), entry["reason"]


def unexplained(text: str, phrases: list[str]) -> list[str]:
    """The numbers with a unit that are in none of the phrases."""
    for phrase in phrases:
        text = text.replace(phrase, "")
    return [match[0] for match in NUMBER.finditer(text)]


@pytest.mark.parametrize("page", pages(), ids=label)
def test_tables_and_figures_are_those_of_the_committed_rows(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert generated(text) == text, "run python -m bench.figures"


@pytest.mark.parametrize("page", MEASURED, ids=label)
def test_every_number_with_a_unit_is_generated_or_has_a_reason(page: Path) -> None:
    assert unexplained(prose(page), [text for name, text, _ in allowed() if name == label(page)]) == []


def test_every_allowed_phrase_is_on_its_page_and_has_a_reason() -> None:
    for name, text, reason in allowed():
        assert text in prose(ROOT / name), f"{name} no longer says: {text}"
        assert NUMBER.search(text) and len(reason) > 10, text


def test_every_table_without_rows_is_on_a_page_and_no_table_is_never_used() -> None:
    used = {match[2] for page in pages() for match in TABLE.finditer(page.read_text(encoding="utf-8"))}
    assert used == {*TABLES, *WITHOUT_ROWS}


def test_a_number_without_rows_and_a_changed_figure_are_found() -> None:
    assert unexplained("it took 16.8 ms, and 0.953", []) == ["16.8 ms", "0.953"]
    assert unexplained("a 256×256 image, 55× and 55% in 8 minutes", ["in 8 minutes"]) == ["55×", "55%"]
    wrong = "<!-- figure: loop-range -->1 to 2<!-- end -->"
    assert generated(wrong) != wrong
    with pytest.raises(SystemExit, match="no figure is called loop"):
        generated("<!-- figure: loop -->1<!-- end -->")
    with pytest.raises(SystemExit, match="no table is called loops"):
        generated("<!-- table: loops -->\n| a |\n<!-- end table -->")


def test_figures_whose_rows_are_not_committed_yet_are_written_from_them(monkeypatch: pytest.MonkeyPatch) -> None:
    startup = {"import_s": 0.13, "load_s": 0.43, "score_s": 0.03, "total_s": 0.6}
    installed = {"openvino": 185_000_000, "numpy": 71_000_000, "pillow": 22_000_000}
    stride = {"stride": 8, "locations": 841, "loop_ms": 4800.0, "dense_ms": 84.0, "speedup": 57.2, "fewer_macs": 76.04}
    committed = {
        sentences.TRAINING: [{"dense_ms_per_hole": 2.41, "masked_ms_per_hole": 49.0, "speedup": 20.3}],
        sentences.STARTUP: [
            {"backend": backend, **startup, "install_bytes": installed}
            for backend in ("torch", "onnxruntime", "openvino")
        ],
        "speed.jsonl": [stride, {**stride, "stride": 4}],
    }
    for module in (sentences, speed):
        monkeypatch.setattr(module, "read_rows", committed.__getitem__)
    figures = {name: figure() for name, (_, figure) in sentences.LATER.items()}
    assert figures["training-speedup"] == "20 times" and figures["startup-torch-total"] == "0.60 s"
    assert figures["install-total"] == "278 MB" and figures["install-numpy"] == "71"
    (_, table) = speed.LATER["dense-and-loop"]
    assert markdown(table()).splitlines()[2] == "| stride 8 | 841 | 4.8 s | 84 ms | 57× | 76.0× |"


def test_the_tables_of_the_plan_are_those_of_the_compiled_plans() -> None:
    command = [sys.executable, "docs/pictures/plan_tables.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"run python docs/pictures/plan_tables.py {done.stderr}"
