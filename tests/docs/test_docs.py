"""The pages: a short README, links that lead somewhere, no page outside the navigation, tables with their source."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest
import typer

from glance_fast import ModelConfig, TrainConfig, cli

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
LINKED = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]
LINK = re.compile(r"!?\[(?:[^\]\[]|!\[[^\]]*\]\([^)]*\))*\]\(([^)\s]+)\)")
# A path of the repository in code style; * stands for any name.
PATH = re.compile(r"`((?:tests|glance_fast|bench|kernels|export|docs|examples)/[\w./*-]*)`")
# A measurement: a time, a rate, a share of work; not a size in pixels or a version.
FIGURE = re.compile(r"\d (?:ms|µs|s|MB)\b|\d×|\b0\.\d{3}\b")


def label(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def prose(path: Path) -> str:
    """A page without its code."""
    text = re.sub(r"^( *)```.*?^\1```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "`code`", text)


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings: lower case, punctuation gone, spaces as hyphens."""
    text = re.sub(r"^( *)```.*?^\1```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


def broken(path: Path) -> Iterator[str]:
    """Relative links of a page to files or headings that are not there."""
    for target in LINK.findall(prose(path)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            yield target


def tables_of_figures(lines: list[str]) -> Iterator[int]:
    """Numbers of the lines at which a table begins that holds a measurement."""
    for i, line in enumerate(lines):
        if line.startswith("|") and not lines[i - 1].startswith("|"):
            rows = takewhile(lambda row: row.startswith("|"), lines[i:])
            if any(FIGURE.search(row) for row in rows):
                yield i


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 700


@pytest.mark.parametrize("path", LINKED, ids=label)
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    assert list(broken(path)) == []


@pytest.mark.parametrize("path", LINKED, ids=label)
def test_every_path_that_a_page_names_is_there(path: Path) -> None:
    text = re.sub(r"^( *)```.*?^\1```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert [name for name in sorted({*PATH.findall(text)}) if not [*ROOT.glob(name)]] == []


def test_no_page_is_left_out_of_the_navigation() -> None:
    listed = re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2])
    assert sorted(listed) == [page.relative_to(DOCS).as_posix() for page in PAGES]


def test_pages_load_nothing_from_elsewhere() -> None:
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert "font: false" in config and "http" not in config
    assert not [label(page) for page in PAGES if re.search(r"!\[[^\]]*\]\(https?:|<(?:img|script|link)\b", prose(page))]


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted((DOCS / "benchmarks").glob("*.md"))], ids=label)
def test_a_table_of_figures_is_marked_and_has_a_name_of_its_own(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    names = [match.group(1) for line in lines if (match := re.fullmatch(r"<!-- table: ([\w-]+) -->", line))]
    assert len(names) == len(set(names)) == lines.count("<!-- end table -->")
    assert [lines[i] for i in tables_of_figures(lines) if not lines[i - 1].startswith("<!-- table: ")] == []


def commands(path: Path) -> list[str]:
    """The lines of a page's shell blocks that run `glance-fast`."""
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip().startswith("glance-fast ")]


@pytest.mark.parametrize("path", [page for page in PAGES if commands(page)], ids=label)
def test_the_commands_of_a_page_are_understood(path: Path) -> None:
    group = typer.main.get_group(cli.app)
    for line in commands(path):
        words = shlex.split(line, comments=True)
        group.commands[words[1]].make_context(words[1], words[2:])


@pytest.mark.parametrize("path", LINKED, ids=label)
def test_the_benchmarks_that_a_page_names_are_there(path: Path) -> None:
    named = set(re.findall(r"python -m (bench(?:\.\w+)+)", path.read_text(encoding="utf-8")))
    assert [name for name in sorted(named) if not (ROOT / f"{name.replace('.', '/')}.py").is_file()] == []


def test_the_page_of_the_kernels_lists_the_operators() -> None:
    declared = re.findall(r'"glance_fast::(\w+)"', (ROOT / "kernels" / "gpu" / "ops.py").read_text(encoding="utf-8"))
    page = (DOCS / "kernels.md").read_text(encoding="utf-8")
    (sentence,) = re.findall(r"`torch\.ops\.glance_fast\.(.*?)\.\n", page, re.DOTALL)
    assert sorted(re.findall(r"(\w+)`", sentence)) == sorted(declared)


@pytest.mark.parametrize("top", ["glance_fast", "kernels", "export", "bench"])
def test_the_layout_has_a_line_for_every_package(top: str) -> None:
    page = (DOCS / "layout.md").read_text(encoding="utf-8")
    folders = [folder for folder in (ROOT / top).iterdir() if folder.is_dir() and folder.name != "__pycache__"]
    names = {f"`{folder.name}/`" if top == "glance_fast" else f"`{top}/{folder.name}/`" for folder in folders}
    assert [name for name in sorted(names) if f"| {name} |" not in page] == []


@pytest.mark.parametrize("path", LINKED, ids=label)
def test_the_settings_that_a_page_changes_are_legal(path: Path) -> None:
    named = re.findall(r"--set\s+'?(\w+)=", path.read_text(encoding="utf-8"))
    legal = {*ModelConfig.model_fields, *TrainConfig.model_fields, "name"}
    assert sorted(set(named) - legal) == []
