"""The example in C++ gives the engine's score."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import openvino
import pytest

from glance_fast.engine import Engine
from glance_fast.storage.export_record import export_path
from tests.helpers.images import save_image, textured_image
from tests.helpers.tolerances import assert_near

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_program_in_cpp_gives_the_same_score(exported_folder: Path, tmp_path: Path) -> None:
    """The example in C++, compiled against the headers that OpenVINO's own package holds."""
    runtime = Path(openvino.__path__[0])
    (library,) = runtime.glob("libs/libopenvino.so.*")
    program = tmp_path / "score"
    source = ROOT / "examples" / "score.cpp"
    where = [f"-I{runtime / 'include'}", str(library), f"-Wl,-rpath,{runtime / 'libs'}"]
    subprocess.run(["g++", "-std=c++17", str(source), *where, "-o", str(program)], check=True)
    save_image(tmp_path / "photo.ppm", textured_image(48, 56))
    save_image(tmp_path / "other.ppm", textured_image(40, 56))
    model = export_path(exported_folder, "openvino", "fp32").with_suffix(".xml")
    done = subprocess.run([program, model, tmp_path / "photo.ppm"], capture_output=True, text=True, check=True)
    expected = Engine.load(exported_folder, "openvino").score(textured_image(48, 56))
    score, verdict = done.stdout.split()
    assert_near(float(score), expected.score, "same graph")
    assert verdict == ("anomalous" if expected.is_anomalous else "normal")
    done = subprocess.run([program, model, tmp_path / "other.ppm"], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "is 40x56, the model sees 48x56" in done.stderr
