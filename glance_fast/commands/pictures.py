"""The pictures of files: a file as a whole, or each of its pages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from glance_fast.data.images import count_pages
from glance_fast.errors import ImageError


@dataclass(frozen=True)
class Picture:
    """An image file of one picture, where `page` is None, or a page of a file, counted from 1."""

    path: Path
    page: int | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return str(self.path) if self.page is None else f"{self.path}, page {self.page}"

    @property
    def overlay_path(self) -> Path:
        """The path that its overlay is named after."""
        return self.path if self.page is None else self.path.with_name(f"{self.path.stem}_page{self.page}.jpg")


def pages_of(paths: Iterable[Path]) -> Iterator[Picture]:
    """Each page of files; a file that cannot be read is one picture, whose reading gives the error."""
    for path in paths:
        try:
            count = count_pages(path)
        except ImageError:
            count = 1
        yield from (Picture(path, page) for page in range(1, count + 1)) if count > 1 else (Picture(path),)
