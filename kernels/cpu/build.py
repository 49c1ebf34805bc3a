"""Builds the kernels for CPUs as an extension of OpenVINO, on the machine that runs them, when first needed."""

from __future__ import annotations

import hashlib
import logging
import platform
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from platformdirs import user_cache_path

from glance_fast.errors import BackendError, MissingDependencyError

SOURCES = Path(__file__).resolve().parent
COMPILERS = ("g++", "c++")
FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-fvisibility=hidden")
# Libraries that the extension is linked with; OpenVINO's wheel holds them, and the headers.
LIBRARIES = ("openvino", "openvino_onnx_frontend", "tbb")
WITHOUT = "or export the model without plugins, which needs no compiler"

log = logging.getLogger("glance_fast")


def extension(folder: Path | None = None, arch: str = "native") -> Path:
    """The library that `openvino.Core().add_extension` takes, compiled for this CPU if it is not there yet.

    It is written to `folder`, by default in the user's cache; its file name is a hash of the sources, the flags,
    OpenVINO's version and this CPU. `arch` is the value of the compiler's `-march`. Raises MissingDependencyError
    without a compiler, and BackendError where it cannot compile.
    """
    directory = user_cache_path("glance-fast") if folder is None else folder
    library = directory / f"dense_pass-{_build_hash(arch)}.so"
    if not library.is_file():
        _compile(library, arch)
    return library


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


def _compile(library: Path, arch: str) -> None:
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if sys.platform != "linux":
        raise BackendError(f"our kernels for CPUs are compiled on Linux, and this is {sys.platform}; {WITHOUT[3:]}")
    if compiler is None:
        raise MissingDependencyError(
            f"our kernels for CPUs need a C++ compiler, {' or '.join(COMPILERS)}; install one, {WITHOUT}"
        )
    log.info("compiling our kernels for this CPU, once: %s", library)
    root = _openvino()
    libraries = [next(iter(sorted((root / "libs").glob(f"lib{name}.so*"))), None) for name in LIBRARIES]
    headers = root / "include"
    if not headers.is_dir() or None in libraries:
        raise BackendError(
            f"OpenVINO {version('openvino')} in {root} brings no headers to compile our kernels with; "
            f"install another one with: pip install --upgrade openvino, {WITHOUT}"
        )
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as directory:
            compiled = Path(directory) / library.name
            links = [*map(str, libraries), f"-Wl,-rpath,{root / 'libs'}"]
            options = [*FLAGS, f"-march={arch}", "-isystem", str(headers)]
            run = [compiler, *options, str(SOURCES / "openvino_op.cpp"), "-o", str(compiled), *links]
            done = subprocess.run(run, capture_output=True, text=True, check=False)
            if done.returncode:
                message = "\n".join(done.stderr.splitlines()[:8])
                raise BackendError(f"{compiler} cannot compile our kernels, {WITHOUT}: {message}")
            # A process that compiles it at the same time writes the same file.
            compiled.replace(library)
    except OSError as error:
        raise BackendError(
            f"{library.parent} cannot hold our compiled kernels: {error.strerror}; {WITHOUT[3:]}"
        ) from error
