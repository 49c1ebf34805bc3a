"""What the samples and channels of an image mean: the range from black to white, transparency, the channels' order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glance_fast.config import ModelConfig
from glance_fast.data.formats.decoded import Array, Decoded, FormatError
from glance_fast.errors import ConfigError

# Floating pixels may leave 0..1 by this much, a quarter of a grey level: arithmetic in float32 or float16 does.
FLOAT_ERROR = 1e-3

# Bits that cameras give.
CAMERA_BITS = (8, 10, 12, 14, 16)
# In 16-bit samples of unknown range, fewer used bits than these leave at most 16 grey levels of 256, or 64: the first
# is an error, the second is reported.
MIN_USED_BITS, MIN_SURE_BITS = 13, 15
# The most used bits that are doubtful where the model states {bits}: those of another setting of the camera.
_DOUBTFUL_BITS = {10: 8, 12: 10, 14: 12, 16: 12}

# What to do about samples of unknown range.
_STATE_THE_RANGE = (
    "train with --set bits={bits}, or bits=16 if the scene is that dark; or save images that state their range (PNG "
    "with sBIT, PGM with its largest value), or give floating point in 0..1"
)


@dataclass(frozen=True)
class InputSettings:
    """How images are read: `bits` and `alpha` as in `ModelConfig`, and the order of channels that callers give."""

    bits: int | None = None
    alpha: str = "blend"
    channels: str = "rgb"

    @classmethod
    def of(cls, config: ModelConfig, channels: str = "rgb") -> InputSettings:
        """The settings of a model."""
        return cls(config.bits, config.alpha, channels)


def check_channels(channels: str) -> None:
    """Raise ConfigError for an unknown order of channels."""
    if channels not in ("rgb", "bgr"):
        raise ConfigError(f"unknown channels {channels!r}; legal are rgb and bgr")


@dataclass(frozen=True)
class RgbImage:
    """An image whose meaning is settled: it is RGB or grey, 0 is black and `white` is white.

    `values`: [H, W, 1 or 3], uint8 (then `white` is 255 and there are 3 channels) or uint16; or a tensor, uint8
    [H, W, 3]. `used_bits`: bits that its samples use, where nothing states their range; else None. `doubt`: a sentence
    for the log that says why the range may be wrong; else None.
    """

    values: Any
    white: int = 255
    used_bits: int | None = None
    doubt: str | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return int(self.values.shape[0]), int(self.values.shape[1])

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The image as uint8 [H, W, 3], its range rounded to 256 levels."""
        if self.values.dtype == np.uint8:
            return self.values  # type: ignore[no-any-return]
        levels = np.rint(self.values * np.float32(255 / self.white)).astype(np.uint8)
        return np.ascontiguousarray(np.broadcast_to(levels, (*self.size, 3)))


def interpret(image: Decoded, settings: InputSettings) -> RgbImage:
    """A decoded image by the settings; raises FormatError where its transparency or range contradicts them."""
    colors = _without_alpha(image, settings.alpha)
    if colors.dtype == np.uint16:
        return _deep(colors, image, settings.bits)
    if image.white != 255:
        colors = np.rint(colors * (255 / image.white)).astype(np.uint8)
    return RgbImage(np.ascontiguousarray(np.broadcast_to(colors, (*colors.shape[:2], 3))))


def _without_alpha(image: Decoded, rule: str) -> Array:
    if image.undeclared and rule == "refuse":
        raise FormatError(
            "has a channel beside its colours that it does not call transparency; train with --set alpha=drop to leave "
            "it out, or save it as RGB"
        )
    if image.alpha is None or rule == "drop" or image.alpha.min() == image.opaque:
        return image.colors
    if image.alpha.max() == 0:
        raise FormatError(
            "is transparent everywhere: its fourth channel is 0; train with --set alpha=drop to use its colours, or "
            "save it without that channel"
        )
    if rule == "refuse":
        raise FormatError(
            f"has a fourth channel that is not opaque everywhere ({image.alpha.min()} to {image.alpha.max()} of "
            f"{image.opaque}); train with --set alpha=drop to leave it out, alpha=blend to lay it over black, or save "
            "it as RGB"
        )
    if image.colors.dtype == np.uint8:
        rgba = Image.fromarray(np.dstack([image.colors, image.alpha]), "RGBA")
        return np.array(Image.alpha_composite(Image.new("RGBA", rgba.size, "black"), rgba).convert("RGB"))
    opacity = image.alpha[:, :, None] / np.float32(image.opaque)
    return np.rint(image.colors * opacity).astype(np.uint16)


def _deep(colors: NDArray[np.uint16], image: Decoded, bits: int | None) -> RgbImage:
    """An image of more than 8 bits: its range is the file's own, else the model's, else all 16 bits."""
    brightest = int(colors.max())
    if image.bits is not None:
        if bits not in (None, image.bits):
            raise FormatError(
                f"states {image.bits} bits per sample, and this model reads {bits}; give images of one range"
            )
        return RgbImage(colors, image.white)
    used = brightest.bit_length()
    if bits is not None and used > bits:
        raise FormatError(
            f"holds a sample of {brightest}, and the model's {bits} bits end at {2**bits - 1}; set the camera to "
            f"{bits} bits, or train with the setting bits that fits it"
        )
    if bits is None:
        return _of_unknown_range(colors, brightest)
    doubt = None
    if 0 < used <= _DOUBTFUL_BITS[bits]:
        doubt = (
            f"uses the range of {camera_bits(used)} bits (no sample is above {brightest}), and the model's is {bits} "
            "bits: the scene is dark, or the camera's setting has changed"
        )
    return RgbImage(colors, 2**bits - 1, doubt=doubt)


def _of_unknown_range(colors: NDArray[np.uint16], brightest: int) -> RgbImage:
    used = brightest.bit_length()
    what = (
        f"holds 16-bit samples that use the range of {camera_bits(used)} bits (no sample is above {brightest}), and "
        f"neither the image nor the model states a range: {_STATE_THE_RANGE.format(bits=max(10, camera_bits(used)))}"
    )
    if 0 < used < MIN_USED_BITS:
        raise FormatError(what)
    return RgbImage(colors, 65535, used, what if 0 < used < MIN_SURE_BITS else None)


def camera_bits(used: int) -> int:
    """The smallest number of bits that a camera gives and that holds `used` bits."""
    return next(bits for bits in CAMERA_BITS if bits >= used)
