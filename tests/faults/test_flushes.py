"""Every public writer flushes what it wrote before it is named, and the name after: a power cut takes nothing saved."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from glance_fast.export.export import export
from glance_fast.storage.sync import sync_file
from glance_fast.training.train import Job, train_model
from tests.helpers.calls import Call, Rename, Sync, recorded_calls, require_durable, state, traced_calls
from tests.helpers.command_line import run_command
from tests.helpers.images import save_image, save_images
from tests.helpers.models import save_tiny, tiny_config, tiny_model
from tests.helpers.training import TRAIN

ROOT = Path(__file__).parents[2]


def test_a_model_and_the_checkpoints_of_its_run(tmp_path: Path) -> None:
    save_images(tmp_path / "photos", 12, (61, 70))
    with recorded_calls() as calls:
        train_model(Job(tmp_path / "photos", tmp_path / "model"), tiny_config(), TRAIN)
    require_durable(calls)
    assert renamed_to(calls, tmp_path / "model")
    work = tmp_path / "model.training"
    for stage in ("distil", "fine-tune", "global", "dad"):
        assert renamed_to(calls, work / f"{stage}.safetensors")
    named = [number for number, call in enumerate(calls) if call in renamed_to(calls, work / "state.safetensors")]
    assert len(named) >= 2 * 4  # of the first step and of the end of each stage
    assert all(Sync(work / "log.jsonl") in map(without_state, calls[:number]) for number in named)


def without_state(call: Call) -> Call:
    return Sync(call.path) if isinstance(call, Sync) else call


@pytest.mark.parametrize("again", [False, True], ids=["first", "replaced"])
def test_an_export(tmp_path: Path, again: bool) -> None:
    folder = save_tiny(tmp_path / "model", tiny_model())
    if again:
        export(folder, "onnx")
    with recorded_calls() as calls:
        export(folder, "onnx")
    require_durable(calls)
    (rename,) = renamed_to(calls, folder / "exports" / "onnx-fp32")
    assert {".", "onnx-fp32.onnx", "onnx-fp32.json"} == set(rename.states)


def test_the_tables_of_a_scoring_run(tmp_path: Path, tiny_folder: Path) -> None:
    save_images(tmp_path / "in", 4)
    output = tmp_path / "out"
    with recorded_calls() as calls:
        run_command("score", tmp_path / "in", "--model", tiny_folder, "--output", output)
    require_durable(calls)
    require_kept(calls, output, "scores.csv", "scores.jsonl", "run.json")


def test_an_evaluation(tmp_path: Path, tiny_folder: Path) -> None:
    data, output = tmp_path / "data", tmp_path / "out"
    for name in ("good", "crack"):
        save_images(data / "test" / name, 2)
    for number in range(2):
        mask = np.zeros((48, 56), np.uint8)
        mask[10:20, 10:20] = 255
        save_image(data / "ground_truth" / "crack" / f"{number:02}_mask.png", mask)
    with recorded_calls() as calls:
        run_command("evaluate", data, "--model", tiny_folder, "--output", output)
    require_durable(calls)
    require_kept(calls, output, "evaluation.json", "scores.csv", "report.html")


def renamed_to(calls: list[Call], target: Path) -> list[Rename]:
    return [call for call in calls if isinstance(call, Rename) and call.target == target]


def require_kept(calls: list[Call], folder: Path, *names: str) -> None:
    """Fail unless each file is now as it was flushed last, whatever its name was then."""
    flushed = {call.state for call in calls if isinstance(call, Sync)}
    for name in names:
        assert state(folder / name) in flushed, f"{name} was changed after it had been flushed, or never flushed"


WRITERS = """
import sys
from pathlib import Path
from glance_fast.storage.atomic_write import append_file, replace_file, replace_folder
folder = Path(sys.argv[1])
replace_file(folder / "file", b"data")
append_file(folder / "table", b"row")
for _ in range(2):
    with replace_folder(folder / "model") as unfinished:
        (unfinished / "weights").write_bytes(b"data")
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_the_system_is_asked_for_what_is_recorded(tmp_path: Path) -> None:
    trace = ["strace", "-f", "-y", "-s", "4096", "-e", "trace=fsync,rename,renameat,renameat2"]
    command = [*trace, sys.executable, "-c", WRITERS, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False)
    if "ptrace" in done.stderr:
        pytest.skip("this system lets no process be traced")
    assert done.returncode == 0, done.stderr
    calls = traced_calls(done.stderr)
    require_durable(calls)
    assert [call.target.name for call in calls if isinstance(call, Rename)] == ["file", "model", "model"]
    assert Sync(tmp_path / "table") in calls


def _unflushed(folder: Path) -> None:
    (folder / "new").write_bytes(b"data")
    (folder / "new").replace(folder / "file")


def _written_after_the_flush(folder: Path) -> None:
    (folder / "new").write_bytes(b"data")
    sync_file(folder / "new")
    (folder / "new").write_bytes(b"other data")
    (folder / "new").replace(folder / "file")


def _name_not_flushed(folder: Path) -> None:
    (folder / "new").write_bytes(b"data")
    sync_file(folder / "new")
    (folder / "new").replace(folder / "file")


@pytest.mark.parametrize(
    ("write", "fault"),
    [
        (_unflushed, "before it was flushed"),
        (_written_after_the_flush, "changed after"),
        (_name_not_flushed, "never flushed"),
    ],
)
def test_a_writer_that_would_lose_data_is_found(tmp_path: Path, write: Callable[[Path], None], fault: str) -> None:
    with recorded_calls() as calls:
        write(tmp_path)
    with pytest.raises(AssertionError, match=fault):
        require_durable(calls)
