"""A file or folder is replaced whole or not at all, and a disk that refuses is a SaveError with the path."""

from __future__ import annotations

import errno
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from glance_fast.errors import SaveError
from glance_fast.storage.atomic_write import replace_file, replace_folder


def full(path: Path, data: bytes) -> int:
    """A `write_bytes` on a disk that fills up half-way."""
    with path.open("wb") as file:
        file.write(data[: len(data) // 2])
    raise OSError(errno.ENOSPC, "No space left on device", str(path))


def stuck(source: Path, target: Path) -> Path:
    raise OSError(errno.EACCES, "Permission denied", str(source))


@contextmanager
def small_files(limit: int) -> Iterator[None]:
    """The system itself refuses to write more than `limit` bytes to a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_and_replaced_in_new_folders_too(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.bin"
    for data in (b"first", b"", b"second" * 1000):
        replace_file(path, data)
        assert path.read_bytes() == data
    assert names(path.parent) == ["file.bin"]


@pytest.mark.parametrize(("name", "fault"), [("write_bytes", full), ("replace", stuck)])
def test_a_disk_that_refuses_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, fault: object
) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    monkeypatch.setattr(Path, name, fault)
    with pytest.raises(SaveError, match=r"cannot write .*file.bin: (No space left|Permission denied)") as caught:
        replace_file(path, b"new content")
    assert str(path) in str(caught.value)
    assert path.read_bytes() == b"old" and names(tmp_path) == ["file.bin"]


def test_a_limit_of_the_system_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    with small_files(4096), pytest.raises(SaveError, match=r"file.bin: File too large"):
        replace_file(path, b"x" * 100_000)
    assert path.read_bytes() == b"old" and names(tmp_path) == ["file.bin"]


def test_a_file_in_the_place_of_a_folder_is_a_save_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(SaveError, match=r"file/below/it.json"):
        replace_file(tmp_path / "file" / "below" / "it.json", b"new")
    with pytest.raises(SaveError, match="file/model"), replace_folder(tmp_path / "file" / "model"):
        raise AssertionError("the body must not run")
    assert (tmp_path / "file").read_bytes() == b"old"


@pytest.mark.parametrize("path", [Path("/"), Path("x" * 300), Path("nul\0byte")], ids=["root", "long", "nul"])
def test_an_impossible_path_is_a_save_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SaveError, match="cannot write"):
        replace_file(path, b"data")
    with pytest.raises(SaveError, match="cannot write"), replace_folder(path):
        pass
    assert names(tmp_path) == []


def test_a_folder_in_the_place_of_a_file_is_a_save_error(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(SaveError, match="folder: Is a directory"):
        replace_file(tmp_path / "folder", b"data")
    assert names(tmp_path) == ["folder"]


def test_threads_that_write_one_file_leave_one_of_their_texts(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    texts = [bytes([65 + i]) * 50_000 for i in range(8)]
    threads = [threading.Thread(target=replace_file, args=(path, text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in texts and names(tmp_path) == ["file.bin"]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "model"
    for number in (1, 2):
        with replace_folder(path) as folder:
            assert names(folder) == []
            (folder / f"{number}.txt").write_text("text")
            assert not (path / f"{number}.txt").exists()
        assert names(path) == [f"{number}.txt"]
    assert names(tmp_path / "new") == ["model"]


def old_folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    (path / "old.txt").write_text("old")
    return path


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyError("x"), KeyboardInterrupt()]
)
def test_a_body_that_fails_leaves_the_old_folder(tmp_path: Path, error: BaseException) -> None:
    path = old_folder(tmp_path)
    expected = SaveError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected) as caught, replace_folder(path) as folder:  # noqa: PT012 (the body is what fails)
        (folder / "half.txt").write_text("half")
        raise error
    if expected is SaveError:
        assert f"cannot write {path}: No space left on device" in str(caught.value)
    assert names(path) == ["old.txt"] and names(tmp_path) == ["model"]


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "Permission denied"), KeyboardInterrupt()])
@pytest.mark.parametrize("call", [1, 2])
def test_a_rename_that_fails_leaves_the_old_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, call: int
) -> None:
    path, calls, rename = old_folder(tmp_path), [], Path.replace

    def fails_once(source: Path, target: Path) -> Path:
        calls.append(source)
        if len(calls) == call:
            raise error
        return rename(source, target)

    monkeypatch.setattr(Path, "replace", fails_once)
    with (
        pytest.raises(SaveError if isinstance(error, OSError) else KeyboardInterrupt),
        replace_folder(path) as folder,
    ):
        (folder / "new.txt").write_text("new")
    assert names(path) == ["old.txt"] and names(tmp_path) == ["model"]


def test_a_system_limit_inside_the_body_leaves_the_old_folder(tmp_path: Path) -> None:
    path = old_folder(tmp_path)
    with (
        small_files(4096),
        pytest.raises(SaveError, match="model: File too large"),
        replace_folder(path) as folder,
    ):
        (folder / "weights").write_bytes(b"x" * 100_000)
    assert names(path) == ["old.txt"] and names(tmp_path) == ["model"]


def test_a_file_in_the_way_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_text("a file")
    with pytest.raises(SaveError, match="model: a file of that name is in the way"), replace_folder(path):
        raise AssertionError("the body must not run")
    assert path.read_text() == "a file" and names(tmp_path) == ["model"]


def test_a_link_stays_and_its_folder_is_replaced(tmp_path: Path) -> None:
    path, link = old_folder(tmp_path), tmp_path / "latest"
    link.symlink_to(path)
    with replace_folder(link) as folder:
        (folder / "new.txt").write_text("new")
    assert link.is_symlink() and names(path) == ["new.txt"] and names(tmp_path) == ["latest", "model"]
