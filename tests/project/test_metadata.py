"""What the project says of itself outside its documents: CITATION.cff, the issue forms, the description in setup.py."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from glance_fast import __version__

ROOT = Path(__file__).resolve().parents[2]


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture
def setup_file(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """setup.py as a module; `called` is what it passes to setuptools."""
    called: dict[str, Any] = {}
    monkeypatch.setattr("setuptools.setup", called.update)
    spec = importlib.util.spec_from_file_location("glance_fast_setup", ROOT / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.__dict__["called"] = called
    return module


def test_the_citation_names_this_version_and_the_paper(setup_file: ModuleType) -> None:
    citation = read_yaml(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors", "type"} <= set(citation)
    assert citation["cff-version"] == "1.2.0"
    assert str(citation["version"]) == __version__ == setup_file.called["version"]
    paper = citation["preferred-citation"]
    assert paper["type"] == "conference-paper"
    assert [author["family-names"] for author in paper["authors"]] == ["Wang", "Wu", "Cui", "Shen"]
    assert paper["url"] == setup_file.called["project_urls"]["Paper"]


def test_the_changelog_has_this_version() -> None:
    headings = [line for line in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines() if line[:3] == "## "]
    assert headings[0] == "## [Unreleased]"
    version, unfinished, _ = __version__.partition(".dev")
    # What is not released yet is under the first heading, which names the version to come in its first sentence.
    expected = f"What {version} will change." if unfinished else f"## [{version}]"
    assert expected in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["bug.yml", "feature.yml"])
def test_an_issue_form_has_the_fields_that_the_site_requires(name: str) -> None:
    form = read_yaml(ROOT / ".github" / "ISSUE_TEMPLATE" / name)
    assert form["name"] and form["description"]
    for part in form["body"]:
        assert part["attributes"].get("label") or part["type"] == "markdown"


@pytest.mark.parametrize(
    ("readme", "described"),
    [
        ("![a picture](docs/a.png)\ntext\n", "text\n"),
        ("see [the plan](docs/plan.md).", "see the plan."),
        ("[![a picture](docs/a.png)](docs/a.md)", ""),
        ("[paper](https://example.org/a), [below](#below)", "[paper](https://example.org/a), [below](#below)"),
    ],
)
def test_a_description_has_no_relative_links(setup_file: ModuleType, readme: str, described: str) -> None:
    assert setup_file.without_relative_links(readme) == described


def test_the_packages_description_leads_nowhere_in_the_repository(setup_file: ModuleType) -> None:
    described = setup_file.called["long_description"]
    assert "](docs/" not in described and ".png)" not in described
    assert "# " in described
