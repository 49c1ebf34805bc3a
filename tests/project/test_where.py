"""Where is X? Names of folders and files answer it, and each file defines what its name says."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# What a reader looks for, the file or folder that its name leads to, and what is defined there.
WHERE = {
    "the anomaly map": ("glance_fast/postprocessing/anomaly_map.py", {"map_weights", "interpolate"}),
    "the threshold": ("glance_fast/postprocessing/calibration.py", {"Calibration", "calibrate"}),
    "the mask update of partial convolution": ("kernels/reference/partial_conv.py", {"partial_conv_reference"}),
    "the plan": ("glance_fast/plan/plan.py", {"Plan", "compile_plan"}),
    "the TensorRT build": ("export/tensorrt/build.py", {"build_engine"}),
    "a stain": ("glance_fast/stains/", {"Stain", "Scratch", "Blob", "Pit", "Blur"}),
}


@pytest.mark.parametrize("subject", WHERE)
def test_a_file_defines_what_its_name_says(subject: str) -> None:
    name, expected = WHERE[subject]
    path = ROOT / name
    files = sorted(path.glob("*.py")) if name.endswith("/") else [path]
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files]
    defined = {node.name for tree in trees for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    assert expected <= defined


@pytest.mark.parametrize("subject", WHERE)
def test_the_page_on_the_layout_says_so(subject: str) -> None:
    page = (ROOT / "docs" / "layout.md").read_text(encoding="utf-8")
    assert f"| {subject} | `{WHERE[subject][0]}` |" in page
