"""Streams and lists of images: each image's own result, when it is scored, whatever happens to the others."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from glance_fast.data.batches import SCORING_BATCH
from glance_fast.data.images import Pixels
from glance_fast.engine import Engine
from glance_fast.errors import BackendError, ConfigError, ImageError, ModelFolderError, ScoreError
from glance_fast.postprocessing.result import FailedResult, Result
from tests.helpers.images import textured_image
from tests.helpers.models import as_format_3, edit_config, save_tiny, tiny_model
from tests.helpers.tolerances import assert_same_result

FRAMES = [textured_image(48 + seed, 56, seed) for seed in range(12)]
MODES: list[dict[str, Any]] = [{}, {"ahead": 1}, {"ahead": 8}]
modes = pytest.mark.parametrize("mode", MODES, ids=str)


@pytest.fixture(scope="module", params=[("torch", 1), ("openvino", 1), ("openvino", 2), ("onnxruntime", 2)], ids=str)
def backend(request: pytest.FixtureRequest, exported_folder: Path) -> Engine:
    name, streams = request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("glance_fast.backends.registry.cpu_threads", lambda: 2)
        return Engine.load(exported_folder, name, streams=streams)


def assert_results(actual: Iterator[Any] | list[Any], expected: list[Result[Any]]) -> None:
    for result, reference in zip(actual, expected, strict=True):
        assert_same_result(result, reference)


@modes
def test_a_stream_gives_the_results_of_single_images(backend: Engine, mode: dict[str, Any]) -> None:
    assert_results(backend.stream(iter(FRAMES), **mode), [backend.score(frame) for frame in FRAMES])
    assert list(backend.stream([], **mode)) == []


def collect(stream: Iterator[Any], results: list[Any]) -> None:
    """Append each result as it comes: `list.extend` keeps none of them when the stream raises."""
    for result in stream:
        results.append(result)


def one_buffer(frames: list[Pixels]) -> Iterator[Pixels]:
    """A camera that fills the same memory anew for each frame."""
    buffer = np.empty_like(frames[0])
    for frame in frames:
        buffer[...] = frame
        yield buffer
        buffer[...] = 0


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy, lambda view: Image.frombuffer("RGB", (56, 48), view)])
@pytest.mark.parametrize("mode", [*MODES, {"latest": True}], ids=str)
def test_a_camera_may_reuse_its_buffer(engine: Engine, kind: Any, mode: dict[str, Any]) -> None:
    frames = [textured_image(48, 56, seed) for seed in range(8)]
    expected = [engine.score(kind(frame)).score for frame in frames]
    results = [result.score for result in engine.stream(map(kind, one_buffer(frames)), **mode)]
    assert results[-1] == expected[-1] and set(results) <= set(expected)
    if not mode.get("latest"):
        assert results == expected


@pytest.mark.parametrize("mode", [*MODES, {"latest": True}], ids=str)
def test_a_camera_may_write_the_same_file_again(engine: Engine, tmp_path: Path, mode: dict[str, Any]) -> None:
    expected = [engine.score(frame).score for frame in FRAMES]

    def camera() -> Iterator[Path]:
        for frame in FRAMES:
            Image.fromarray(frame).save(tmp_path / "frame.png")
            yield tmp_path / "frame.png"
            (tmp_path / "frame.png").unlink()

    results = [result.score for result in engine.stream(camera(), **mode)]
    assert results[-1] == expected[-1] and set(results) <= set(expected)
    if not mode.get("latest"):
        assert results == expected


def test_a_result_comes_before_the_next_frame_is_asked_for(engine: Engine) -> None:
    results: list[Any] = []

    def camera() -> Iterator[Pixels]:
        for number, frame in enumerate(FRAMES):
            assert len(results) == number
            yield frame

    for result in engine.stream(camera()):
        results.append(result)
    assert len(results) == len(FRAMES)


def test_tensors_are_computed_before_another_thread_gets_them(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU each thread may have a CUDA stream of its own: what is read, and the result's map."""
    settled: list[Any] = []
    monkeypatch.setattr("glance_fast.engine.settle", settled.append)
    (result,) = engine.stream([torch.from_numpy(FRAMES[0])], ahead=1)
    assert len(settled) == 2 and settled[0].dtype == torch.uint8 and settled[1] is result.map


