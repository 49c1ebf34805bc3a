"""self_check.safetensors: images, and the scores that the model gave them when it was saved."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from glance_fast.config import ModelConfig
from glance_fast.errors import ModelFolderError
from glance_fast.storage.tensor_file import MAX_HEADER_BYTES, read_header

MAX_IMAGES = 4
# The type of each array, and its bytes per number.
_DTYPES = {"image": (np.uint8, 1), "grid": (np.float32, 4)}


@dataclass(frozen=True)
class SelfCheck:
    """`image`: uint8 [n, H, W, 3], at the model's size. `grid`: float32 [n, gy, gx], scores by PyTorch's dense pass."""

    image: NDArray[np.uint8]
    grid: NDArray[np.float32]

    def to_bytes(self) -> bytes:
        """The bytes of its file."""
        return save({name: np.ascontiguousarray(getattr(self, name), dtype) for name, (dtype, _) in _DTYPES.items()})


def max_bytes(config: ModelConfig) -> int:
    """The most that the file of a model may take."""
    return MAX_HEADER_BYTES + MAX_IMAGES * sum(
        prod(shape) * _DTYPES[name][1] for name, shape in _shapes(config).items()
    )


def parse_self_check(data: bytes, config: ModelConfig, path: Path, remedy: str) -> SelfCheck:
    """The content of the file `path`; ModelFolderError, which ends in `remedy`, where it is of another kind."""
    try:
        shapes, arrays = read_header(data).shapes, load(data)
    except (SafetensorError, KeyError, ValueError) as error:
        raise ModelFolderError(f"{path} is no safetensors file that can be read: {error}; {remedy}") from None
    images = (shapes.get("image") or (0,))[0]
    expected = {name: (images, *shape) for name, shape in _shapes(config).items()}
    if not 1 <= images <= MAX_IMAGES or shapes != expected:
        raise ModelFolderError(
            f"{path} has {_described(shapes)} where 1 to {MAX_IMAGES} images of {_described(_shapes(config))} are due; "
            f"{remedy}"
        )
    for name, (dtype, _) in _DTYPES.items():
        if arrays[name].dtype != dtype:
            raise ModelFolderError(f"{path}: {name} is {arrays[name].dtype}, and {np.dtype(dtype)} is due; {remedy}")
    if not np.isfinite(arrays["grid"]).all() or not arrays["grid"].any():
        raise ModelFolderError(f"{path}: its scores are not finite, or all zero: nothing compares with them; {remedy}")
    return SelfCheck(arrays["image"], arrays["grid"])


def _shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of one image and of its scores."""
    return {"image": (*config.image_size, 3), "grid": tuple(len(patches.starts) for patches in config.patches)}


def _described(shapes: dict[str, tuple[int, ...]]) -> str:
    return " and ".join(f"{name} {list(shape)}" for name, shape in shapes.items()) or "no arrays"
