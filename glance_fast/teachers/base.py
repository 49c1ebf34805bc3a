"""What the teachers share: resizing of patches, pooling of features, loading and checking of weights."""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from glance_fast.data.regular_file import read_regular
from glance_fast.errors import ImageError, ModelFolderError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALLEST, LARGEST = 8, 512
QUARTERS = 2
# Input pixels per chunk on a CPU, so that a chunk stays in its cache. Lite0 on one core, 128 patches of 64 pixels:
# 0.55 s in chunks of 2**17, 1.5 s at once; of 32 pixels: 0.12 s against 0.17 s.
CHUNK_PIXELS = 2**17
# Twenty times the largest teacher; larger files are not read, nor unpacked.
MAX_BYTES = 2**30
# A counter of training steps, which files of early PyTorch versions do not have.
UNUSED = "num_batches_tracked"
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class TeacherStage:
    """Consecutive layers whose output, of `channels` channels, becomes features and the input of the next stage."""

    layers: nn.Module
    channels: int


class Teacher(nn.Module):
    """A frozen ImageNet network that computes features of single patches: float32 [N, 3, P, P] -> float32 [N, dim].

    Patches are RGB in 0..1 with P from 8 to 512; other shapes and dtypes raise ImageError. Each stage's map
    is averaged over the four quarters of the patch, so that the features keep the position of what they describe.
    Always in eval mode, never with gradients, and float32 throughout, inside an autocast too. `source` describes the
    weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, stages: Sequence[TeacherStage], source: str) -> None:
        super().__init__()
        self.name = name
        self.source = source
        self.dim = QUARTERS**2 * sum(stage.channels for stage in stages)
        self.stages = nn.ModuleList(stage.layers for stage in stages)
        for constant, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(constant, torch.tensor(values).view(1, 3, 1, 1), persistent=False)
        # Lite0, 128 patches at once, two CPU cores: 130 ms in this layout, 280 ms in the default layout.
        self.stages.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode, whatever `mode` says: a teacher does not learn."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, patches: Tensor) -> Tensor:
        _check_patches(patches)
        chunk = len(patches)
        if patches.device.type == "cpu":
            chunk = CHUNK_PIXELS // input_size(patches.shape[-1]) ** 2
        with torch.autocast(patches.device.type, enabled=False):
            return torch.cat([self._features(part) for part in torch.split(patches, max(1, chunk))])

    def _features(self, patches: Tensor) -> Tensor:
        x = (_resized(patches) - self.mean) / self.std
        x = x.contiguous(memory_format=torch.channels_last)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(F.adaptive_avg_pool2d(x, QUARTERS).flatten(1))
        return torch.cat(features, dim=1)


def input_size(patch: int) -> int:
    """Side to which a patch is resized: 64 up to P = 32, then 2P to the nearest multiple of 32, at most 128."""
    return 64 if patch <= 32 else min(128, (2 * patch + 16) // 32 * 32)


def _resized(patches: Tensor) -> Tensor:
    size, patch = input_size(patches.shape[-1]), patches.shape[-1]
    # A patch that shrinks would lose pixels between the samples without antialiasing; enlarging needs none.
    shrinks = size < patch
    return F.interpolate(patches, (size, size), mode="bilinear", align_corners=False, antialias=shrinks)


def _check_patches(patches: Tensor) -> None:
    square = patches.dim() == 4 and patches.shape[1] == 3 and patches.shape[2] == patches.shape[3]
    if square and SMALLEST <= patches.shape[3] <= LARGEST and patches.dtype == torch.float32:
        return
    raise ImageError(
        f"a teacher takes float32 patches [N, 3, P, P] in 0..1 with P from {SMALLEST} to {LARGEST}, got "
        f"{patches.dtype} {list(patches.shape)}; cut squares, and divide bytes by 255"
    )


def fold_batch_norm(owner: nn.Module, conv: str, norm: str) -> None:
    """Replace a convolution of `owner` and the batch norm after it by one convolution that computes the same."""
    setattr(owner, conv, fuse_conv_bn_eval(getattr(owner, conv), getattr(owner, norm)))
    setattr(owner, norm, nn.Identity())


@dataclass(frozen=True)
class Weights:
    """Contents of a weights file: its tensors by name (not yet checked), and the SHA-256 of its bytes."""

    path: Path
    sha256: str
    tensors: dict[str, Any]


def read_weights(path: Path, sha256: str | None = None) -> Weights:
    """Read a state dict from a .pth, .pt or .safetensors file, without unpickling anything but tensors.

    The bytes must have the SHA-256 `sha256`, or, without it, a SHA-256 that begins with the 8 digits in the names of
    published weights (`resnet18-f37072fd.pth`). Raises ModelFolderError naming the file.
    """
    data = _bytes(path)
    digest = hashlib.sha256(data).hexdigest()
    named = re.search(r"-([0-9a-f]{8})\.pth$", path.name)
    expected = sha256 or (named[1] if named else "")
    if not digest.startswith(expected):
        rename = f"fetch it again, or rename it if '{expected}' is no checksum"
        raise ModelFolderError(
            f"{path} has a SHA-256 of {digest[:16]}..., not {expected[:16]}...: it is damaged or another file; "
            f"{'reinstall its package' if sha256 else rename}"
        )
    return Weights(path, digest, _tensors(path, data))


def _bytes(path: Path) -> bytes:
    if path.suffix not in (".pth", ".pt", ".safetensors"):
        raise ModelFolderError(
            f"{path} is refused: files of weights end in .pth, .pt or .safetensors, and its suffix is {path.suffix!r}"
        )
    try:
        return read_regular(path, MAX_BYTES)
    except OSError as error:
        raise ModelFolderError(
            f"{path} cannot be read: {error.strerror}; give the path of a state dict alone"
        ) from error


def _tensors(path: Path, data: bytes) -> dict[str, Any]:
    try:
        loaded = load_safetensors(data) if path.suffix == ".safetensors" else _unpickled_tensors(data)
    # Damage makes the readers raise almost anything, and torch's message goes on to advise an unsafe load.
    except Exception as error:  # noqa: BLE001
        raise ModelFolderError(
            f"{path} cannot be read as a state dict ({type(error).__name__}): it is damaged, foreign or "
            "holds more than tensors; fetch it again, or save the network's state_dict() alone"
        ) from None
    if not isinstance(loaded, dict):
        raise ModelFolderError(
            f"{path} holds a {type(loaded).__name__}, not a state dict; save the network's state_dict() alone"
        )
    return {str(key): value for key, value in loaded.items()}


def _unpickled_tensors(data: bytes) -> Any:
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
                raise ValueError("unpacks to more than any teacher")
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def fit_weights(network: nn.Module, weights: Weights, optional: tuple[str, ...] = ()) -> None:
    """Load weights into `network`, built on the meta device; names and shapes must match exactly.

    Only `optional` names may be absent; their tensors stay on the meta device. Raises ModelFolderError naming the file.
    """
    shapes = {name: value.shape for name, value in network.state_dict().items() if not name.endswith(UNUSED)}
    loaded = {name: value for name, value in weights.tensors.items() if not name.endswith(UNUSED)}
    problems = [f"{name} is missing" for name in shapes if name not in loaded and name not in optional]
    problems += [f"{name} is not part of it" for name in loaded if name not in shapes]
    for name in filter(loaded.__contains__, shapes):
        problems += _problems(name, loaded[name], shapes[name])
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise ModelFolderError(
            f"{weights.path} does not hold the weights of this network: {'; '.join(problems[:4])}{more}; "
            "give a state dict of this very network"
        )
    values = {name: value.detach().float() for name, value in loaded.items()}
    network.load_state_dict(values, strict=False, assign=True)


def _problems(name: str, value: Any, shape: torch.Size) -> list[str]:
    if type(value) not in (Tensor, nn.Parameter) or value.is_nested or value.layout != torch.strided:
        return [f"{name} is no ordinary tensor"]
    if value.device.type != "cpu" or value.dtype not in FLOATS:
        return [f"{name} holds {value.dtype} on {value.device.type}, no floats"]
    if value.shape != shape:
        return [f"{name} is {list(value.shape)} where {list(shape)} is due"]
    values = value.detach().float()
    if not bool(values.isfinite().all()) or (name.endswith("running_var") and bool((values < 0).any())):
        return [f"{name} holds impossible values"]
    return []
