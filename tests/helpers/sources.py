"""The repository's own Python files, for rules about them."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ("glance_fast", "kernels", "export")


def sources(*folders: str) -> list[Path]:
    """Every Python file of these top folders, each once: the links in glance_fast/ are left out."""
    files = [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]
    return [file for file in files if file.resolve() == file]


def label(file: Path) -> str:
    """A file's path in test ids and messages."""
    return file.relative_to(ROOT).as_posix()
