"""What a model and its training are made of: frozen settings, checked once, unknown names refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from glance_fast.errors import ConfigError
from glance_fast.plan.patches import Patches


class _Settings(BaseModel):
    """A frozen group of settings; a wrong one raises `ConfigError` through `checked`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Convs = Annotated[int, Field(ge=1, le=8)]


class ModelConfig(_Settings):
    """Everything that fixes the two networks, the grid of patches and the score.

    Sizes are in pixels of the image as the networks see it, after resizing to `image_size`.
    """

    image_size: tuple[int, int] = Field((256, 256), description="height, width")
    resize: Literal["stretch", "letterbox"] = Field("stretch", description="to image_size; letterbox keeps the aspect")
    patch: int = Field(32, ge=8, le=512, description="side P of the square patch")
    stride: int = Field(8, ge=1, description="grid stride s between patch locations")
    overhang: int = Field(0, ge=0, le=256, description="pixels that a patch may reach beyond the image")
    lean: int = Field(0, ge=-64, le=64, description="pixels that what is said of a patch lies before its middle")
    features: int = Field(64, ge=1, le=4096, description="length n of z_l and z_g")
    local_net: Literal["plain", "trunk"] = Field("plain", description="distilled, or the teacher's own first blocks")
    read_block: int = Field(2, ge=2, le=4, description="of local_net = 'trunk', the block whose map Global-Net reads")
    local_channels: tuple[int, ...] = Field((32, 48, 64, 96, 128), min_length=1)
    global_channels: tuple[int, ...] = Field((32, 48, 64, 96, 128, 128), min_length=1)
    global_convs: Convs | tuple[Convs, ...] = Field(1, description="partial convolutions a level, or of each level")
    readout: int = Field(1, ge=1, le=9, description="side of the square of cells that z_g is read from")
    dad_width: int = Field(128, ge=1, le=4096, description="hidden units of the DAD classifier")
    wide: int = Field(0, ge=0, le=112, description="numbers on what surrounds a patch, that IAD sees beside z_l − z_g")
    location_norm: bool = Field(False, description="whiten z_l − z_g by each location's normal statistics")
    lam: float = Field(0.5, ge=0, le=1, description="weight λ of IAD in the score")
    smooth: float = Field(0.0, ge=0, le=16, description="σ of the Gaussian that smooths the scores, in locations")
    top: int = Field(1, ge=1, description="image score: mean of this many highest locations")
    teacher: Literal["efficientnet-lite0", "resnet18"] = "efficientnet-lite0"

    @property
    def patches(self) -> tuple[Patches, Patches]:
        """The rows and the columns of patches."""
        rows, cols = (Patches(side, self.patch, self.stride, self.overhang, self.lean) for side in self.image_size)
        return rows, cols

    @model_validator(mode="after")
    def _possible(self) -> Self:
        height, width = self.image_size
        if min(height, width) + 2 * self.overhang < self.patch:
            raise ValueError(
                f"image_size {height}x{width} is smaller than one {self.patch}x{self.patch} patch; "
                f"use an image_size of at least {self.patch}x{self.patch} or a smaller patch"
            )
        if 2 * self.overhang >= self.patch:
            raise ValueError(
                f"overhang {self.overhang} puts the middle of a {self.patch}-pixel patch outside the image; "
                f"use at most {(self.patch - 1) // 2}"
            )
        if 2 * abs(self.lean) >= self.patch:
            raise ValueError(
                f"lean {self.lean} puts what is said of a {self.patch}-pixel patch outside it; "
                f"use {-((self.patch - 1) // 2)} to {(self.patch - 1) // 2}"
            )
        if self.wide and not (self.local_net == "trunk" and self.location_norm):
            raise ValueError(f"wide = {self.wide} needs local_net = 'trunk' and location_norm = true; or use wide = 0")
        if max(height, width) > 16384:
            raise ValueError(f"image_size {height}x{width} is beyond 16384 pixels a side")
        smallest = 2 ** (len(self.global_channels) - 1) * self.readout
        if min(height, width) < smallest:
            raise ValueError(
                f"{len(self.global_channels)} Global-Net levels and a {self.readout}-cell read-out need "
                f"an image of at least {smallest} pixels a side, got {height}x{width}; "
                "use fewer global_channels or a larger image_size"
            )
        if isinstance(self.global_convs, tuple) and len(self.global_convs) != len(self.global_channels):
            raise ValueError(
                f"global_convs {self.global_convs} must be one number, or one for each of the "
                f"{len(self.global_channels)} global_channels"
            )
        for name in ("local_channels", "global_channels"):
            if not all(1 <= c <= 4096 for c in getattr(self, name)):
                raise ValueError(f"{name} must be widths from 1 to 4096, got {getattr(self, name)}")
        return self


class TrainConfig(_Settings):
    """Everything that fixes a training run; with the same data and seed it gives the same weights."""

    seed: int = Field(0, ge=0, lt=2**31)
    distil_steps: int = Field(1000, ge=1)
    finetune_steps: int = Field(1200, ge=1)
    global_steps: int = Field(800, ge=1)
    dad_steps: int = Field(800, ge=1)
    patches: int = Field(128, ge=2, description="patches a step while Local-Net trains")
    images: int = Field(4, ge=1, description="images a step while Global-Net trains")
    holes: int = Field(6, ge=1, description="random rows of holes, and as many columns, an image")
    dad_images: int = Field(4, ge=1, description="new stained images a step while DAD trains")
    dad_fill: float = Field(1.0, gt=0, le=1, description="share of DAD's steps, its first, that add new images")
    dad_holes: int = Field(6, ge=1, description="random rows of locations, and as many columns, an image for DAD")
    location_shrinkage: float = Field(0.01, gt=0, le=1, description="ε over the mean variance at the locations")
    learning_rate: float = Field(1e-3, gt=0, le=1)
    jitter: float = Field(0.1, ge=0, le=0.5, description="random brightness and contrast of training images")
    compactness: float = Field(0.1, ge=0, description="weight of l_c beside l_k in fine-tuning")
    stain_weight: float = Field(0.5, ge=0, description="weight of l_s in fine-tuning; 0 is the paper's stage")
    calibration_fraction: float = Field(0.15, gt=0, lt=1, description="normal images held out")
    false_alarm_rate: float = Field(0.05, gt=0, lt=1, description="of normal images above the threshold")
    pixel_false_alarm_rate: float = Field(0.005, gt=0, lt=1, description="of normal pixels marked")
    accelerator: Literal["cpu", "cuda", "auto"] = "cpu"
    devices: int = Field(1, ge=1)
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"


Settings = TypeVar("Settings", bound=_Settings)


def checked(kind: type[Settings], values: dict[str, Any], source: str) -> Settings:
    """Build `kind` from `values`; raise `ConfigError` with `source`, each wrong value and the legal ones."""
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
