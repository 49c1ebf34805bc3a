"""Arrays in a temporary file, for more numbers than memory should hold."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glance_fast.errors import SaveError

MEMORY = 2**26  # bytes that are held in memory before a file is made


@dataclass(frozen=True)
class StoredArray:
    """Where an array is in its file."""

    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return self.shape[0]


class ArrayFile:
    """Arrays, appended one by one and read in slices.

    Up to 64 MiB stay in memory, more goes to a file in `folder`, by default the system's folder for temporary files.
    On Linux the file has no name, so it is gone when the process ends, however it ends. A context manager; raises
    SaveError when the disk refuses.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = temporary_folder(folder)
        self._file = tempfile.SpooledTemporaryFile(MEMORY, dir=str(self._folder))  # noqa: SIM115 (closed by __exit__)
        self._bytes = 0

    def __enter__(self) -> ArrayFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def append(self, array: NDArray[Any]) -> StoredArray:
        """Write an array of any dtype and shape behind the others."""
        stored = StoredArray(self._bytes, array.dtype, array.shape)
        try:
            self._file.seek(self._bytes)
            self._file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        except OSError as error:
            raise SaveError(
                f"cannot keep the values of the maps in {self._folder}: {error.strerror}; free space there"
            ) from error
        self._bytes += array.nbytes
        return stored

    def read(self, stored: StoredArray, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """The part from `start` to `stop` of an array's first axis, by default all of it; not writable."""
        shape = (len(range(*slice(start, stop).indices(len(stored)))), *stored.shape[1:])
        row = stored.dtype.itemsize * int(np.prod(stored.shape[1:], dtype=np.int64))
        self._file.seek(stored.offset + start * row)
        return np.frombuffer(self._file.read(shape[0] * row), stored.dtype).reshape(shape)


def temporary_folder(folder: Path | None) -> Path:
    """`folder`, or the system's folder for temporary files; raises SaveError where it has none."""
    try:
        return Path(tempfile.gettempdir()) if folder is None else folder
    except OSError as error:
        raise SaveError(f"there is no folder for temporary files ({error.strerror}); give an output folder") from error


def require_room(size: int, folder: Path | None) -> None:
    """Raise SaveError where `size` bytes of arrays have no room in an ArrayFile of this folder."""
    folder = temporary_folder(folder)
    free = shutil.disk_usage(folder).free
    if size > MEMORY and size > free:
        raise SaveError(
            f"the values of the maps need {size / 1e9:.1f} GB in {folder} until the evaluation ends, and "
            f"{free / 1e9:.1f} GB are free; free space there, or choose an output folder on another disk"
        )
