"""Test images split into a part to choose settings by and a part to report.

Photographs of the same object must be in the same part, or the choice would depend on what is reported. Photographs
whose numbers show that they are related form a group; otherwise each is a group of its own. A hash of a group's class
and first file name assigns it to its part, so the split is the same on every machine.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from glance_fast.data.datasets import Sample
from glance_fast.errors import DataError

PARTS = ("choosing", "reporting")


def part_of(samples: Sequence[Sample], pattern: str | None, within: int) -> dict[Path, str]:
    """The part of each sample, by its path; `pattern` and `within` as for `related`."""
    parts: dict[Path, str] = {}
    for defect in sorted({sample.defect for sample in samples}):
        paths = [sample.path for sample in samples if sample.defect == defect]
        for group in related(paths, pattern, within):
            first = hashlib.sha256(f"{defect}/{min(path.stem for path in group)}".encode()).digest()[0]
            parts |= dict.fromkeys(group, PARTS[first >= 128])
    return parts


def related(paths: Sequence[Path], pattern: str | None, within: int) -> list[list[Path]]:
    """Groups of photographs whose consecutive numbers differ by at most `within`; without a pattern, groups of one."""
    if pattern is None:
        return [[path] for path in paths]
    groups: list[list[Path]] = []
    last = None
    for path in sorted(paths, key=lambda path: photograph_number(path, pattern)):
        if last is None or photograph_number(path, pattern) - last > within:
            groups.append([])
        groups[-1].append(path)
        last = photograph_number(path, pattern)
    return groups


def photograph_number(path: Path, pattern: str) -> int:
    """The number in a file's name; raises DataError when the pattern is not in it."""
    match = re.search(pattern, path.stem)
    if match is None or not match.groups() or not match[1].isdecimal():
        raise DataError(f"{path.name} has no number where the pattern {pattern!r} looks for one")
    return int(match[1])
