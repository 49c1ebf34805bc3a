"""Which files of folders and globs are images: one rule for every command, and an account of what it leaves out.

A folder is searched to any depth. Names that begin with a dot and names of operating systems (`SYSTEM_NAMES`) are
passed over, and so is what this program drew (`DRAWN`). Links are followed: each folder is read once, so loops end, and
a link to a file that is taken under its own name is left out. docs/how_to/data_folders.md states the rule for users.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from functools import cache
from glob import has_magic
from itertools import takewhile
from pathlib import Path

from glance_fast.data.images import IMAGE_SUFFIXES
from glance_fast.data.text import printable
from glance_fast.errors import DataError

# What operating systems and storage devices keep beside the files of their users; case does not matter.
SYSTEM_NAMES = frozenset(
    {
        *("$extend", "$recycle.bin", "desktop.ini", "recycled", "recycler", "system volume information", "thumbs.db"),
        *("__macosx", "network trash folder", "temporary items"),
        *("#recycle", "#snapshot", "@eadir", "@recently-snapshot", "@recycle", "@tmp", "lost+found", "~snapshot"),
    }
)
# What `score` and `train` draw, and the file beside it that shows that they did.
DRAWN = {"overlays": "scores.jsonl", "curves.png": "log.jsonl"}

# Kinds of what is left out.
HIDDEN, OTHER, BROKEN = "hidden or of the system", "of other suffixes", "broken links"
READ, REPEATED = "links to folders that are read already", "links to images that are taken already"
# Examples of each kind in the log.
MAX_EXAMPLES = 3

log = logging.getLogger("glance_fast")


class ImageSearch:
    """Searches folders and globs for images, and keeps what is left out on the way."""

    def __init__(self) -> None:
        self._left_out: dict[str, set[str]] = {}

    def images(self, folder: Path) -> list[Path]:
        """The images below `folder`, sorted; raises DataError for a folder that cannot be read."""
        return self._each_once(folder, self._below(folder))

    def glob(self, pattern: str) -> list[Path]:
        """The images that a glob matches, and those in folders that it matches, sorted; `**` matches any depth."""
        parts = Path(pattern).parts
        fixed = tuple(takewhile(lambda part: not has_magic(part), parts))
        root = Path(*fixed)
        return self._each_once(root, self._matches(str(root), parts[len(fixed) :], os.path.realpath(root)))

    def subfolders(self, folder: Path) -> list[Path]:
        """The folders directly in `folder`, sorted; images beside them are left out."""
        entries = self._kept(_entries(folder))
        for entry in self._image_files(entries):
            self._leave_out("beside the folders of classes", entry.path)
        return sorted(Path(entry.path) for entry in entries if _is_folder(entry))

    def is_system(self, folder: Path) -> bool:
        """Whether a folder that was named is one of an operating system: a shell's `*` names those too."""
        system = folder.name.casefold() in SYSTEM_NAMES
        if system:
            self._leave_out(HIDDEN, str(folder))
        return system

    def left_out(self) -> str:
        """What was left out, as ". Left out: broken links: 1 (line/4.png); ..."; empty if nothing was."""
        counts = [f"{kind}: {len(paths)} ({_examples(kind, paths)})" for kind, paths in sorted(self._left_out.items())]
        return f". Left out: {'; '.join(counts)}" if counts else ""

    def report(self, source: str | Path, count: int) -> None:
        """Log what was left out of `source`, which has `count` images; a broken link is a warning."""
        if message := self.left_out():
            level = logging.WARNING if BROKEN in self._left_out else logging.INFO
            log.log(level, "%s: %d images%s", printable(str(source)), count, message)

    def _leave_out(self, kind: str, path: str) -> None:
        self._left_out.setdefault(kind, set()).add(path)

    def _below(self, root: str | Path) -> Iterator[os.DirEntry[str]]:
        for _, entries in self._folders(root):
            yield from self._image_files(entries)

    def _folders(self, root: str | Path) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
        """`root` and the folders below it, each once, with their entries.

        Links to folders are followed when all other folders are read, and no link to a folder around `root` is.
        """
        real_root = os.path.realpath(root)
        seen, pending, links = set[str](), [str(root)], list[str]()
        while pending or links:
            folder = pending.pop() if pending else links.pop(0)
            real = os.path.realpath(folder)
            if real in seen or (real != real_root and _is_around(real, real_root)):
                self._leave_out(READ, folder)
                continue
            seen.add(real)
            entries = self._kept(_entries(folder))
            yield folder, entries
            for entry in filter(_is_folder, entries):
                (links if entry.is_symlink() else pending).append(entry.path)

    def _matches(self, folder: str, parts: tuple[str, ...], real_root: str) -> Iterator[os.DirEntry[str]]:
        """The image files below `folder` whose path, or the path of a folder around them, matches `parts`."""
        if parts == () or parts == ("**",):
            yield from self._below(folder)
        elif parts[0] == "**":
            for below, _ in self._folders(folder):
                yield from self._matches(below, parts[1:], real_root)
        elif has_magic(parts[0]):
            entries = self._kept(_entries(folder), parts[0])
            if len(parts) == 1:
                yield from self._image_files(entries)
            for entry in filter(_is_folder, entries):
                if entry.is_symlink() and _is_around(os.path.realpath(entry.path), real_root):
                    self._leave_out(READ, entry.path)
                else:
                    yield from self._matches(entry.path, parts[1:], real_root)
        elif len(parts) > 1:
            yield from self._matches(os.path.join(folder, parts[0]), parts[1:], real_root)
        else:
            entries = [entry for entry in _entries(folder) if entry.name == parts[0]]
            yield from self._image_files(entries)
            for entry in filter(_is_folder, entries):
                yield from self._below(entry.path)

    def _kept(self, entries: list[os.DirEntry[str]], pattern: str = "*") -> list[os.DirEntry[str]]:
        """Those of all entries of a folder that match a pattern and are not passed over by their names."""
        names, kept = {entry.name for entry in entries}, []
        for entry in entries:
            if not fnmatch(entry.name, pattern):
                continue
            if entry.name.startswith(".") or entry.name.casefold() in SYSTEM_NAMES:
                self._leave_out(HIDDEN, entry.path)
            elif DRAWN.get(entry.name) in names:
                self._leave_out("drawn by glance-fast", entry.path)
            else:
                kept.append(entry)
        return kept

    def _image_files(self, entries: Iterable[os.DirEntry[str]]) -> Iterator[os.DirEntry[str]]:
        """The image files among the entries of a folder; all others but folders are left out."""
        for entry in entries:
            if _is_folder(entry):
                continue
            if not _is_file(entry):
                self._leave_out(BROKEN if entry.is_symlink() else "no regular files", entry.path)
            elif os.path.splitext(entry.name)[1].lower() not in IMAGE_SUFFIXES:
                self._leave_out(OTHER, entry.path)
            else:
                yield entry

    def _each_once(self, root: Path, entries: Iterable[os.DirEntry[str]]) -> list[Path]:
        """Paths of image files, sorted, each once by the file that it leads to.

        A link to a file is left out if that file is taken from `root` itself, or if another link leads to it.
        """
        real, files, links = cache(os.path.realpath), dict[str, Path](), dict[str, Path]()
        for path, is_link in {Path(entry.path): entry.is_symlink() for entry in entries}.items():
            target = os.path.realpath(path) if is_link else os.path.join(real(path.parent), path.name)
            first = (links if is_link else files).setdefault(target, path)
            if first is not path:
                self._leave_out(REPEATED, str(path))
        for target in links.keys() & files.keys():
            if os.path.join(real(root), files[target].relative_to(root)) == target:
                self._leave_out(REPEATED, str(links.pop(target)))
        return sorted((*files.values(), *links.values()))


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """The entries of a folder, sorted, links last; none of what is no folder. Raises DataError if it is unreadable."""
    try:
        return sorted(os.scandir(folder), key=lambda entry: (entry.is_symlink(), entry.name))
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a null character in the name
        return []
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}; make it readable, or take it out") from error


def _is_around(real: str, real_root: str) -> bool:
    """Whether a resolved folder is `real_root` or lies around it."""
    return os.path.join(real_root, "").startswith(os.path.join(real, ""))


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a regular file or leads to one; asks the file system for links alone."""
    return os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file()


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or leads to one; unlike `DirEntry.is_dir`, no OSError for a link to itself."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _examples(kind: str, paths: set[str]) -> str:
    """The suffixes of files that have others than images; of all other kinds, the paths."""
    names = {os.path.splitext(path)[1] or "none" for path in paths} if kind == OTHER else paths
    first = ", ".join(printable(name) for name in sorted(names)[:MAX_EXAMPLES])
    return f"{first}, ..." if len(names) > MAX_EXAMPLES else first