def test_reading_ahead_goes_on_while_a_result_is_used(engine: Engine) -> None:
    asked = []

    def camera() -> Iterator[Pixels]:
        for number, frame in enumerate(FRAMES):
            asked.append(number)
            yield frame

    with engine.stream(camera(), ahead=3) as stream:
        for number, _ in enumerate(stream):
            assert len(asked) <= number + 1 + 1 + 3
    assert len(asked) == len(FRAMES)


def test_latest_scores_the_newest_frame_and_counts_the_others(engine: Engine) -> None:
    with engine.stream(FRAMES, latest=True) as stream:
        results = list(stream)
    assert len(results) + stream.dropped == len(FRAMES)
    assert_same_result(results[-1], engine.score(FRAMES[-1]))


@modes
@pytest.mark.parametrize("turns", [{0, 1, 2, 3, 4, 5}, {0, 3, 4, 7, 9, 11}, {6, 7, 8, 9, 10, 11}], ids=str)
def test_a_bad_image_is_a_result_of_its_own(
    backend: Engine, tmp_path: Path, mode: dict[str, Any], turns: set[int]
) -> None:
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(b"no image")
    wrong = [tmp_path / "none.png", damaged, None, FRAMES[0][:9], FRAMES[0].astype(np.int64), Image.new("F", (56, 48))]
    frames = [wrong.pop() if turn in turns else frame for turn, frame in enumerate(FRAMES)]
    for results in (list(backend.stream(iter(frames), **mode)), backend.score(frames)):
        assert len(results) == len(frames)
        for turn, result in enumerate(results):
            if turn in turns:
                assert isinstance(result, FailedResult) and isinstance(result.error, ImageError)
                assert result.verdict == "cannot judge"
            else:
                assert isinstance(result, Result) and result.error is None
                assert result.verdict == ("anomalous" if result.is_anomalous else "normal")


@modes
def test_whatever_an_image_raises_is_its_own_error(engine: Engine, mode: dict[str, Any]) -> None:
    meta = torch.empty(48, 56, device="meta")
    frames = [FRAMES[0], meta, FRAMES[1]]
    for results in (list(engine.stream(frames, **mode)), engine.score(frames)):
        assert [result.verdict == "cannot judge" for result in results] == [False, True, False]
    with pytest.raises(ImageError, match="cannot be read as an image"):
        engine.score(meta)


@modes
@pytest.mark.parametrize("turn", [0, 1, 5, 20])
def test_an_error_of_the_source_comes_after_all_results(backend: Engine, mode: dict[str, Any], turn: int) -> None:
    def camera() -> Iterator[Pixels]:
        for number in range(turn):
            yield FRAMES[number % len(FRAMES)]
        raise OSError("camera lost")

    results: list[Any] = []
    with pytest.raises(OSError, match="camera lost"):
        collect(backend.stream(camera(), **mode), results)
    assert_results(results, [backend.score(FRAMES[number % len(FRAMES)]) for number in range(turn)])


@modes
@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, BackendError])
def test_a_breakdown_is_raised_after_earlier_results(
    exported_folder: Path, monkeypatch: pytest.MonkeyPatch, mode: dict[str, Any], error: type[BaseException]
) -> None:
    engine = Engine.load(exported_folder, "openvino")
    grids, broken = engine.backend.grids, engine.score(FRAMES[6])

    def fails(images: Any, method: str = "dense") -> Any:
        scored = grids(images, method)
        if float(scored[0].max()) == broken.score:
            raise error("breakdown")
        return scored

    monkeypatch.setattr(engine.backend, "grids", fails)
    results: list[Any] = []
    stream = engine.stream(FRAMES, **mode)
    with pytest.raises(error, match="breakdown"):
        collect(stream, results)
    assert len(results) == 6
    assert list(stream) == []


ATTRIBUTES = ["score", "p_value", "threshold", "is_anomalous", "map", "mask", "pixel_threshold"]


