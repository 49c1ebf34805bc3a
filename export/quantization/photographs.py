"""Normal photographs that int8 ranges are taken from, read when they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np

from glance_fast.config import ModelConfig
from glance_fast.data.datasets import normal_images
from glance_fast.data.images import Pixels, read_rgb, resize_rgb
from glance_fast.data.meaning import InputSettings

# Photographs that int8 takes its ranges from.
MAX_PHOTOGRAPHS = 128


class Photographs(Sequence[Pixels]):
    """At most `MAX_PHOTOGRAPHS` of a folder's normal images, evenly spaced, uint8 [H, W, 3] at the model's size."""

    def __init__(self, folder: Path, config: ModelConfig) -> None:
        paths = normal_images(folder)
        spaced = np.linspace(0, len(paths) - 1, min(len(paths), MAX_PHOTOGRAPHS)).astype(int)
        self._paths, self._config = [paths[i] for i in spaced], config

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, index: int) -> Pixels: ...
    @overload
    def __getitem__(self, index: slice) -> list[Pixels]: ...

    def __getitem__(self, index: int | slice) -> Pixels | list[Pixels]:
        if isinstance(index, slice):
            return [self._read(path) for path in self._paths[index]]
        return self._read(self._paths[index])

    def _read(self, path: Path) -> Pixels:
        image = read_rgb(path, InputSettings.of(self._config))
        return resize_rgb(image, self._config.image_size, self._config.resize)
