"""Engines in other processes: forked ones are refused at once, pickled and copied ones are loaded anew."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import select
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glance_fast.backends.torch_backend import TorchBackend
from glance_fast.engine import Engine
from glance_fast.errors import BackendError, ModelFolderError
from tests.helpers.images import textured_image
from tests.helpers.models import save_tiny, tiny_calibration, tiny_model
from tests.helpers.tolerances import assert_same_result

IMAGE = textured_image(48, 56)
BACKENDS = [("torch", 1), ("openvino", 1), ("openvino", 2), ("onnxruntime", 1), ("onnxruntime", 2)]
backends = pytest.mark.parametrize("name, streams", BACKENDS)

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glance_fast.backends.registry.cpu_threads", lambda: 2)


def unpickled(data: bytes) -> Engine:
    engine = pickle.loads(data)  # noqa: S301 - the tests' own bytes
    assert isinstance(engine, Engine)
    return engine


def in_child(run: Callable[[], object]) -> str:
    """What `run` returns or raises in a forked child; fails when that takes more than 20 seconds."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = str(run())
        except BaseException as error:  # noqa: BLE001 - reported to the parent
            answer = f"{type(error).__name__}: {error}"
        os.write(writing, answer.encode())
        os._exit(0)
    os.close(writing)
    try:
        assert select.select([reading], [], [], 20)[0], "the child waits for ever"
        return os.read(reading, 10_000).decode()
    finally:
        os.close(reading)
        os.kill(child, 9)
        os.waitpid(child, 0)


@backends
def test_a_forked_child_is_told_to_load_its_own(exported_folder: Path, name: str, streams: int) -> None:
    engine = Engine.load(exported_folder, name, streams=streams)
    engine.score([IMAGE] * 4)
    stop, pickled = threading.Event(), pickle.dumps(engine)

    def keep_scoring() -> None:
        while not stop.is_set():
            engine.score(IMAGE)

    threads = [threading.Thread(target=keep_scoring) for _ in range(2)]
    with engine.stream(iter([IMAGE] * 99), ahead=2) as ahead, engine.stream(iter([IMAGE] * 99), latest=True) as latest:
        next(ahead)
        for thread in threads:
            thread.start()
        for run in (
            lambda: engine.score(IMAGE),
            lambda: engine.score([IMAGE] * 4),
            lambda: list(engine.stream([IMAGE])),
            lambda: list(engine.stream([IMAGE], ahead=2)),
            lambda: next(ahead),
            lambda: next(latest),
            lambda: Engine.load(exported_folder, name),
            lambda: unpickled(pickled),
        ):
            answer = in_child(run)
            assert answer.startswith("BackendError: process") and "load the engine in the child" in answer
        assert in_child(ahead.close) == in_child(latest.close) == "None"
        stop.set()
    for thread in threads:
        thread.join()


def score_there(engine: Engine) -> tuple[Any, ...]:
    result = engine.score(IMAGE)
    return result.score, result.is_anomalous, engine.backend.name, engine.backend.streams, engine.threshold


def test_a_spawned_process_gets_the_engine(exported_folder: Path) -> None:
    engine = Engine.load(exported_folder, "openvino", streams=1)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply_async(score_there, (engine,)).get(timeout=60) == score_there(engine)


@backends
def test_a_pickled_engine_has_the_settings(
    exported_folder: Path, name: str, streams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(exported_folder.parent)
    engine = Engine.load(exported_folder.name, name, streams=streams)
    engine.calibration = tiny_calibration().model_copy(update={"threshold": 0.25})
    monkeypatch.chdir("/")
    other = unpickled(pickle.dumps(engine))
    assert score_there(other) == score_there(engine) and other.threshold == 0.25
    assert_same_result(other.score(IMAGE), engine.score(IMAGE))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copied_engine_shares_no_backend(engine: Engine, copied: Callable[[Engine], Engine]) -> None:
    other = copied(engine)
    assert other.backend is not engine.backend and score_there(other) == score_there(engine)


def test_the_choice_of_auto_and_the_precision_are_carried(exported_folder: Path, exported_copy: Path) -> None:
    engine = Engine.load(exported_copy, precision="fp16")
    assert engine.backend.name == "openvino"
    pickled = pickle.dumps(engine)
    shutil.rmtree(exported_copy / "exports")
    with pytest.raises(BackendError, match="openvino"):
        unpickled(pickled)
    shutil.copytree(exported_folder / "exports", exported_copy / "exports")
    assert unpickled(pickled).backend.device_description == engine.backend.device_description == "cpu at fp16"


@pytest.mark.parametrize("changes", [{"seed": 1}, {"top_k": 3}], ids=str)
def test_another_model_in_the_folder_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = save_tiny(tmp_path / "model", tiny_model())
    pickled = pickle.dumps(Engine.load(folder))
    assert unpickled(pickled).score(IMAGE).score > 0
    save_tiny(folder, tiny_model(**changes))
    with pytest.raises(ModelFolderError, match=r"holds another model by now; .* load the new model with Engine\.load"):
        unpickled(pickled)
    shutil.rmtree(folder)
    with pytest.raises(ModelFolderError, match="is no model folder.*must be at the same path"):
        unpickled(pickled)


def test_an_engine_that_was_not_loaded_says_what_to_do(engine: Engine) -> None:
    made = Engine(engine.files, TorchBackend(tiny_model()))
    with pytest.raises(BackendError, match=r"without Engine\.load cannot be pickled or copied"):
        pickle.dumps(made)
