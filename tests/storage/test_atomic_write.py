"""A file or folder is replaced whole or not at all, and a disk that refuses is a SaveError with the path."""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from glance_fast.errors import SaveError
from glance_fast.storage import atomic_write
from glance_fast.storage.atomic_write import AppendedFile, append_file, recover_folder, replace_file, replace_folder
from glance_fast.storage.exchange import exchange

ROOT = Path(__file__).parents[2]


def full(descriptor: int) -> None:
    """A flush to a disk on which another program has taken the room meanwhile."""
    raise OSError(errno.ENOSPC, "No space left on device")


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


@pytest.mark.parametrize(("owner", "name", "fault"), [(os, "fsync", full), (Path, "replace", stuck)])
def test_a_disk_that_refuses_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, fault: object
) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    monkeypatch.setattr(owner, name, fault)
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
    """Where the file system cannot exchange two folders."""
    path, calls, rename = old_folder(tmp_path), list[Path](), Path.replace

    def fails_once(source: Path, target: Path) -> Path:
        calls.append(source)
        if len(calls) == call:
            raise error
        return rename(source, target)

    monkeypatch.setattr(atomic_write, "exchange", lambda *_: False)
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


def test_names_as_long_as_the_file_system_allows_are_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    for data in (b"old", b"new"):
        replace_file(path, data)
    with replace_folder(tmp_path / ("f" * 255)) as folder:
        (folder / "file").write_bytes(b"data")
    assert path.read_bytes() == b"new" and {len(name) for name in names(tmp_path)} == {255}


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is flushed and renamed, in order: "sync NAME", "rename OLD NEW", "exchange OLD NEW"."""
    calls, sync, rename = list[str](), os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        calls.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        sync(descriptor)

    def renamed(source: Path, target: Path) -> Path:
        calls.append(f"rename {source.name} {Path(target).name}")
        return rename(source, target)

    def exchanged(first: Path, second: Path) -> bool:
        calls.append(f"exchange {first.name} {second.name}")
        return exchange(first, second)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    monkeypatch.setattr(atomic_write, "exchange", exchanged)
    return calls


def test_a_file_is_flushed_before_its_name_and_its_folder_after(tmp_path: Path, disk: list[str]) -> None:
    replace_file(tmp_path / "a" / "b" / "file", b"data")
    *folders, content, rename, name = disk
    assert folders == [f"sync {tmp_path.name}", "sync a"], "the names of new folders are flushed too"
    temporary = content.removeprefix("sync ")
    assert (rename, name) == (f"rename {temporary} file", "sync b")


def test_a_folder_is_flushed_from_its_files_up_before_it_is_renamed(tmp_path: Path, disk: list[str]) -> None:
    for step in ("rename", "exchange"):
        disk.clear()
        with replace_folder(tmp_path / "model") as folder:
            (folder / "exports").mkdir()
            (folder / "exports" / "graph").write_bytes(b"graph")
            (folder / "weights").write_bytes(b"weights")
        flushed = [call for call in disk if call.startswith("sync")]
        assert flushed == [
            f"sync {tmp_path.name}",
            "sync graph",
            "sync exports",
            "sync weights",
            f"sync {folder.name}",
            flushed[0],
        ]
        assert disk[-2:] == [f"{step} {folder.name} model", flushed[0]]
    assert names(tmp_path) == ["model"]


def test_an_appended_row_is_flushed_and_so_is_the_name_of_a_new_file(tmp_path: Path, disk: list[str]) -> None:
    append_file(tmp_path / "rows", b"row\n")
    assert disk == [f"sync {tmp_path.name}", "sync rows"]


WRITE = """
import sys
from pathlib import Path
from glance_fast.storage.atomic_write import replace_file, replace_folder
folder = Path(sys.argv[1])
replace_file(folder / "file", b"data")
for _ in range(2):
    with replace_folder(folder / "model") as model:
        (model / "weights").write_bytes(b"weights")
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_the_kernel_sees_the_flushes_in_order(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    options = ["-f", "-o", str(trace), "-e", "trace=fsync,rename,renameat2"]
    subprocess.run(["strace", *options, sys.executable, "-c", WRITE, str(tmp_path)], cwd=ROOT, check=True)
    calls = re.findall(r"(fsync|rename|renameat2)\(.* = 0", trace.read_text())
    folder = ["fsync", "fsync", "fsync"]  # the temporary folder's name, its file, its names
    assert calls == ["fsync", "rename", "fsync", *folder, "rename", "fsync", *folder, "renameat2", "fsync"]
    assert "RENAME_EXCHANGE" in trace.read_text()


def test_an_append_that_the_disk_refuses_is_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    with AppendedFile(path) as file:
        file.append(b"whole\n" * 100)
        with small_files(1000), pytest.raises(SaveError, match="rows: File too large"):
            file.append(b"x" * 1000)
        assert path.read_bytes() == b"whole\n" * 100
        file.append(b"next\n")
    assert path.read_bytes() == b"whole\n" * 100 + b"next\n"


KILLED = """
import os, signal, sys
from pathlib import Path
from glance_fast.storage import atomic_write
rename = Path.replace
def killed(source, target):
    rename(source, target)
    os.kill(os.getpid(), signal.SIGKILL)
atomic_write.exchange, Path.replace = lambda *_: False, killed
with atomic_write.replace_folder(Path(sys.argv[1])) as folder:
    (folder / "new.txt").write_text("new")
"""


def test_a_kill_between_two_renames_is_recovered_from(tmp_path: Path) -> None:
    """Where the file system cannot exchange two folders."""
    path = old_folder(tmp_path)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL and not path.exists()
    (tmp_path / ".other.00000000.before").mkdir()
    recover_folder(path)
    assert names(path) == ["old.txt"]
    (tmp_path / ".model.00000000.before").mkdir()
    recover_folder(path)
    assert names(path) == ["old.txt"], "a folder that is there is never replaced by what an earlier run left"


def test_a_folder_is_never_missing_while_it_is_replaced(tmp_path: Path) -> None:
    path = old_folder(tmp_path)
    (path / "number").write_text("0")
    ended, missing = threading.Event(), list[OSError]()

    def read() -> None:
        while not ended.is_set():
            try:
                (path / "number").read_text()
            except OSError as error:
                missing.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(20):
        with replace_folder(path) as folder:
            (folder / "number").write_text(str(number))
    ended.set()
    reader.join()
    assert missing == []
