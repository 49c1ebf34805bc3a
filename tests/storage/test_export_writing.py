"""An export is replaced as a whole: a reader gets the old one or the new one, whenever it reads."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from glance_fast.errors import SaveError
from glance_fast.export.export import export
from glance_fast.storage import atomic_write
from glance_fast.storage.export_record import export_path, exported_precisions, read_export, write_export
from glance_fast.storage.folder_lock import locked
from glance_fast.storage.model_folder import ModelFiles, read_model


def write(model: ModelFiles, content: bytes) -> Path:
    files = {".xml": b"graph " + content, ".bin": b"weights " + content}
    return write_export(model.path, "openvino", "fp32", model.digests, files, {})


def test_a_reader_gets_the_old_or_the_new_export_while_it_is_replaced(tiny_folder: Path, tmp_path: Path) -> None:
    model = read_model(Path(shutil.copytree(tiny_folder, tmp_path / "model")))
    write(model, b"0")
    seen, errors, ended = set[bytes](), list[Exception](), threading.Event()

    def read() -> None:
        while not ended.is_set():
            try:
                files = read_export(model, "openvino", "fp32").files
                assert files[".xml"].split()[1] == files[".bin"].split()[1]
                seen.add(files[".xml"])
            except Exception as error:  # noqa: BLE001 (the test ends with them)
                errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(1, 25):
        write(model, str(number).encode())
    ended.set()
    for reader in readers:
        reader.join()
    assert errors == [] and len(seen) > 1


def test_a_disk_that_refuses_half_way_leaves_the_old_export(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = read_model(Path(shutil.copytree(tiny_folder, tmp_path / "model")))
    write(model, b"old")
    path_write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if path.suffix == ".bin":
            raise OSError(28, "No space left on device")
        return path_write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(SaveError, match="openvino-fp32: No space left on device"):
            write(model, b"new")
    assert read_export(model, "openvino", "fp32").files == {".xml": b"graph old", ".bin": b"weights old"}
    assert [path.name for path in (model.path / "exports").iterdir()] == ["openvino-fp32"]


def test_an_export_of_version_0_1_0_is_read_until_a_new_one_takes_its_place(tiny_folder: Path, tmp_path: Path) -> None:
    """Its files lie in `exports/` itself."""
    model = read_model(Path(shutil.copytree(tiny_folder, tmp_path / "model")))
    folder = write(model, b"old").parent
    for path in folder.iterdir():
        path.rename(folder.parent / path.name)
    folder.rmdir()
    assert exported_precisions(model.path, "openvino") == ["fp32"]
    assert export_path(model.path, "openvino", "fp32").parent == folder.parent
    assert read_export(model, "openvino", "fp32").files[".xml"] == b"graph old"
    write(model, b"new")
    assert read_export(model, "openvino", "fp32").files[".xml"] == b"graph new"
    assert [path.name for path in folder.parent.iterdir()] == ["openvino-fp32"]


def test_an_export_is_found_whose_writer_was_killed_between_two_renames(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the file system cannot exchange two folders."""
    monkeypatch.setattr(atomic_write, "exchange", lambda *_: False)
    model = read_model(Path(shutil.copytree(tiny_folder, tmp_path / "model")))
    folder = write(model, b"old").parent
    folder.rename(folder.with_name(".openvino-fp32.0123abcd.before"))
    assert read_export(model, "openvino", "fp32").files[".xml"] == b"graph old"


def test_a_second_export_into_the_folder_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    with locked(folder), pytest.raises(SaveError, match="another run is writing to .*model"):
        export(folder, "onnx")
    assert export(folder, "onnx").is_file()
    assert {path.name for path in folder.iterdir()} == {path.name for path in tiny_folder.iterdir()} | {"exports"}
