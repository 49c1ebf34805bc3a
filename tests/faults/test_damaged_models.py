"""A damaged file of a model folder or an export is refused, or changes nothing; it is never another score.

With its hash set right again, a damaged file is another file: then it must be refused, or give the score and the map of
the undamaged one within the tolerance that the self-check has.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glance_fast.backends.tolerances import relative_error, tolerance
from glance_fast.engine import Engine
from glance_fast.export.export import export
from tests.helpers.damage import DAMAGES, Damage
from tests.helpers.images import textured_image
from tests.helpers.judge import REFUSED, SCORED, Judge, Outcome
from tests.helpers.models import edit_config, fitted_model, plant, save_tiny
from tests.helpers.rounds import ROUNDS

# Every file of a model folder, and the backend that reads it.
READERS = {
    "config.json": "torch",
    "weights.safetensors": "torch",
    "calibration.json": "onnxruntime",
    "self_check.safetensors": "onnxruntime",
    "exports/onnx-fp32/onnx-fp32.json": "onnxruntime",
    "exports/onnx-fp32/onnx-fp32.onnx": "onnxruntime",
    "exports/openvino-fp32/openvino-fp32.json": "openvino",
    "exports/openvino-fp32/openvino-fp32.xml": "openvino",
    "exports/openvino-fp32/openvino-fp32.bin": "openvino",
}
LIMIT = tolerance("trained map", "fp32")
HASHED = [name for name in READERS if not name.endswith(".json") or name == "calibration.json"]


def score(folder: Path, backend: str) -> str:
    """The score and the map of an image, exactly, in text, and the verdict."""
    result = Engine.load(folder, backend).score(textured_image(48, 56))
    assert np.isfinite(result.score) and np.isfinite(result.map).all(), "not finite, and not refused"
    return f"{np.float32(result.score).tobytes().hex()}{result.map.tobytes().hex()} {result.verdict}"


def difference(text: str, right: str) -> float:
    """The relative error of the score and the map in a text of `score`."""
    given, expected = (np.frombuffer(bytes.fromhex(each.split()[0]), np.float32) for each in (text, right))
    return relative_error(given, expected)


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge(score) as judge:
        yield judge


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with exports; each test leaves it whole."""
    folder = save_tiny(tmp_path_factory.mktemp("whole") / "model", fitted_model({"smoothing_sigma": 0.5}))
    for export_format in ("onnx", "openvino"):
        export(folder, export_format)
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == set(READERS)
    return folder


@pytest.fixture(scope="module")
def expected(whole: Path, judge: Judge) -> Callable[[str], str]:
    """The outcome of each reader of the whole folder."""
    known: dict[str, str] = {}

    def of(name: str) -> str:
        if READERS[name] not in known:
            outcome = judge(whole, READERS[name])
            assert outcome.kind == SCORED, outcome
            known[READERS[name]] = outcome.text
        return known[READERS[name]]

    return of


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(whole, tmp_path / "model"))


def cases(name: str) -> Iterator[tuple[str, Damage, np.random.Generator]]:
    """Label, damage and randomness of each case of a file."""
    for kind, damage in DAMAGES.items():
        for number in range(ROUNDS):
            seed = [number, *f"{kind} {name}".encode()]
            yield f"{name}: {kind}, round {number}", damage, np.random.default_rng(seed)


def misjudged(outcome: Outcome, label: str, right: str | None) -> list[str]:
    """What is wrong with a case, which must be refused or within the tolerance of the text `right`; None: any score."""
    if outcome.kind == SCORED:
        error = 0.0 if right is None else difference(outcome.text, right)
        return [f"{label}: off by {error:.1e}"] if error > LIMIT else []
    return [] if outcome.kind == REFUSED else [f"{label}: {outcome.kind}: {outcome.text}"]


def require(outcome: Outcome, label: str, *legal: str) -> None:
    """Fail unless the case was refused or gave one of the `legal` texts."""
    given = outcome.kind == SCORED and outcome.text in legal
    assert outcome.kind == REFUSED or given, f"{label}: {outcome.kind}: {outcome.text}"


