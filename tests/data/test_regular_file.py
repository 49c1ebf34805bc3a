"""A regular file is read whole; anything else, and a file above the limit, is refused at once."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from glance_fast.data.regular_file import open_regular, read_regular


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def make_giant(path: Path) -> None:
    """A file of 2 TB that takes no room."""
    path.touch()
    os.truncate(path, 2**41)


# What lies at the path, and the reason that is given.
REFUSED: dict[str, Callable[[Path], object]] = {
    "a FIFO, not a regular file": os.mkfifo,
    "a socket, not a regular file": make_socket,
    "a character device, not a regular file": lambda path: path.symlink_to("/dev/zero"),
    "2,199,023,255,552 bytes, and at most 100 are read": make_giant,
    "101 bytes, and at most 100 are read": lambda path: path.write_bytes(bytes(101)),
    "Is a directory": Path.mkdir,
    "No such file": lambda path: None,
    "Too many levels of symbolic links": lambda path: path.symlink_to(path.name),
}


@pytest.mark.parametrize("length", [0, 1, 100])
def test_a_regular_file_is_read_whole_through_links_too(tmp_path: Path, length: int) -> None:
    data, link = os.urandom(length), tmp_path / "link"
    (tmp_path / "file").write_bytes(data)
    link.symlink_to("file")
    assert read_regular(tmp_path / "file", 100) == read_regular(link, 100) == data
    with open_regular(link, 100) as file:
        assert file.read() == data


@pytest.mark.parametrize("reason", REFUSED)
def test_anything_else_is_refused_with_its_reason(tmp_path: Path, reason: str) -> None:
    path = tmp_path / "file"
    REFUSED[reason](path)
    with pytest.raises(OSError, match=reason) as caught:
        read_regular(path, 100)
    assert caught.value.strerror and caught.value.filename == str(path)


@pytest.mark.parametrize("name", ["nul\0byte", "half\ud800pair", "x" * 300])
def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(OSError, match="no path of a file|File name too long"):
        read_regular(tmp_path / name, 100)


def test_a_file_that_becomes_a_fifo_before_it_is_opened_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, regular = tmp_path / "file", tmp_path / "regular"
    os.mkfifo(path)
    regular.touch()
    earlier = regular.stat()
    monkeypatch.setattr(os, "stat", lambda path: earlier)
    with pytest.raises(OSError, match="a FIFO, not a regular file"):
        read_regular(path, 100)


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"short")
    status = os.fstat

    def grown(descriptor: int) -> os.stat_result:
        before = status(descriptor)
        with path.open("ab") as file:
            file.write(b"more")
        return before

    monkeypatch.setattr(os, "fstat", grown)
    with pytest.raises(OSError, match="it changed while it was read, from"):
        read_regular(path, 100)
