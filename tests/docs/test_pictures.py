"""Pictures that carry figures show what the committed rows and the compiled plans give."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "docs" / "pictures"
# The rows of which each picture is drawn, and a value of these that it shows.
DRAWN = {
    "accuracy": ("mt-latency.json", "ms"),
    "runtimes": ("runtimes.jsonl", "ms"),
    "scaling": ("scaling.jsonl", "ms"),
}
# What one run of the demo gave, as its own pictures say it, and a sheet without figures.
WITHOUT_ROWS = {"demo", "stains"}


def check(script: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, script, "--check"], cwd=ROOT, capture_output=True, text=True, check=False)


def test_every_other_picture_says_what_it_shows() -> None:
    without = set()
    for file in PICTURES.glob("*.png"):
        with Image.open(file) as image:
            without |= {file.stem} if "Digest" not in image.info else set()
    assert without == WITHOUT_ROWS


@pytest.mark.parametrize("name", [*DRAWN, "plan"])
def test_pictures_show_what_is_committed(name: str) -> None:
    done = check(PICTURES / f"{name}.py")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", DRAWN)
def test_a_changed_value_of_the_rows_is_reported(name: str, tmp_path: Path) -> None:
    shutil.copytree(PICTURES, tmp_path / "docs" / "pictures")
    shutil.copytree(ROOT / "bench" / "results", tmp_path / "bench" / "results")
    file, value = DRAWN[name]
    change(tmp_path / "bench" / "results" / file, value)
    done = check(tmp_path / "docs" / "pictures" / f"{name}.py")
    assert done.returncode == 1 and f"{name}.png is not what its rows say" in done.stderr


def change(file: Path, value: str) -> None:
    """Raise a value of all rows by a hundredth."""
    text = file.read_text(encoding="utf-8")
    lines = file.suffix == ".jsonl"
    rows: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()] if lines else json.loads(text)
    changed = [row | {value: row[value] * 1.01} if row.get(value) else row for row in rows]
    file.write_text("\n".join(map(json.dumps, changed)) if lines else json.dumps(changed), encoding="utf-8")
