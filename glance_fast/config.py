"""Settings of a model and of its training: frozen, validated once; unknown names are refused."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from glance_fast.errors import ConfigError
from glance_fast.plan.patches import Patches


class _Settings(BaseModel):
    """A frozen group of settings; `checked` turns a wrong value into a `ConfigError`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # What version 0.1.0 called settings and their values: {old name: name}, {name: {old value: value}}.
    former_names: ClassVar[dict[str, str]] = {}
    former_values: ClassVar[dict[str, dict[str, str]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _refuse_former(cls, values: Any) -> Any:
        former = former_settings(cls, values) if isinstance(values, dict) else []
        if former:
            raise ValueError("; ".join(former))
        return values


Convs = Annotated[int, Field(ge=1, le=8)]
MAX_SIDE = 16384
MAX_WIDTH = 4096
# Pixels of the network's input, and patches along an axis and in all: twice what was ever measured, and so small that
# no configuration asks for more than some gigabytes before an image is seen.
MAX_INPUT_PIXELS = 2**25
MAX_PATCHES_PER_AXIS = 2**12
MAX_PATCHES = 2**20


class ModelConfig(_Settings):
    """The settings that define both networks, the grid of patches and the score.

    Sizes are in pixels of the network's input, after resizing to `image_size`.
    """

    former_names = {
        "overhang": "border_padding",
        "lean": "center_offset",
        "read_block": "feature_block",
        "wide": "context_features",
        "location_norm": "location_whitening",
        "lam": "iad_weight",
        "smooth": "smoothing_sigma",
        "top": "top_k",
    }
    former_values = {"local_net": {"plain": "distilled", "trunk": "pretrained"}}

    image_size: tuple[int, int] = Field((256, 256), description="height and width of the network's input")
    resize: Literal["stretch", "letterbox"] = Field(
        "stretch", description="how images reach image_size; letterbox keeps the aspect ratio"
    )
    bits: Literal[10, 12, 14, 16] | None = Field(
        None, description="bits that 16-bit samples use, from the lowest; None: as the file states, else all 16"
    )
    alpha: Literal["refuse", "drop", "blend"] = Field(
        "refuse",
        description="images whose fourth channel is not opaque everywhere: an error, without it, or over black",
    )
    patch: int = Field(32, ge=8, le=512, description="side P of the square patch")
    stride: int = Field(8, ge=1, description="distance s between neighbouring patches")
    border_padding: int = Field(0, ge=0, le=256, description="pixels of padding on each side, which patches may cover")
    center_offset: int = Field(
        0, ge=-64, le=64, description="offset in pixels from a patch's centre back to the point it scores"
    )
    features: int = Field(64, ge=1, le=MAX_WIDTH, description="length n of z_l and z_g")
    local_net: Literal["distilled", "pretrained"] = Field(
        "distilled", description="Local-Net: trained to match the teacher, or the teacher's first blocks"
    )
    feature_block: int = Field(
        2, ge=2, le=4, description="block whose feature map Global-Net reads, where local_net = 'pretrained'"
    )
    local_channels: tuple[int, ...] = Field(
        (32, 48, 64, 96, 128), min_length=1, description="output channels of Local-Net's convolutions (distilled only)"
    )
    global_channels: tuple[int, ...] = Field(
        (32, 48, 64, 96, 128, 128), min_length=1, description="output channels of Global-Net's levels"
    )
    global_convs: Convs | tuple[Convs, ...] = Field(
        1, description="partial convolutions per level: one number, or one number for each level"
    )
    readout: int = Field(1, ge=1, le=9, description="side in cells of the square that z_g is computed from")
    dad_width: int = Field(128, ge=1, le=MAX_WIDTH, description="hidden units of the DAD classifier")
    context_features: int = Field(
        0, ge=0, le=112, description="context features per patch, appended to z_l − z_g for IAD"
    )
    location_whitening: bool = Field(
        False, description="whiten z_l − z_g by the statistics of normal images at each location"
    )
    iad_weight: float = Field(0.5, ge=0, le=1, description="weight λ of IAD in the score")
    smoothing_sigma: float = Field(
        0.0, ge=0, le=16, description="σ, in locations, of the Gaussian that smooths the scores; 0 for no smoothing"
    )
    top_k: int = Field(1, ge=1, description="the image score is the mean of this many highest location scores")
    teacher: Literal["efficientnet-lite0", "resnet18"] = Field(
        "efficientnet-lite0", description="pretrained network that Local-Net is built or distilled from"
    )

    @property
    def patches(self) -> tuple[Patches, Patches]:
        """The rows and the columns of patches."""
        height, width = self.image_size
        return self._patches_along(height), self._patches_along(width)

    def _patches_along(self, side: int) -> Patches:
        return Patches(side, self.patch, self.stride, self.border_padding, self.center_offset)

    @model_validator(mode="after")
    def _patches_fit(self) -> Self:
        height, width = self.image_size
        limit = (self.patch - 1) // 2
        if min(height, width) + 2 * self.border_padding < self.patch:
            raise ValueError(
                f"image_size {height}x{width} is smaller than one {self.patch}x{self.patch} patch; "
                f"use an image_size of at least {self.patch}x{self.patch} or a smaller patch"
            )
        if self.border_padding > limit:
            raise ValueError(
                f"border_padding {self.border_padding} puts the centre of a {self.patch}-pixel patch outside the "
                f"image; use at most {limit}"
            )
        if abs(self.center_offset) > limit:
            raise ValueError(
                f"center_offset {self.center_offset} puts the point that a {self.patch}-pixel patch scores outside it; "
                f"use {-limit} to {limit}"
            )
        return self

    @model_validator(mode="after")
    def _networks_fit(self) -> Self:
        height, width = self.image_size
        if self.context_features and not (self.local_net == "pretrained" and self.location_whitening):
            raise ValueError(
                f"context_features = {self.context_features} needs local_net = 'pretrained' and "
                "location_whitening = true; or use context_features = 0"
            )
        if max(height, width) > MAX_SIDE:
            raise ValueError(f"image_size {height}x{width} is beyond {MAX_SIDE} pixels a side")
        smallest = 2 ** (len(self.global_channels) - 1) * self.readout
        if min(height, width) < smallest:
            raise ValueError(
                f"{len(self.global_channels)} Global-Net levels and a {self.readout}-cell read-out need "
                f"an image of at least {smallest} pixels a side, got {height}x{width}; "
                "use fewer global_channels or a larger image_size"
            )
        return self

    @model_validator(mode="after")
    def _plan_fits(self) -> Self:
        height, width = self.image_size
        if height * width > MAX_INPUT_PIXELS:
            raise ValueError(
                f"image_size {height}x{width} has {height * width:,} pixels; use at most {MAX_INPUT_PIXELS:,}, and cut "
                "larger images into tiles"
            )
        rows, cols = (len(patches.starts) for patches in self.patches)
        if max(rows, cols) > MAX_PATCHES_PER_AXIS or rows * cols > MAX_PATCHES:
            raise ValueError(
                f"stride {self.stride} makes {rows} rows of {cols} patches; at most {MAX_PATCHES_PER_AXIS} a side and "
                f"{MAX_PATCHES:,} in all are scored: use a larger stride"
            )
        return self

    @model_validator(mode="after")
    def _channels_fit(self) -> Self:
        if isinstance(self.global_convs, tuple) and len(self.global_convs) != len(self.global_channels):
            raise ValueError(
                f"global_convs {self.global_convs} must be one number, or one for each of the "
                f"{len(self.global_channels)} global_channels"
            )
        for name in ("local_channels", "global_channels"):
            if not all(1 <= width <= MAX_WIDTH for width in getattr(self, name)):
                raise ValueError(f"{name} must be widths from 1 to {MAX_WIDTH}, got {getattr(self, name)}")
        return self


class TrainConfig(_Settings):
    """The settings of a training run: the same settings and the same data give the same weights."""

    former_names = {
        "patches": "patches_per_step",
        "images": "images_per_step",
        "holes": "holes_per_axis",
        "dad_images": "dad_images_per_step",
        "dad_holes": "dad_holes_per_axis",
        "dad_fill": "dad_pool_fraction",
        "location_shrinkage": "whitening_shrinkage",
        "compactness": "compactness_weight",
    }

    seed: int = Field(0, ge=0, lt=2**31, description="seed of every random number of the run")
    distil_steps: int = Field(1000, ge=1, description="steps of distillation (distilled Local-Net only)")
    finetune_steps: int = Field(1200, ge=1, description="steps of fine-tuning (distilled Local-Net only)")
    global_steps: int = Field(800, ge=1, description="steps that train Global-Net")
    dad_steps: int = Field(800, ge=1, description="steps that train the DAD classifier")
    patches_per_step: int = Field(128, ge=2, description="patches per step of distillation and fine-tuning")
    images_per_step: int = Field(4, ge=1, description="images per step of Global-Net's training")
    holes_per_axis: int = Field(6, ge=1, description="random rows, and as many columns, of holes per image")
    dad_images_per_step: int = Field(4, ge=1, description="new stained images per step of DAD's training")
    dad_pool_fraction: float = Field(
        1.0, gt=0, le=1, description="fraction of the first DAD steps that add new images to the pool"
    )
    dad_holes_per_axis: int = Field(
        6, ge=1, description="random rows, and as many columns, of locations per image of DAD's training"
    )
    whitening_shrinkage: float = Field(
        0.01, gt=0, le=1, description="ε of location_whitening, as a fraction of the mean variance of all locations"
    )
    whitening_pooling: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="fraction of location_whitening's covariance that is the mean of all locations'; None: chosen by "
        "the normal images",
    )
    learning_rate: float = Field(1e-3, gt=0, le=1, description="highest learning rate of every stage")
    jitter: float = Field(0.1, ge=0, le=0.5, description="largest random change of brightness and contrast")
    compactness_weight: float = Field(0.1, ge=0, description="weight w of l_c relative to l_k in fine-tuning")
    stain_weight: float = Field(0.5, ge=0, description="weight v of l_s in fine-tuning; the paper has no l_s: 0")
    calibration_fraction: float = Field(
        0.15, gt=0, lt=1, description="fraction of the normal images held out for calibration"
    )
    false_alarm_rate: float = Field(
        0.05, gt=0, lt=1, description="fraction of normal images that may exceed the image threshold"
    )
    pixel_false_alarm_rate: float = Field(
        0.005, gt=0, lt=1, description="fraction of normal pixels that may exceed the pixel threshold"
    )
    accelerator: Literal["cpu", "cuda", "auto"] = Field("cpu", description="device type to train on")
    devices: int = Field(1, ge=1, description="number of devices to train on")
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = Field("32-true", description="number format of training")


Settings = TypeVar("Settings", bound=_Settings)


def checked(kind: type[Settings], values: dict[str, Any], source: str) -> Settings:
    """Validate `values` as a `kind`; a ConfigError names `source`, every wrong setting and the legal values."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines = [_explain(kind, detail) for detail in error.errors()]
        raise ConfigError(f"{source}: " + "; ".join(lines)) from None


def _explain(kind: type[_Settings], detail: Any) -> str:
    name = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"unknown setting '{name}'; legal settings are {', '.join(kind.model_fields)}"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{name} = {detail['input']!r}: {message}" if name else message


def former_settings(kind: type[_Settings], values: dict[str, Any]) -> list[str]:
    """A message per name or value in `values` that version 0.1.0 used and that has another name now."""
    names = [message for name in values if (message := renamed(name, kind))]
    return names + [
        f"{name} = {values[name]!r} is now {former[values[name]]!r}"
        for name, former in kind.former_values.items()
        if isinstance(values.get(name), str) and values[name] in former
    ]


def renamed(name: str, *kinds: type[_Settings]) -> str | None:
    """Message for the name that version 0.1.0 used for a setting; None for any other name."""
    current = next((kind.former_names[name] for kind in kinds if name in kind.former_names), None)
    return f"setting '{name}' is now '{current}'" if current else None
