"""The kernels for CPUs, `kernels/cpu`, as an extension of OpenVINO: compiled where they run, when first needed."""

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
# What the extension is linked with; all of it is in OpenVINO's wheel, and so are the headers.
LIBRARIES = ("openvino", "openvino_onnx_frontend", "tbb")
WITHOUT = "or export the model without plugins, which needs no compiler"

log = logging.getLogger("glance_fast")


def extension(folder: Path | None = None, arch: str = "native") -> Path:
    """The library that `openvino.Core().add_extension` takes, compiled for this CPU if it is not there yet.

    It lies in `folder`, by default one in the user's cache, under a name that tells what it was made from and for:
    these sources, this OpenVINO, this CPU. `arch` is what the compiler's `-march` takes. Raises MissingDependencyError
    without a compiler, and BackendError where it cannot compile.
    """
    place = user_cache_path("glance-fast") if folder is None else folder
    library = place / f"dense_pass-{_made_from(arch)}.so"
    if not library.is_file():
        _compile(library, arch)
    return library


def _made_from(arch: str) -> str:
    """A name for all that the library depends on."""
    parts = [*FLAGS, arch, version("openvino"), str(_openvino()), _cpu() if arch == "native" else ""]
    known = hashlib.sha256("\n".join(parts).encode())
    for source in sorted(SOURCES.glob("*.[ch]pp")):
        known.update(source.read_bytes())
    return known.hexdigest()[:16]


def _cpu() -> str:
    """What this CPU can do, for the compiler's `-march=native`."""
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
    found = [next(iter(sorted((root / "libs").glob(f"lib{name}.so*"))), None) for name in LIBRARIES]
    headers = root / "include"
    if not headers.is_dir() or None in found:
        raise BackendError(
            f"OpenVINO {version('openvino')} in {root} brings no headers to compile our kernels with; "
            f"install another one with: pip install --upgrade openvino, {WITHOUT}"
        )
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as place:
            made = Path(place) / library.name
            links = [*map(str, found), f"-Wl,-rpath,{root / 'libs'}"]
            options = [*FLAGS, f"-march={arch}", "-isystem", str(headers)]
            run = [compiler, *options, str(SOURCES / "openvino_op.cpp"), "-o", str(made), *links]
            done = subprocess.run(run, capture_output=True, text=True, check=False)
            if done.returncode:
                said = "\n".join(done.stderr.splitlines()[:8])
                raise BackendError(f"{compiler} cannot compile our kernels, {WITHOUT}: {said}")
            # Whoever else compiles it meanwhile makes the same file.
            made.replace(library)
    except OSError as error:
        raise BackendError(
            f"{library.parent} cannot hold our compiled kernels: {error.strerror}; {WITHOUT[3:]}"
        ) from error