def test_what_a_runtime_raises_is_a_backend_error(backend: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(images: Any, method: str = "dense") -> Any:
        raise RuntimeError("CUDA error 700")

    monkeypatch.setattr(backend.backend, "grids", fails)
    for images in (FRAMES[0], FRAMES):
        with pytest.raises(BackendError, match="broke down while it scored: CUDA error 700; load the engine again"):
            backend.score(images)


def test_a_breakdown_within_a_list_keeps_the_results_before_it(
    backend: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames, grids, calls = [*FRAMES, FRAMES[0][:3], *FRAMES, *FRAMES, *FRAMES], backend.backend.grids, list[int]()
    expected = backend.score(frames)

    def fails(images: Any, method: str = "dense") -> Any:
        calls.append(len(images))
        if sum(calls) > 2 * SCORING_BATCH:
            raise RuntimeError("CUDA error 700")
        return grids(images, method)

    monkeypatch.setattr(backend.backend, "grids", fails)
    with pytest.raises(BackendError, match="broke down while it scored: CUDA error 700") as raised:
        backend.score(frames)
    kept = raised.value.results
    assert len(kept) == 2 * SCORING_BATCH < len(frames)
    for result, reference in zip(kept, expected[: len(kept)], strict=True):
        assert result.verdict == reference.verdict
        if isinstance(reference, Result):
            assert_same_result(result, reference)
    assert BackendError("of something else").results == ()


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_a_failed_result_cannot_be_taken_for_a_verdict(engine: Engine, attribute: str) -> None:
    (failed,) = engine.score([FRAMES[0][:3]])
    with pytest.raises(ImageError, match="smaller than one"):
        getattr(failed, attribute)
    with pytest.raises(ImageError, match="smaller than one"):
        getattr(failed, attribute, False)
    assert hasattr(engine.score(FRAMES[0]), attribute)


def test_a_single_image_or_impossible_settings_are_no_stream(engine: Engine, tmp_path: Path) -> None:
    tensor, picture = torch.zeros(3, 48, 56), Image.new("RGB", (56, 48))
    for image in ("photo.png", tmp_path / "photo.png", FRAMES[0], tensor, picture, 7, np.uint8(7)):
        with pytest.raises(ImageError, match="a stream takes images, and got a single"):
            engine.stream(image)  # type: ignore[arg-type]
    impossible: list[dict[str, Any]] = [{"ahead": -1}, {"ahead": 2.5}, {"ahead": 2, "latest": True}]
    for settings in impossible:
        with pytest.raises(ConfigError, match=r"ahead=.* was requested; legal are"):
            engine.stream(FRAMES, **settings)
    with pytest.raises(BackendError, match="unknown method 'fast'"):
        engine.stream(FRAMES, method="fast")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [(0, 0), (slice(None), slice(None))], ids=["a location", "all locations"])
def test_a_score_that_is_not_finite_is_no_verdict(
    backend: Engine, monkeypatch: pytest.MonkeyPatch, value: float, place: Any
) -> None:
    """A NaN at the end of the order or an infinity below the highest scores would else be normal."""
    grids = backend.backend.grids

    def damaged(images: Any, method: str = "dense") -> Any:
        scored = [np.asarray(grid).copy() for grid in grids(images, method)]
        scored[0][place] = value
        return [torch.from_numpy(grid) for grid in scored] if backend.backend.takes_tensors else scored

    monkeypatch.setattr(backend.backend, "grids", damaged)
    for image in (FRAMES[0], torch.from_numpy(FRAMES[0])):
        with pytest.raises(ScoreError, match=r" on cpu.* scores this image NaN or infinite: .* train it again"):
            backend.score(image)
        assert isinstance(backend.score([image])[0], FailedResult)
        assert [result.verdict for result in backend.stream([image] * 2, ahead=1)] == ["cannot judge"] * 2


def test_networks_that_overflow_judge_nothing(tmp_path: Path) -> None:
    model = tiny_model()
    for parameter in model.parameters():
        parameter.data.fill_(1e38)
    folder = save_tiny(tmp_path / "model", model)
    with pytest.raises(ModelFolderError, match="self_check.safetensors: its scores are not finite"):
        Engine.load(folder)
    edit_config(folder, as_format_3)
    engine = Engine.load(folder)
    for method in ("dense", "loop"):
        with pytest.raises(ScoreError):
            engine.score(FRAMES[0], method)


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_no_p_value_without_a_finite_score(engine: Engine, score: float) -> None:
    with pytest.raises(ScoreError, match="has no p-value"):
        engine.calibration.p_value(score)
