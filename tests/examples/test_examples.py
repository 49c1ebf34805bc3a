"""The numbered examples, each run as a program on small data and with one small model that they share."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from glance_fast.backends.tolerances import tolerance

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


def run(name: str, *arguments: str | Path) -> str:
    """What an example prints; it sees this checkout's package and one thread."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, EXAMPLES / name, *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the photographs and the model, as the first example leaves them."""
    folder = tmp_path_factory.mktemp("examples")
    run("part_photos.py", folder / "parts", "--train", "44", "--test", "2")
    small = ["--set", "features=16", "--set", "stride=16"]
    output = run("01_train_and_score.py", folder / "parts", folder / "parts.model", "--effort", "0.01", *small)
    assert "threshold " in output and "map (128, 128)" in output
    assert re.search(r"hole/000\.png: score [\d.]+, p-value 0\.022, anomalous", output)
    return folder


def test_arrays_and_streams(work: Path) -> None:
    output = run("02_score_arrays_and_streams.py", work / "parts.model", work / "parts")
    scores = re.findall(r"^ *(?:PosixPath|PngImageFile|ndarray): ([\d.]+)$", output, re.MULTILINE)
    assert len(scores) == 4 and len(set(scores)) == 1
    assert "map (160, 200)" in output and "frame 1: " in output


def test_evaluate(work: Path) -> None:
    output = run("03_evaluate.py", work / "parts.model", work / "parts", work / "evaluation")
    assert "image AUROC 1.000" in output and "AUPRO" in output
    assert (work / "evaluation" / "report.html").is_file()


def test_export_and_run(work: Path) -> None:
    output = run("04_export_and_run.py", work / "parts.model", work / "parts")
    (difference,) = re.findall(r"maps differ by at most (\S+) of", output)
    assert float(difference) <= tolerance("trained map", "fp32")
    assert "openvino" in output.splitlines()[-1]


def test_embed_in_a_line(work: Path) -> None:
    output = run("05_embed_in_a_line.py", work / "parts.model", work / "parts")
    assert "part 3: " in output and "4 accepted" not in output
    accepting = run("05_embed_in_a_line.py", work / "parts.model", work / "parts", "--threshold", "inf")
    assert "4 accepted, 0 rejected" in accepting


def test_every_numbered_example_is_run_here() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    names = [file.name for file in sorted(EXAMPLES.glob("*.py")) if file.name[0].isdigit()]
    assert len(names) == 5 and all(f'"{name}"' in source for name in names)
