"""What the pages of version 0.1.0 named works, or is an error that gives the new name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from glance_fast.config import ModelConfig, TrainConfig
from glance_fast.engine import Engine
from glance_fast.errors import BackendError, ConfigError

ROOT = Path(__file__).resolve().parents[2]


def test_import_paths_of_the_pages_work() -> None:
    from glance_fast.kernels.cpu.build import extension
    from glance_fast.kernels.cpu_extension import extension as former_extension

    assert former_extension is extension


# The commands `python -m bench.<name>` of all pages of version 0.1.0.
FORMER_COMMANDS = (
    *("alone", "check", "compile_kernels", "gpu", "needs", "pace", "runtimes", "scaling", "scaling_point", "speed"),
    *("startup", "throughput", "training_speed", "tune"),
)


def test_every_command_of_the_pages_is_there() -> None:
    missing = [name for name in FORMER_COMMANDS if not (ROOT / "bench" / f"{name}.py").is_file()]
    assert missing == []


@pytest.mark.parametrize(
    ("former", "current"),
    [
        ("alone", "harness.peak_memory"),
        ("pace", "latency"),
        ("needs", "kernel_roofline"),
        ("scaling_point", "harness.scaling_point"),
    ],
)
def test_a_renamed_benchmark_gives_its_new_name(former: str, current: str) -> None:
    command = [sys.executable, "-m", f"bench.{former}", "--preset", "fast"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 1 and f"python -m bench.{current}" in run.stderr


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (ModelConfig, {"lean": 3}, "setting 'lean' is now 'center_offset'"),
        (ModelConfig, {"local_net": "trunk"}, "local_net = 'trunk' is now 'pretrained'"),
        (ModelConfig, {"wide": 4, "top": 3}, "setting 'wide' is now 'context_features'; setting 'top' is now 'top_k'"),
        (TrainConfig, {"patches": 3}, "setting 'patches' is now 'patches_per_step'"),
    ],
)
def test_settings_made_in_python_give_the_new_name(kind: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        kind(**values)


def test_the_former_name_of_tensorrts_options_gives_the_new_one(tmp_path: Path) -> None:
    from glance_fast.export.forms import export

    with pytest.raises(ConfigError, match="'plan' of export is now 'tensorrt'"):
        export(tmp_path, "tensorrt", plan=None)
    with pytest.raises(BackendError, match="unknown format 'tflite'"):
        export(tmp_path, "tflite")


def test_the_former_name_of_the_plans_compilation_gives_the_new_one() -> None:
    from glance_fast.models.model import GlanceModel

    with pytest.raises(AttributeError, match="now GlanceModel.compile_plan"):
        GlanceModel(ModelConfig()).plan()


def test_what_a_model_says_of_itself_keeps_its_former_name(engine: Engine) -> None:
    assert engine.facts() == engine.metadata()
