"""Runs that are ended by signals at random moments, again and again, come to the same bytes; what was judged stays."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from glance_fast.engine import Engine
from glance_fast.export.export import export
from tests.helpers.images import save_images, textured_image
from tests.helpers.models import save_tiny, tiny_model
from tests.helpers.processes import command, ended, finish, send, start, train
from tests.helpers.rounds import ROUNDS

SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP]


def moments(seed: int, seconds: float) -> Iterator[tuple[signal.Signals, float]]:
    """Signals, and seconds after which each is sent, within a run that takes `seconds`."""
    rng = np.random.default_rng(seed)
    for number in SIGNALS * ROUNDS:
        yield number, float(rng.uniform(0, seconds))


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_training_run_that_is_ended_often_gives_the_same_model(tmp_path: Path) -> None:
    photos, whole, output = tmp_path / "photos", tmp_path / "whole", tmp_path / "model"
    save_images(photos, 12, (61, 70))
    finish(train, photos, whole)
    steps = 12 / (len(SIGNALS) * ROUNDS)
    for kill, (number, moment) in enumerate(moments(1, 0.05)):
        process = start(train, photos, output)
        while process.exitcode is None and done_steps(tmp_path / "model.training") < round(steps * kill):
            time.sleep(0.002)
        time.sleep(moment)
        send(process, number)
        assert ended(process) == -number, f"{number.name} {moment:.3f} s after step {steps * kill:.0f}"
    finish(train, photos, output)
    for name in ("weights.safetensors", "calibration.json", "log.jsonl"):
        assert files(output)[name] == files(whole)[name], name
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "whole", "model"}


def done_steps(work: Path) -> int:
    log = work / "log.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def test_an_export_that_is_ended_leaves_the_earlier_whole(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model", tiny_model())
    export(folder, "onnx")
    before = files(folder)
    image = textured_image(48, 56)
    score = Engine.load(folder, "onnxruntime").score(image).score
    arguments = ("export", str(folder), "--to", "onnx")
    for number, moment in moments(2, 0.02):
        process = start(command, *arguments)
        while process.exitcode is None and not list((folder / "exports").glob(".*.writing")):
            time.sleep(0.0005)
        time.sleep(moment)
        send(process, number)
        assert ended(process) in (-number, 0), f"{number.name} {moment:.4f} s after the first file"
        assert Engine.load(folder, "onnxruntime").score(image).score == score, f"{number.name} {moment:.4f} s"
    finish(command, *arguments)
    assert files(folder) == before


def test_a_scoring_run_that_is_ended_often_keeps_every_row_and_gives_the_same_tables(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_images(tmp_path / "in", 40)
    arguments = ("score", str(tmp_path / "in"), "--model", str(tiny_folder), "--output")
    whole, output = tmp_path / "whole", tmp_path / "out"
    seconds = finish(command, *arguments, str(whole))
    for number, moment in moments(3, seconds / 2):
        process = start(command, *arguments, str(output))
        time.sleep(moment)
        kept = rows(output)
        send(process, number)
        status = ended(process)
        assert status in (-number, 128 + number, 0), f"{number.name} after {moment:.3f} s"
        assert set(kept) <= set(rows(output)), f"{number.name} after {moment:.3f} s: rows were lost"
    finish(command, *arguments, str(output))
    assert sorted(rows(output)) == sorted(set(rows(output)))
    assert {n: d.replace(b"/out/", b"/whole/") for n, d in files(output).items()} == files(whole)


def rows(output: Path) -> list[bytes]:
    """The whole lines of the table that grows; a line that is being written is none yet."""
    path = output / "scores.jsonl"
    return [line for line in path.read_bytes().splitlines(True) if line.endswith(b"\n")] if path.exists() else []
