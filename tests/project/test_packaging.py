"""The wheel: built without a network, complete, and usable from anywhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest

from glance_fast.version import __version__

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = {"glance_fast": "glance_fast", "kernels": "glance_fast/kernels", "export": "glance_fast/export"}


def run(*command: str | Path, cwd: Path, path: Path | None = None) -> str:
    """What a command prints; `path` is put before everything that is installed."""
    env = os.environ | {"PYTHONPATH": str(path) if path is not None else ""}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip(*arguments: str | Path, cwd: Path) -> None:
    options = ("--disable-pip-version-check", "--no-deps", "--no-index")
    run(sys.executable, "-m", "pip", *arguments, *options, cwd=cwd)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources: a build leaves folders that the next one would pack."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, source)
    for name in (*SHIPPED, "tests"):
        caches = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=caches)
    pip("wheel", "--no-build-isolation", "--wheel-dir", output, source, cwd=output)
    (built,) = output.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel is installed in."""
    target = tmp_path_factory.mktemp("installed")
    pip("install", "--target", target, wheel, cwd=target)
    return target


def test_wheel_holds_every_source_file_once_and_nothing_else(wheel: Path) -> None:
    expected = [
        f"{package}/{file.relative_to(ROOT / folder).as_posix()}"
        for folder, package in SHIPPED.items()
        for file in source_files(ROOT / folder)
    ]
    with ZipFile(wheel) as archive:
        packed = [name for name in archive.namelist() if ".dist-info/" not in name]
    assert sorted(packed) == sorted(expected)
    assert "glance_fast/evaluation/report.html.j2" in packed
    assert "glance_fast/py.typed" in packed


def source_files(folder: Path) -> list[Path]:
    """The files of a source folder, without those behind its links."""
    return [
        file
        for file in folder.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts and file.resolve() == file
    ]


def test_wheel_says_what_it_is(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        metadata = next(name for name in archive.namelist() if name.endswith("/METADATA"))
        lines = archive.read(metadata).decode().splitlines()
        assert any(name.endswith("/licenses/LICENSE") for name in archive.namelist())
    assert {"Name: glance-fast", "License-Expression: Apache-2.0", "Requires-Python: >=3.11"} <= set(lines)
    needed = [line for line in lines if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert len(needed) == 11
    assert not any("torch" in line for line in needed)
    extras = {line.removeprefix("Provides-Extra: ") for line in lines if line.startswith("Provides-Extra:")}
    assert {"train", "export", "onnxruntime", "gpu", "tensorrt", "dev"} <= extras


# Of a checkout alone: settings of Git, of its hooks and of its host.
OF_GIT = (".git", ".pre-commit-config.yaml")


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no checkout, which alone knows its files")
def test_the_source_distribution_holds_every_file_of_the_checkout(tmp_path: Path) -> None:
    """Built without a network, from a copy of the files that Git has; the two links are not packed."""
    listed = run("git", "ls-files", cwd=ROOT).splitlines()
    source = tmp_path / "source"
    for name in listed:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name, follow_symlinks=False)
    build = "from setuptools.build_meta import build_sdist; build_sdist('..')"
    run(sys.executable, "-c", build, cwd=source)
    (built,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(built) as archive:
        packed = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    made = {name for name in packed if name in ("PKG-INFO", "setup.cfg") or ".egg-info/" in name}
    expected = [name for name in listed if not name.startswith(OF_GIT) and not (ROOT / name).is_symlink()]
    assert sorted(packed - made) == sorted(expected)


def test_installed_package_imports_from_another_folder(installed: Path, tmp_path: Path) -> None:
    code = (
        "import glance_fast, glance_fast.kernels.reference.partial_conv as conv, glance_fast.export as export\n"
        "print(glance_fast.__version__, glance_fast.__file__, conv.__file__, export.__file__, sep='\\n')"
    )
    version, *files = run(sys.executable, "-c", code, cwd=tmp_path, path=installed).splitlines()
    assert version == __version__
    assert [Path(file).relative_to(installed).as_posix() for file in files] == [
        "glance_fast/__init__.py",
        "glance_fast/kernels/reference/partial_conv.py",
        "glance_fast/export/__init__.py",
    ]


def test_installed_command_runs(installed: Path, tmp_path: Path) -> None:
    printed = run(sys.executable, installed / "bin" / "glance-fast", "--version", cwd=tmp_path, path=installed)
    assert printed.strip() == f"glance-fast {__version__}"
