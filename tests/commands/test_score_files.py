"""Rows are kept as they come, a stopped run goes on, and whatever an image does, the others are scored."""

from __future__ import annotations

import csv
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glance_fast.commands import score_files as module
from glance_fast.commands.score_files import ScoreOptions, score_files
from glance_fast.commands.score_tables import ScoredFile
from glance_fast.data.images import read_image
from glance_fast.engine import Engine
from glance_fast.errors import BackendError, ConfigError, SaveError
from glance_fast.export.export import export
from glance_fast.export.graph.pipeline import export_onnx
from glance_fast.storage.folder_lock import locked
from tests.helpers.image_files import tiff
from tests.helpers.images import save_image, save_images, textured_image
from tests.helpers.models import plant, save_tiny, tiny_calibration, tiny_model

NAMES = ("run.json", "scores.csv", "scores.jsonl")


def tables(output: Path) -> dict[str, bytes]:
    return {name: (output / name).read_bytes() for name in NAMES}


def lines(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "scores.jsonl").read_text().splitlines()]


def overlay_files(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (output / "overlays").iterdir()}


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows with every image that an engine scores."""
    calls, score = list[int](), Engine.score

    def counted(self: Engine, *arguments: Any) -> Any:
        calls.append(1)
        return score(self, *arguments)

    monkeypatch.setattr(Engine, "score", counted)
    return calls


def fail_at(call: int, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the engine raise `error` at its `call`-th image."""
    calls, score = list[int](), Engine.score

    def fails(self: Engine, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            raise error
        return score(self, *arguments)

    monkeypatch.setattr(Engine, "score", fails)


def test_rows_are_in_the_tables_before_the_next_image_is_scored(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, score, output = list[int](), Engine.score, tmp_path / "out"

    def counts(self: Engine, *arguments: Any) -> Any:
        rows = list(csv.DictReader((output / "scores.csv").read_text().splitlines()))
        assert [row["path"] for row in rows] == [line["path"] for line in lines(output)]
        seen.append(len(rows))
        return score(self, *arguments)

    monkeypatch.setattr(Engine, "score", counts)
    score_files(engine, save_images(tmp_path / "in", 5), output)
    assert seen == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("call", [1, 4, 9])
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int, scored: list[int]
) -> None:
    monkeypatch.chdir(tmp_path)
    paths, output = save_images(Path("in"), 9), Path("out")
    score_files(engine, paths, output)
    expected, pictures = tables(output), overlay_files(output)
    output.rename("whole")
    with monkeypatch.context() as patch:
        fail_at(call, KeyboardInterrupt(), patch)
        with pytest.raises(KeyboardInterrupt):
            score_files(engine, paths, output)
    kept = len(lines(output))
    assert kept >= call - 1
    scored.clear()
    rows = score_files(engine, paths, output)
    assert len(scored) == 9 - kept
    assert tables(output) == expected and overlay_files(output) == pictures
    assert rows == [ScoredFile(**line) for line in lines(output)]


@pytest.mark.parametrize("torn", [b'{"path": "in/0', b"\0" * 50, b"\0" * 50 + b'1}\n{"path"'])
def test_a_torn_last_line_is_dropped(engine: Engine, tmp_path: Path, scored: list[int], torn: bytes) -> None:
    paths, output = save_images(tmp_path / "in", 4), tmp_path / "out"
    score_files(engine, paths, output)
    expected = tables(output)
    whole = expected["scores.jsonl"].splitlines(keepends=True)
    (output / "scores.jsonl").write_bytes(b"".join(whole[:3]) + torn)
    (output / "scores.csv").write_bytes(expected["scores.csv"][:-7])
    scored.clear()
    score_files(engine, paths, output)
    assert len(scored) == 1 and tables(output) == expected


def test_rows_cut_anywhere_are_resumed(engine: Engine, tmp_path: Path) -> None:
    paths, output = save_images(tmp_path / "in", 2), tmp_path / "out"
    options = ScoreOptions(overlays="none")
    score_files(engine, paths, output, options)
    expected = tables(output)
    whole = expected["scores.jsonl"]
    for length in range(0, len(whole), 31):
        (output / "scores.jsonl").write_bytes(whole[:length])
        score_files(engine, paths, output, options)
        assert tables(output) == expected


def test_failed_rows_are_tried_again_and_others_are_not(engine: Engine, tmp_path: Path, scored: list[int]) -> None:
    paths, output = save_images(tmp_path / "in", 4), tmp_path / "out"
    whole = paths[1].read_bytes()
    paths[1].write_bytes(whole[:100])
    rows = score_files(engine, paths, output)
    assert [row.error is None for row in rows] == [True, False, True, True]
    paths[1].write_bytes(whole)
    scored.clear()
    rows = score_files(engine, paths, output)
    assert len(scored) == 1
    assert [line["error"] for line in lines(output)] == [None] * 4
    assert [row.path for row in rows] == [line["path"] for line in lines(output)] == [str(path) for path in paths]


def test_a_path_with_other_content_is_scored_again_and_its_earlier_row_and_overlay_stay(
    engine: Engine, tmp_path: Path
) -> None:
    """Also where size and time of the file are what they were."""
    path, output = tmp_path / "in" / "a.bmp", tmp_path / "out"
    save_image(path, textured_image(48, 56, 1))
    before, [first] = os.stat(path), score_files(engine, [path], output)
    picture = Path(str(first.overlay)).read_bytes()
    save_image(path, textured_image(48, 56, 2))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert os.stat(path).st_size == before.st_size
    for _ in range(2):  # the second time both have their rows
        [second] = score_files(engine, [path], output)
        assert second.score == engine.score(path).score != first.score
        assert [ScoredFile(**line) for line in lines(output)] == [first, second]
    assert Path(str(first.overlay)).read_bytes() == picture != Path(str(second.overlay)).read_bytes()


def test_rows_of_other_images_stay_in_front(engine: Engine, tmp_path: Path) -> None:
    first, second = save_images(tmp_path / "a", 2), save_images(tmp_path / "b", 2)
    output = tmp_path / "out"
    kept = score_files(engine, first, output)
    pictures = overlay_files(output)
    rows = score_files(engine, second, output)
    assert [ScoredFile(**line) for line in lines(output)] == [*kept, *rows]
    assert pictures.items() <= overlay_files(output).items() and len(overlay_files(output)) == 4


def test_results_of_another_model_or_other_options_are_never_replaced(engine: Engine, tmp_path: Path) -> None:
    paths, output = save_images(tmp_path / "in", 2), tmp_path / "out"
    score_files(engine, paths, output)
    expected, pictures = tables(output), overlay_files(output)
    other = Engine.load(save_tiny(tmp_path / "model", tiny_model(seed=1)), "torch")
    with pytest.raises(SaveError, match=r"another model or other settings \(weights \w+, now \w+\); .*--overwrite"):
        score_files(other, paths, output)
    with pytest.raises(SaveError, match=r"\(overlays all, now none\); .*--overwrite"):
        score_files(engine, paths, output, ScoreOptions(overlays="none"))
    with pytest.raises(SaveError, match=r"\(method dense, now loop\); .*--overwrite"):
        score_files(engine, paths, output, ScoreOptions(method="loop"))
    assert tables(output) == expected and overlay_files(output) == pictures
    rows = score_files(other, paths[:1], output, ScoreOptions(overwrite=True))
    assert [ScoredFile(**line) for line in lines(output)] == rows and len(overlay_files(output)) == 1
    assert rows[0].score == other.score(paths[0]).score


def test_results_of_another_export_are_never_replaced(tmp_path: Path) -> None:
    model, changed = tiny_model(), tiny_model()
    next(changed.local_net.parameters()).data.mul_(1 + 1e-6)
    folder, paths, output = save_tiny(tmp_path / "model", model), save_images(tmp_path / "in", 1), tmp_path / "out"
    export(folder, "onnx")
    rows = score_files(Engine.load(folder, "onnxruntime"), paths, output)
    described = json.loads((output / "run.json").read_text())
    assert described["export"] == "onnx at fp32"
    export(folder, "onnx")  # the same bytes
    assert score_files(Engine.load(folder, "onnxruntime"), paths, output) == rows
    graph = export_onnx(changed, tiny_calibration()).SerializeToString()
    plant(folder, "exports/onnx-fp32/onnx-fp32.onnx", graph)
    with pytest.raises(SaveError, match=rf"\(export_files {described['export_files'][:40]}, now \w+\); .*--overwrite"):
        score_files(Engine.load(folder, "onnxruntime"), paths, output)
    with pytest.raises(SaveError, match=r"export onnx at fp32, now None; export_files"):
        score_files(Engine.load(folder, "torch"), paths, output)


@pytest.mark.parametrize("name", ["scores.csv", "scores.jsonl", "overlays"])
def test_results_without_a_description_are_never_replaced(engine: Engine, tmp_path: Path, name: str) -> None:
    """An earlier version and `glance-fast evaluate` write tables of these names."""
    output = tmp_path / "out"
    output.mkdir()
    (output / name).write_text("earlier")
    with pytest.raises(SaveError, match=rf"holds {name} of another command or version; .*--overwrite"):
        score_files(engine, save_images(tmp_path / "in", 1), output)
    assert (output / name).read_text() == "earlier" and {path.name for path in output.iterdir()} == {name}


def test_results_of_version_0_1_0_are_overwritten_where_that_is_asked_for(engine: Engine, tmp_path: Path) -> None:
    """Both tables and a folder of overlays, without a description."""
    paths, output = save_images(tmp_path / "in", 1), tmp_path / "out"
    (output / "overlays").mkdir(parents=True)
    for name in ("scores.csv", "scores.jsonl", "overlays/old.png"):
        (output / name).write_text("earlier")
    score_files(engine, paths, output, ScoreOptions(overwrite=True))
    assert not (output / "overlays" / "old.png").exists() and (output / "run.json").is_file()
    assert "earlier" not in (output / "scores.csv").read_text()


def test_overlays_of_no_run_are_kept_and_so_is_all_beside_them(engine: Engine, tmp_path: Path) -> None:
    output = tmp_path / "out"
    (output / "overlays").mkdir(parents=True)
    for name in ("scores.csv", "overlays/mine.png"):
        (output / name).write_text("earlier")
    with pytest.raises(SaveError, match="overlays is of no run of 'glance-fast score'; remove it"):
        score_files(engine, save_images(tmp_path / "in", 1), output, ScoreOptions(overwrite=True))
    assert [(output / name).read_text() for name in ("scores.csv", "overlays/mine.png")] == ["earlier"] * 2


@pytest.mark.parametrize("text", ["", "[]", "{}", "no JSON", "[" * 100_000, '{"glance_fast": 1}'])
def test_a_damaged_description_is_named(engine: Engine, tmp_path: Path, text: str) -> None:
    paths, output = save_images(tmp_path / "in", 1), tmp_path / "out"
    score_files(engine, paths, output)
    (output / "run.json").write_text(text)
    with pytest.raises(SaveError, match="--overwrite"):
        score_files(engine, paths, output)


@pytest.mark.parametrize(
    "line", ["no JSON", "{}", "[]", "7", '{"path": []}', '{"path": "a", "more": 1}', "[" * 100_000]
)
def test_a_line_that_is_no_row_is_named_and_kept(engine: Engine, tmp_path: Path, line: str) -> None:
    paths, output = save_images(tmp_path / "in", 1), tmp_path / "out"
    score_files(engine, paths, output)
    with (output / "scores.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(SaveError, match=r"scores.jsonl, line 2, is no row of scores: .*--overwrite"):
        score_files(engine, paths, output)
    assert (output / "scores.jsonl").read_text().endswith(line + "\n")


@pytest.mark.parametrize(
    "name",
    [
        "d" * 248,
        "木" * 81,
        "two\nlines",
        "carriage\rreturn",
        'com,ma"quote',
        os.fsdecode(b"no unicode \xff"),
        " ",
        "-o",
    ],
    ids=["long", "chinese", "newline", "return", "quote", "bytes", "space", "option"],
)
def test_an_image_of_any_name_has_its_row_and_its_overlay(engine: Engine, tmp_path: Path, name: str) -> None:
    paths, output = save_images(tmp_path / "in", 2), tmp_path / "out"
    paths.insert(1, paths[0].rename(tmp_path / "in" / f"{name}.png"))
    paths[0] = save_image(tmp_path / "in" / "00.png", textured_image(48, 56))
    rows = score_files(engine, paths, output)
    assert [row.error or row.overlay_error for row in rows] == [None] * 3
    assert [line["path"] for line in lines(output)] == [str(path) for path in paths]
    for row in rows:
        assert read_image(Path(str(row.overlay))).size > 0
    with (output / "scores.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [row["path"] for row in table] == [str(path).encode(errors="backslashreplace").decode() for path in paths]
    assert [float(row["score"]) for row in table] == [row.score for row in rows]


def test_a_name_made_of_many_folders_is_shortened(engine: Engine, tmp_path: Path) -> None:
    deep = tmp_path / "in" / Path(*["line-" + "7" * 70] * 4)
    paths = [*save_images(deep, 2), *save_images(tmp_path / "in", 1)]
    rows = score_files(engine, paths, tmp_path / "out")
    names = [Path(str(row.overlay)).name for row in rows]
    assert len({*names}) == 3 and all(name.startswith("line-7") for name in names[:2])
    assert all(Path(str(row.overlay)).is_file() for row in rows)


def drawing_fails(*_: object) -> None:
    raise ZeroDivisionError("no room for the caption")


def disk_is_full(_: object, path: Path) -> None:
    raise SaveError(f"cannot write {path}: No space left on device")


def memory_is_full(*_: object) -> None:
    raise MemoryError


@pytest.mark.parametrize(
    "name, fault, message",
    [
        ("overlay", drawing_fails, "no room for the caption"),
        ("save_jpeg", disk_is_full, "No space left on device"),
        ("overlay", memory_is_full, "MemoryError"),
    ],
)
def test_an_image_whose_drawing_fails_has_its_row_and_is_tried_again(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, fault: Callable[..., None], message: str
) -> None:
    paths, output = save_images(tmp_path / "in", 3), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(module, name, fault)
        rows = score_files(engine, paths, output)
    assert all(message in str(row.overlay_error) and row.overlay is None for row in rows)
    assert [line["score"] for line in lines(output)] == [engine.score(path).score for path in paths]
    assert [row.overlay_error for row in score_files(engine, paths, output)] == [None] * 3
    assert len(lines(output)) == len(overlay_files(output)) == 3


def test_an_image_for_which_memory_lacks_has_its_row(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(2, MemoryError(), monkeypatch)
    rows = score_files(engine, save_images(tmp_path / "in", 3), tmp_path / "out")
    assert [row.error is None for row in rows] == [True, False, True]
    assert rows[1].error is not None and "01.png: there is not enough memory" in rows[1].error


def test_a_full_disk_stops_the_run_and_leaves_whole_rows(engine: Engine, tmp_path: Path) -> None:
    paths, output = save_images(tmp_path / "in", 12), tmp_path / "out"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(SaveError, match=r"cannot write .*scores.jsonl: File too large; free space"):
            score_files(engine, paths, output, ScoreOptions(overlays="none"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (output / "scores.jsonl").read_bytes().endswith(b"}\n") and 0 < len(lines(output)) < 12
    assert len(score_files(engine, paths, output, ScoreOptions(overlays="none"))) == 12


def test_a_second_run_into_the_folder_is_refused(engine: Engine, tmp_path: Path) -> None:
    paths, output = save_images(tmp_path / "in", 1), tmp_path / "out"
    with locked(output), pytest.raises(SaveError, match="another run is writing to .*out"):
        score_files(engine, paths, output)
    assert len(score_files(engine, paths, output)) == 1


def test_a_path_that_is_given_twice_is_scored_once(engine: Engine, tmp_path: Path, scored: list[int]) -> None:
    [path] = save_images(tmp_path / "in", 1)
    assert len(score_files(engine, [path, path], tmp_path / "out")) == len(scored) == 1


def test_an_unknown_method_is_refused_before_anything_is_overwritten(engine: Engine, tmp_path: Path) -> None:
    paths, output = save_images(tmp_path / "in", 1), tmp_path / "out"
    score_files(engine, paths, output)
    expected = tables(output)
    with pytest.raises(BackendError, match="unknown method 'fast'"):
        score_files(engine, paths, output, ScoreOptions(method="fast", overwrite=True))
    assert tables(output) == expected


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown overlays 'some'; legal are all, anomalous, none"):
        ScoreOptions(overlays="some")


def test_each_page_has_a_row_and_an_overlay_of_its_own(engine: Engine, tmp_path: Path, scored: list[int]) -> None:
    frames = [textured_image(48, 56, seed) for seed in range(3)]
    stack, single, output = tmp_path / "stack.tif", save_image(tmp_path / "single.png", frames[0]), tmp_path / "out"
    stack.write_bytes(tiff(np.stack(frames), photometric="rgb"))
    (tmp_path / "broken.tif").write_bytes(stack.read_bytes()[:100])
    paths, options = [stack, single, tmp_path / "broken.tif"], ScoreOptions(pages=True)
    rows = score_files(engine, paths, output, options)
    assert [(Path(row.path).name, row.page) for row in rows] == [
        ("stack.tif", 1), ("stack.tif", 2), ("stack.tif", 3), ("single.png", None), ("broken.tif", None)
    ]  # fmt: skip
    assert [row.score for row in rows[:3]] == [engine.score(frame).score for frame in frames]
    assert set(overlay_files(output)) == {"stack_page1.jpg", "stack_page2.jpg", "stack_page3.jpg", "single.jpg"}
    assert rows[4].error is not None and rows == [ScoredFile(**line) for line in lines(output)]
    scored.clear()
    assert score_files(engine, paths, output, options) == rows and not scored


def test_without_pages_a_file_of_several_has_a_row_with_an_error(engine: Engine, tmp_path: Path) -> None:
    stack = tmp_path / "stack.tif"
    stack.write_bytes(tiff(np.stack([textured_image(48, 56, seed) for seed in range(3)]), photometric="rgb"))
    (row,) = score_files(engine, [stack], tmp_path / "out")
    assert row.score is None and row.error is not None and "3 pictures" in row.error
