"""The base install: it scores in an environment without PyTorch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.startup import install, sizes
from glance_fast.data.images import read_image
from glance_fast.engine import Engine
from tests.helpers.images import save_image, textured_image
from tests.helpers.tolerances import assert_near


def test_the_base_install_scores_without_pytorch(exported_folder: Path, tmp_path: Path) -> None:
    """A new environment, made from the package index, with the base install and nothing else in it."""
    reach = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(tmp_path), "typer"]
    if subprocess.run(reach, capture_output=True, check=False).returncode:
        pytest.skip("no package index can be reached to make an environment from")
    python = install(tmp_path / "base")
    packages = {name.lower() for name in sizes(python)}
    assert {"glance-fast", "openvino", "numpy"} <= packages and not {"torch", "onnx", "scipy"} & packages
    code = (
        "import sys, numpy as np\n"
        "from glance_fast import Engine\n"
        f"result = Engine.load({str(exported_folder)!r}).score(np.load({str(tmp_path / 'image.npy')!r}))\n"
        "print(result.score, result.map.shape)\n"
        "from glance_fast.errors import GlanceError\n"
        "for backend in ('torch', 'onnxruntime', 'tensorrt'):\n"
        "    try:\n"
        f"        Engine.load({str(exported_folder)!r}, backend)\n"
        "    except GlanceError as error:\n"
        "        print(error)\n"
    )
    np.save(tmp_path / "image.npy", textured_image(96, 112))
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    first_line, *errors = done.stdout.splitlines()
    score, shape = first_line.split(" ", 1)
    assert shape == "(96, 112)"
    assert_near(float(score), Engine.load(exported_folder, "torch").score(textured_image(96, 112)).score)
    for error, extra in zip(errors, ("train", "onnxruntime", "tensorrt"), strict=True):
        assert f"pip install '.[{extra}]' (in a checkout" in error
    save_image(tmp_path / "photo.png", textured_image(96, 112))
    score_it = [
        str(python.with_name("glance-fast")),
        "score",
        str(tmp_path / "photo.png"),
        "--model",
        str(exported_folder),
    ]
    done = subprocess.run(
        [*score_it, "--output", str(tmp_path / "out")], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert read_image(tmp_path / "out" / "overlays" / "photo.jpg").ndim == 3
