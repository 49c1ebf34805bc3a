"""The library of the kernels for CPUs: loaded only if it is whole and nobody else can have written it."""

from __future__ import annotations

import errno
import logging
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from glance_fast.errors import BackendError, MissingDependencyError
from glance_fast.kernels.cpu import build
from glance_fast.kernels.cpu.build import extension
from glance_fast.kernels.cpu.trusted_path import distrust, make_private

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernels are compiled on Linux")

NOBODY = 65534
# A compiler that counts its runs beside itself and writes the same to any file after -o.
COMPILER = """#!/bin/sh
echo run >> "$0.runs"
while [ "$1" != -o ]; do shift; done
printf %s "machine code" > "$2"
"""


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compiler that needs no time; it is a script that a test may change."""
    path = tmp_path / "compiler"
    path.write_text(COMPILER)
    path.chmod(0o700)
    monkeypatch.setattr(build, "COMPILERS", (str(path),))
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "user" / "cache"


def runs(compiler: Path) -> int:
    return len(Path(f"{compiler}.runs").read_text().splitlines())


def give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make another user the owner; without the right to do so, we become another user."""
    if os.geteuid() == 0:
        os.chown(path, NOBODY, NOBODY)
    else:
        other = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: other)


def test_a_library_is_compiled_once(compiler: Path, cache: Path) -> None:
    library = extension(cache)
    assert extension(cache) == library and runs(compiler) == 1
    assert library.read_text() == "machine code" and list(cache.iterdir()) == [library]


