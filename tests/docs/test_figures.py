"""Figures in documents: generated from committed rows, or listed with the reason why they are no measurements."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.figures import FIGURE, TABLE, TABLES, check, generated, pages
from bench.tables import kernels, transcribed
from bench.tables.rows import RESULTS, ROOT

ALLOWED = Path(__file__).with_name("figures_allowed.toml")
CODE = re.compile(r"```.*?```|`[^`]*`", re.DOTALL)
# Tables and sentences of docs/plan.md, which a test of their own compares with compiled plans.
COUNTED = re.compile(r"<!-- \w+: written by .*?<!-- end -->", re.DOTALL)
VERSION = re.compile(r"\b(?:Python|torch|numpy|Triton|TensorRT|OpenVINO|Runtime) \d+(?:\.\d+)+(?: and \d[\d.]+)?")
VALUE = r"\d[\d,]*(?:\.\d+)?(?:e-\d+)?"
JOIN = r"(?: to | and | or |, | instead of | against )"
UNIT = (
    r"(?: ?(?:ms|s|µs|seconds?|minutes?|[kMGT]B(?:/s)?|bytes|GMAC|[GT]FLOP/s|times|images per second|billion|million)\b"
    r"|×(?! ?\d)|%)"
)
# Values with a unit and lists of them, bare decimals and exponents, and what is compared with a value.
NUMBER = re.compile(
    rf"(?<![\w.×-]){VALUE}(?:{JOIN}{VALUE})*{UNIT}"
    r"|(?<![\w.×/-])(?:\d+\.\d+|\d+e-\d+)(?![\w×]|\.\d)"
    r"|(?:(?<=instead of )|(?<=against ))\d[\d.]*\b(?!×)"
)
CHECKED_PAGES = [page for page in pages() if FIGURE.search(page.read_text(encoding="utf-8"))]


def label(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def prose(page: Path) -> str:
    """A page without code, versions, generated tables and generated figures, spaces and line ends as single spaces."""
    text = page.read_text(encoding="utf-8")
    for pattern in (TABLE, FIGURE, COUNTED, CODE):
        text = pattern.sub("", text)
    return VERSION.sub("", " ".join(text.split()))


def allowed() -> Iterator[tuple[str, str, str]]:
    """The page, the phrase and the reason of each number without rows."""
    for entry in tomllib.loads(ALLOWED.read_text(encoding="utf-8"))["allowed"]:
        yield entry["page"], " ".join(CODE.sub("", entry["text"]).split()), entry["reason"]


def unexplained(text: str, phrases: list[str]) -> list[str]:
    """The numbers that are in none of the phrases."""
    for phrase in phrases:
        text = text.replace(phrase, "")
    return [match[0] for match in NUMBER.finditer(text)]


def with_another_digit(text: str) -> str:
    """The text with its last digit changed."""
    last = [*re.finditer(r"\d", text)][-1]
    return f"{text[: last.start()]}{(int(last[0]) + 1) % 10}{text[last.end() :]}"


@pytest.mark.parametrize("page", pages(), ids=label)
def test_tables_and_figures_are_those_of_the_committed_rows(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert generated(text) == text, "run python -m bench.figures"


@pytest.mark.parametrize("page", pages(), ids=label)
def test_every_number_is_generated_or_has_a_reason(page: Path) -> None:
    assert unexplained(prose(page), [text for name, text, _ in allowed() if name == label(page)]) == []


def test_every_allowed_phrase_is_on_its_page_and_has_a_reason() -> None:
    for name, text, reason in allowed():
        assert text in prose(ROOT / name), f"{name} no longer says: {text}"
        assert NUMBER.search(text) and len(reason) > 10, text


def test_no_table_and_no_transcribed_row_is_never_used() -> None:
    texts = [page.read_text(encoding="utf-8") for page in pages()]
    assert {match[2] for text in texts for match in TABLE.finditer(text)} == {*TABLES}
    used = {match[2].removesuffix(".value") for text in texts for match in FIGURE.finditer(text)}
    in_tables = tuple(f"{name}-" for name in transcribed.TABLES)
    rows = [json.loads(line)["name"] for line in (RESULTS / transcribed.ROWS).read_text("utf-8").splitlines()]
    assert [name for name in rows if name not in used and not name.startswith(in_tables)] == []


def test_transcribed_rows_name_their_command_date_commit_and_page() -> None:
    for line in (RESULTS / transcribed.ROWS).read_text("utf-8").splitlines():
        row = json.loads(line)
        assert {*row} == {"name", "value", "unit", "command", "date", "commit", "page"}
        assert re.fullmatch(r"2026-11-2\d", row["date"]) and re.fullmatch(r"[0-9a-f]{7}", row["commit"])
        assert row["command"] and (ROOT / row["page"]).is_file()


def test_a_number_without_rows_is_reported() -> None:
    assert unexplained("it took 16.8 ms, and 0.953", []) == ["16.8 ms", "0.953"]
    assert unexplained("a 256×256 image, 55× and 55% in 8 minutes", ["in 8 minutes"]) == ["55×", "55%"]
    assert unexplained("takes 0.93 (a), 2.31 (b): 305 MB", []) == ["0.93", "2.31", "305 MB"]
    assert unexplained("54 images per second instead of 47, 14 MB instead of 26", []) == [
        "54 images per second", "47, 14 MB", "26",
    ]  # fmt: skip
    assert unexplained("150 to 220 GFLOP/s, 1.15 to 1.24 times, 2e-7", []) == [
        "150 to 220 GFLOP/s", "1.15 to 1.24 times", "2e-7",
    ]  # fmt: skip


def test_names_that_no_figure_and_no_table_has_are_reported() -> None:
    with pytest.raises(SystemExit, match="no figure is called loop;"):
        generated("<!-- figure: loop -->1<!-- end -->")
    with pytest.raises(SystemExit, match="no table is called loops;"):
        generated("<!-- table: loops -->\n| a |\n<!-- end table -->")


@pytest.mark.parametrize("page", CHECKED_PAGES, ids=label)
def test_a_changed_digit_of_a_page_is_reported(page: Path, tmp_path: Path) -> None:
    copy = tmp_path / label(page)
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=lambda _, names: [n for n in names if "." in n])
    (tmp_path / "README.md").touch()
    text = page.read_text(encoding="utf-8")
    copy.write_text(text, encoding="utf-8")
    assert check(tmp_path) == []
    for pattern in (TABLE, FIGURE):
        if match := pattern.search(text):
            copy.write_text(text.replace(match[0], match[1] + with_another_digit(match[3]) + match[4], 1), "utf-8")
            assert check(tmp_path) == [label(page)]


@pytest.mark.parametrize("page", CHECKED_PAGES, ids=label)
def test_a_changed_digit_of_any_figure_or_table_is_reported(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for pattern in (TABLE, FIGURE):
        for match in pattern.finditer(text):
            changed = match[1] + with_another_digit(match[3]) + match[4]
            assert generated(changed) != changed, match[2]


@pytest.mark.parametrize("page", [p for p in pages() if TABLE.search(p.read_text("utf-8"))], ids=label)
def test_the_paragraph_above_a_table_names_its_command_and_its_rows(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for match in TABLE.finditer(text):
        above = text[: match.start()].rstrip().rpartition("\n\n")[2]
        named = " ".join(above.split())
        assert re.search(r"`(?:python -m bench\.\w+|glance-fast \w+|make [\w-]+)", named), match[2]
        files = re.findall(r"`(?:bench/results/)?([\w-]+\.jsonl?)`", named)
        assert files or match[2] in kernels.TABLES, match[2]
        assert [name for name in files if not (RESULTS / name).is_file()] == []


def test_the_tables_of_the_plan_are_those_of_the_compiled_plans() -> None:
    command = [sys.executable, "docs/pictures/plan_tables.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"run python docs/pictures/plan_tables.py {done.stderr}"


def test_the_command_above_the_plans_costs_prints_them() -> None:
    page = (ROOT / "docs" / "plan.md").read_text(encoding="utf-8")
    match = re.search(r"^`(print\(.*?\))`.*?```text\n(.*?)\n```", page, re.MULTILINE | re.DOTALL)
    assert match
    program = f"from glance_fast import ModelConfig\nfrom glance_fast.models.model import GlanceModel\n{match[1]}"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == match[2].strip()