@pytest.mark.parametrize("name", READERS)
def test_damaged_bytes_are_refused_or_change_nothing(
    folder: Path, judge: Judge, expected: Callable[[str], str], name: str
) -> None:
    data, right = (folder / name).read_bytes(), expected(name)
    for label, damage, rng in cases(name):
        (folder / name).write_bytes(damage(data, rng))
        require(judge(folder, READERS[name]), label, right)


@pytest.mark.parametrize("name", READERS)
def test_another_file_of_the_folder_in_its_place_is_refused(
    folder: Path, judge: Judge, expected: Callable[[str], str], name: str
) -> None:
    data, right = (folder / name).read_bytes(), expected(name)
    others = [other for other in READERS if Path(other).suffix == Path(name).suffix and other != name]
    others += [other for other in READERS if other.startswith("exports/onnx")]
    for other in others[: 2 + ROUNDS]:
        (folder / name).write_bytes((folder / other).read_bytes() if other != name else b"")
        outcome = judge(folder, READERS[name])
        (folder / name).write_bytes(data)
        require(outcome, f"{name}: replaced by {other}")
    require(judge(folder, READERS[name]), f"{name}: restored", right)


@pytest.mark.parametrize("name", READERS)
def test_what_is_no_regular_file_is_refused(folder: Path, judge: Judge, name: str) -> None:
    path = folder / name
    path.unlink()
    specials: dict[str, Callable[[], Any]] = {
        "a FIFO": lambda: os.mkfifo(path),
        "a device": lambda: path.symlink_to("/dev/zero"),
        "a link to itself": lambda: path.symlink_to(path),
        "a sparse giant": lambda: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 2**40),
        "nothing": lambda: None,
    }
    for label, make in specials.items():
        make()
        require(judge(folder, READERS[name]), f"{name}: {label} in its place")
        path.unlink(missing_ok=True)
    path.mkdir()
    require(judge(folder, READERS[name]), f"{name}: a folder in its place")


@pytest.mark.parametrize("name", HASHED)
def test_damaged_bytes_with_the_right_hash_give_no_other_score(
    folder: Path, judge: Judge, expected: Callable[[str], str], name: str
) -> None:
    data, right, wrong = (folder / name).read_bytes(), expected(name), list[str]()
    for label, damage, rng in cases(name):
        plant(folder, name, damage(data, rng))
        wrong += misjudged(judge(folder, READERS[name]), label, right)
    assert wrong == []


HOSTILE: tuple[Any, ...] = (
    *(None, True, 0, -1, 3, 2**31, 2**63, 1e308, float("nan")),
    *("", "x", [], [0], [4096] * 8, {"a": 1}),
)


# Settings that do not enter the locations' scores of an image at the model's size, which are what the self-check holds.
UNCHECKED = {
    "alpha": "which images with a fourth channel are errors",
    "bits": "the range of 16-bit samples",
    "center_offset": "which point of an image a location's score is shown at, and thereby the map",
    "resize": "how images of other sizes are brought to the model's",
    "top_k": "how many of the locations' scores make the image's",
}


@pytest.mark.parametrize("part", ["model", "train", "facts"])
def test_any_value_of_the_configuration_with_the_right_hash_gives_no_other_score(
    folder: Path, judge: Judge, expected: Callable[[str], str], part: str
) -> None:
    path, right, wrong = folder / "config.json", expected("config.json"), list[str]()
    before = path.read_text()
    names, rng = sorted(json.loads(before)[part]), np.random.default_rng(22)
    for name in names:
        for value in (HOSTILE[i] for i in rng.permutation(len(HOSTILE))[: 2 * ROUNDS]):
            path.write_text(before)
            edit_config(folder, setting(part, name, value))
            outcome, label = judge(folder, "torch"), f"config.json: {part}.{name} = {value!r}"
            wrong += misjudged(outcome, label, None if part == "model" and name in UNCHECKED else right)
    assert wrong == []


def setting(part: str, name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change of a configuration."""

    def change(config: dict[str, Any]) -> None:
        config[part][name] = value

    return change