def flush_fails(number: int) -> Callable[[int], None]:
    """An `os.fsync` of a file system that fails for folders."""
    fsync = os.fsync

    def fails(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    return fails


def test_a_file_system_that_cannot_flush_a_folder_holds_the_library(
    compiler: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", flush_fails(errno.EINVAL))
    library = extension(cache)
    assert extension(cache) == library and runs(compiler) == 1


@pytest.mark.usefixtures("compiler")
def test_a_disk_that_fails_is_an_error(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", flush_fails(errno.EIO))
    with pytest.raises(BackendError, match="cannot hold our compiled kernels: Input/output error"):
        extension(cache)


def test_a_compiled_library_needs_no_compiler_and_another_cpu_has_its_own(
    compiler: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = extension(cache)
    compiler.unlink()
    assert extension(cache) == library
    monkeypatch.setattr(build, "_cpu", lambda: "another CPU")
    with pytest.raises(MissingDependencyError):
        extension(cache)


@pytest.mark.parametrize("content", ["", "machine", "machine c0de", "machine code and more"])
def test_a_damaged_library_is_compiled_anew(
    compiler: Path, cache: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    library = extension(cache)
    library.write_text(content)
    with caplog.at_level(logging.WARNING, "glance_fast"):
        assert extension(cache).read_text() == "machine code"
    assert runs(compiler) == 2 and f"{library} is damaged" in caplog.text


def test_a_library_that_is_no_file_or_a_giant_is_not_read(compiler: Path, cache: Path) -> None:
    library = extension(cache)
    library.unlink()
    os.mkfifo(library)
    assert extension(cache).is_file() and runs(compiler) == 2
    os.truncate(library, 2**40)
    assert extension(cache).stat().st_size == len("machine code")


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_library_that_others_may_write_is_compiled_anew(compiler: Path, cache: Path, mode: int) -> None:
    library = extension(cache)
    library.chmod(mode)
    assert extension(cache) == library and runs(compiler) == 2
    assert library.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_library_of_another_user_is_compiled_anew(compiler: Path, cache: Path) -> None:
    library = extension(cache)
    os.chown(library, NOBODY, NOBODY)
    assert extension(cache) == library and runs(compiler) == 2
    assert library.stat().st_uid == 0


def test_a_link_to_a_library_is_not_loaded(compiler: Path, cache: Path, tmp_path: Path) -> None:
    library = extension(cache)
    elsewhere = library.replace(tmp_path / "elsewhere.so")
    library.symlink_to(elsewhere)
    assert not extension(cache).is_symlink() and runs(compiler) == 2


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_a_folder_that_others_may_write_is_refused(compiler: Path, cache: Path, mode: int) -> None:
    extension(cache)
    cache.chmod(mode)
    with pytest.raises(BackendError, match=rf"others may write to {cache}\. .*set XDG_CACHE_HOME"):
        extension(cache)
    assert runs(compiler) == 1


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(("mode", "legal"), [(0o755, True), (0o1777, True), (0o777, False), (0o770, False)])
def test_a_folder_above_may_be_writable_only_if_it_is_sticky(cache: Path, mode: int, legal: bool) -> None:
    extension(cache)
    cache.parent.chmod(mode)
    assert distrust(cache) == (None if legal else f"others may write to {cache.parent}")


@pytest.mark.usefixtures("compiler")
def test_a_folder_above_of_another_user_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extension(cache)
    give_away(cache.parent, monkeypatch)
    with pytest.raises(BackendError, match="belongs to another user"):
        extension(cache)


@pytest.mark.usefixtures("compiler")
def test_a_default_folder_that_others_may_write_is_replaced_by_a_private_folder(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make_private(cache)
    cache.chmod(0o1777)
    monkeypatch.setattr(build, "user_cache_path", lambda _: cache)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with caplog.at_level(logging.WARNING, "glance_fast"):
        library = extension()
    assert library.parent == tmp_path / f"glance-fast-{os.geteuid()}" and distrust(library) is None
    assert f"not kept in {cache}: others may write to {cache}" in caplog.text and list(cache.iterdir()) == []


@pytest.mark.usefixtures("compiler")
def test_others_may_write_nothing_that_is_made_without_a_umask(cache: Path) -> None:
    before = os.umask(0)
    try:
        library = extension(cache)
    finally:
        os.umask(before)
    assert distrust(library) is None and extension(cache) == library


@pytest.mark.usefixtures("compiler")
def test_a_folder_behind_a_link_is_checked_where_it_is(cache: Path, tmp_path: Path) -> None:
    make_private(cache)
    (tmp_path / "link").symlink_to(cache)
    assert extension(tmp_path / "link").parent == cache
    cache.parent.chmod(0o777)
    with pytest.raises(BackendError, match=f"others may write to {cache.parent}"):
        extension(tmp_path / "link")


def test_a_compiler_that_is_killed_leaves_nothing(compiler: Path, cache: Path) -> None:
    compiler.write_text(COMPILER + "kill -9 $$\n")
    with pytest.raises(BackendError, match="cannot compile our kernels, or export .*: it ended with -9"):
        extension(cache)
    assert list(cache.iterdir()) == []


def test_a_process_that_is_killed_leaves_nothing_that_is_loaded_or_stays(compiler: Path, cache: Path) -> None:
    compiler.write_text(COMPILER + "echo > $0.waits\nsleep 60\n")
    program = (
        "import sys; from pathlib import Path; from glance_fast.kernels.cpu import build; "
        "build.COMPILERS = (sys.argv[1],); build.extension(Path(sys.argv[2]))"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(compiler), str(cache)], start_new_session=True)
    while not Path(f"{compiler}.waits").exists():
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, 9)
    process.wait()
    (abandoned,) = cache.iterdir()
    compiler.write_text(COMPILER)
    library = extension(cache)
    assert abandoned.exists() and library.read_text() == "machine code", "another process may still be at work in it"
    library.unlink()
    os.utime(abandoned, (0, 0))
    assert list(cache.iterdir()) == [abandoned]
    assert [extension(cache)] == list(cache.iterdir())


def test_processes_that_compile_at_once_load_whole_libraries(compiler: Path, cache: Path) -> None:
    # Each compilation gives other bytes, as some compilers do.
    compiler.write_text(COMPILER.replace('"machine code"', '"machine code $$"') + "sleep 0.05\n")
    libraries: list[Path] = []
    threads = [threading.Thread(target=lambda: libraries.append(extension(cache))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(libraries) == 4 and all(library.read_text().startswith("machine code") for library in libraries)
    before = runs(compiler)
    assert extension(cache) in libraries and runs(compiler) == before


def test_a_library_is_on_the_disk_before_it_has_its_name(
    compiler: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, list[str]]] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        synced.append((Path(name).name, [path.suffix for path in cache.iterdir()]))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    extension(cache)
    assert synced == [("dense_pass.so", [""]), ("cache", [".so"])] and runs(compiler) == 1
