"""Builds the kernels for CPUs as an extension of OpenVINO, on the machine that runs them, when first needed."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from platformdirs import user_cache_path

from glance_fast.errors import BackendError, MissingDependencyError
from glance_fast.kernels.cpu.trusted_path import distrust, make_private

SOURCES = Path(__file__).resolve().parent
COMPILERS = ("g++", "c++")
FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-fvisibility=hidden")
# Libraries that the extension is linked with; OpenVINO's wheel holds them, and the headers.
LIBRARIES = ("openvino", "openvino_onnx_frontend", "tbb")
MAX_BYTES = 2**26  # of a library: ours is a few hundred kB
COMPILING = "compiling-"  # how folders of unfinished libraries begin
WITHOUT = "or export the model without plugins, which needs no compiler"

log = logging.getLogger("glance_fast")


def extension(folder: Path | None = None, arch: str = "native") -> Path:
    """The library that `openvino.Core().add_extension` takes, compiled for this CPU if it is not there yet.

    It is written to `folder`, by default in the user's cache. Its file name holds a hash of the sources, the flags,
    OpenVINO's version and this CPU, and the SHA-256 of its content. It is compiled anew where its content has another
    hash, and where another user could have written it; a default folder that others can write to is not used, but a
    private one among the temporary files. `arch` is the value of the compiler's `-march`. Raises
    MissingDependencyError without a compiler, and BackendError where it cannot compile and for a `folder` that others
    can write to.
    """
    if sys.platform != "linux":
        raise BackendError(f"our kernels for CPUs are compiled on Linux, and this is {sys.platform}; {WITHOUT[3:]}")
    try:
        directory = _private_folder(_default_folders() if folder is None else [folder])
        build = _build_hash(arch)
        ready = filter(_is_ours_and_whole, sorted(directory.glob(f"dense_pass-{build}-*.so")))
        return next(ready, None) or _compile(directory, build, arch)
    except OSError as error:
        where = error.filename or folder or "this machine"
        raise BackendError(f"{where} cannot hold our compiled kernels: {error.strerror}; {WITHOUT[3:]}") from error


def _default_folders() -> list[Path]:
    return [user_cache_path("glance-fast"), Path(tempfile.gettempdir()) / f"glance-fast-{os.geteuid()}"]


def _private_folder(folders: list[Path]) -> Path:
    """The first of these folders that no other user can change, made if missing; raises BackendError, and OSError."""
    faults = []
    for folder in folders:
        path = Path(os.path.realpath(folder))  # what is checked is what is used, whatever becomes of a link
        make_private(path)
        fault = distrust(path)
        if fault is None:
            return path
        log.warning("our compiled kernels are not kept in %s: %s", folder, fault)
        faults.append(fault)
    raise BackendError(
        f"our compiled kernels would not be safe from other users: {'; '.join(faults)}. Take the right to write from "
        f"others, or set XDG_CACHE_HOME to a folder that is yours alone, {WITHOUT}"
    )


def _is_ours_and_whole(library: Path) -> bool:
    """Whether no other user can have written the library, and its content has the hash in its name.

    A damaged library would end the process when it is loaded. Nobody else can change it after this check.
    """
    plain = library.is_file() and library.stat().st_size <= MAX_BYTES
    if plain and distrust(library) is None and library.stem.endswith(f"-{_sha256(library)}"):
        return True
    log.warning("%s is damaged or was written by others; our kernels are compiled anew", library)
    return False


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _build_hash(arch: str) -> str:
    """Hash of all that the library depends on."""
    parts = [*FLAGS, arch, version("openvino"), str(_openvino()), _cpu() if arch == "native" else ""]
    digest = hashlib.sha256("\n".join(parts).encode())
    for source in sorted(SOURCES.glob("*.[ch]pp")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _cpu() -> str:
    """This CPU's features, on which the compiler's `-march=native` depends."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text(encoding="utf-8").splitlines() if about.is_file() else []
    flags = (line for line in lines if line.lower().startswith(("flags", "features")))
    return next(flags, platform.processor())


def _openvino() -> Path:
    """The folder of OpenVINO's package."""
    spec = find_spec("openvino")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def _compile(directory: Path, build: str, arch: str) -> Path:
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise MissingDependencyError(
            f"our kernels for CPUs need a C++ compiler, {' or '.join(COMPILERS)}; install one, {WITHOUT}"
        )
    log.info("compiling our kernels for this CPU, once, in %s", directory)
    root = _openvino()
    libraries = [next(iter(sorted((root / "libs").glob(f"lib{name}.so*"))), None) for name in LIBRARIES]
    headers = root / "include"
    if not headers.is_dir() or None in libraries:
        raise BackendError(
            f"OpenVINO {version('openvino')} in {root} brings no headers to compile our kernels with; "
            f"install another one with: pip install --upgrade openvino, {WITHOUT}"
        )
    _remove_abandoned(directory)
    with tempfile.TemporaryDirectory(prefix=COMPILING, dir=directory) as scratch:
        compiled = Path(scratch) / "dense_pass.so"
        links = [*map(str, libraries), f"-Wl,-rpath,{root / 'libs'}"]
        options = [*FLAGS, f"-march={arch}", "-isystem", str(headers)]
        run = [compiler, *options, str(SOURCES / "openvino_op.cpp"), "-o", str(compiled), *links]
        done = subprocess.run(run, capture_output=True, text=True, check=False)
        if done.returncode:
            message = "\n".join(done.stderr.splitlines()[:8]) or f"it ended with {done.returncode}"
            raise BackendError(f"{compiler} cannot compile our kernels, {WITHOUT}: {message}")
        compiled.chmod(0o700)  # the user's umask may let others write
        _sync(compiled)
        # A process that compiles at the same time writes a library that is as good.
        library = compiled.replace(directory / f"dense_pass-{build}-{_sha256(compiled)}.so")
    _sync(directory)
    return library


def _remove_abandoned(directory: Path) -> None:
    """Remove what a process left that was killed while it compiled, which takes seconds, an hour ago or more."""
    for scratch in directory.glob(f"{COMPILING}*"):
        with suppress(FileNotFoundError):  # its process has just finished
            if time.time() - scratch.stat().st_mtime > 3600:
                shutil.rmtree(scratch, ignore_errors=True)


def _sync(path: Path) -> None:
    """Wait until a file or folder is on the disk, as `storage/sync.py` does, which kernels must not import."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot flush a folder: there the server does.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)
