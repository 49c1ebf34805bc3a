"""Compile the Triton kernels for every GPU generation, without a GPU: `python -m bench.compile_kernels --output FILE`.

Each row has the resources of the compiled code of one kernel, shape of the presets, dtype and target: registers,
spilled bytes, shared memory, and the number of matrix instructions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import track

from bench.harness.ptx import resources
from glance_fast.config import ModelConfig
from glance_fast.kernels.gpu.pixel_conv import PixelConvGeometry
from glance_fast.kernels.gpu.tables import ENTRY_TILE, TABLES
from glance_fast.kernels.reference.partial_conv import WeightShape
from glance_fast.plan.patches import IMAGE
from glance_fast.presets import PRESETS

if TYPE_CHECKING:
    from glance_fast.models.model import GlanceModel

# A kernel, and its constants by name.
KernelLaunch = tuple[Any, dict[str, Any]]
TARGETS = (75, 80, 86, 89, 90, 100, 120)
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
# Integer arguments other than strides.
INTEGERS = ("height", "width", "out_height", "out_width", "cells", "entries", "rows", "locations")
# Names of matrix instructions in PTX, of all generations.
MATRIX = re.compile(r"\b(?:mma\.sync|wgmma\.mma_async|tcgen05\.mma)")


@dataclass(frozen=True)
class ConvCase:
    """A convolution of `before` to `after` channels.

    `as_changes`: another convolution follows. `pooled`: pooling follows, which may be fused with it.
    """

    before: int
    after: int
    as_changes: bool = False
    pooled: bool = False


@dataclass(frozen=True)
class HeadsCase:
    """Heads of `before` features and `after` hidden units.

    `whitened`: each location has its own W. `context_features`: appended to the features.
    """

    before: int
    after: int
    whitened: bool
    context_features: int


@dataclass(frozen=True)
class StemCase:
    """Local-Net's first convolution: `before` channels of pixels to `after`, a kernel of `kernel` pixels per side."""

    before: int
    after: int
    kernel: int
    geometry: PixelConvGeometry


Part = StemCase | ConvCase | HeadsCase
# One part of each kind, for checks that cannot compile all.
SAMPLES = (
    StemCase(3, 32, 3, PixelConvGeometry(2, 38, 6.0)),
    ConvCase(3, 32),
    ConvCase(64, 96, pooled=True),
    HeadsCase(168, 128, True, 64),
)


@dataclass(frozen=True)
class Compiled:
    """Resources of one kernel's code on one target; channels before and after, or features and hidden units."""

    kernel: str
    before: int
    after: int
    dtype: str
    target: int
    registers: int
    spilled_bytes: int
    shared_bytes: int
    matrix_instructions: int


def main(output: Annotated[Path, typer.Option("--output", "-o", help="Where the rows go, as JSON lines.")]) -> None:
    """Compile every kernel that the presets launch and write one row for each."""
    combinations = [(part, dtype, target) for part in parts() for dtype in DTYPES for target in TARGETS]
    rows: list[Compiled] = []
    for part, dtype, target in track(combinations, "Compiling", console=Console(stderr=True), transient=True):
        rows += compile_part(part, dtype, target)
    output.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows), encoding="utf-8")
    worst = max(rows, key=lambda row: row.spilled_bytes)
    print(f"{len(rows)} kernels; most spilled: {worst.spilled_bytes} bytes ({worst})")


def parts() -> list[Part]:
    """The distinct parts of all presets."""
    from glance_fast.models.model import GlanceModel

    models = [GlanceModel(ModelConfig.model_validate(tables["model"])) for tables in PRESETS.values()]
    return list(dict.fromkeys(part for model in models for part in _parts(model)))


def _parts(model: GlanceModel) -> Iterator[Part]:
    from glance_fast.dense.triton_pipeline import first_convolution

    conv, geometry = first_convolution(model)
    yield StemCase(conv.in_channels, conv.out_channels, conv.kernel_size[0], geometry)
    layers, before = model.global_net.layers, model.local_net.feature_map_spec.channels
    for i, layer in enumerate(layers):
        if layer.kind == "conv":
            following = [later.kind for later in layers[i + 1 : i + 2]]
            yield ConvCase(before, layer.channels, following == ["conv"], i > 0 and following == ["pool"])
        before = layer.channels
    c = model.config
    yield HeadsCase(c.features, c.dad_width, c.location_whitening, c.context_features)


def compile_part(part: Part, dtype: str, target: int) -> list[Compiled]:
    """All launches of a part for one target; a layer's with the pooling of its output."""
    return [_compile(kernel, settings, part, dtype, target) for kernel, settings in launches_of(part, dtype)]


def launches_of(part: Part, dtype: str) -> list[KernelLaunch]:
    """The kernels that a part launches, each with its constants."""
    if isinstance(part, StemCase):
        return _of_stem(part, dtype)
    return _of_layer(part, dtype) if isinstance(part, ConvCase) else _of_heads(part, dtype)


def _of_stem(stem: StemCase, dtype: str) -> list[KernelLaunch]:
    from glance_fast.kernels.gpu.pixel_conv import pixel_conv_kernel, pixel_settings

    weight = WeightShape(stem.kernel, stem.kernel, stem.before, stem.after)
    return [(pixel_conv_kernel, pixel_settings(weight, DTYPES[dtype], stem.geometry))]


def _of_layer(conv: ConvCase, dtype: str) -> list[KernelLaunch]:
    from glance_fast.kernels.gpu import conv_pool
    from glance_fast.kernels.gpu.max_pool import pool_kernel, pool_settings
    from glance_fast.kernels.gpu.partial_conv import base_kernel, base_settings, entries_kernel, entries_settings
    from glance_fast.kernels.gpu.pixel_level import level_settings, pixel_base_kernel, pixel_entries_kernel

    weight, torch_dtype = WeightShape(3, 3, conv.before, conv.after), DTYPES[dtype]
    as_changes = {"AS_CHANGES": conv.as_changes}
    launches = [
        (base_kernel, base_settings(weight, torch_dtype, "ieee")),
        (entries_kernel, entries_settings(weight, torch_dtype, ENTRY_TILE, "ieee") | as_changes),
        (pool_kernel, pool_settings(conv.after, 2, ENTRY_TILE) | {"AS_CHANGES": True}),
    ]
    if conv.before == IMAGE.channels:
        level = level_settings(weight, torch_dtype, ENTRY_TILE, "ieee") | as_changes
        launches += [(pixel_base_kernel, level), (pixel_entries_kernel, level)]
    if not conv.pooled:
        return launches
    fused = conv_pool.pooled_settings(weight, torch_dtype, 2, conv_pool.POOLED_TILE, "ieee") | {"AS_CHANGES": True}
    return [*launches, (conv_pool.pooled_entries_kernel, fused)]


def _of_heads(heads: HeadsCase, dtype: str) -> list[KernelLaunch]:
    from glance_fast.kernels.gpu.score import score_kernel, score_settings

    precision = "ieee" if dtype == "fp32" else "tf32"
    total = heads.before + heads.context_features
    return [(score_kernel, score_settings(total, heads.before, heads.after, heads.whitened, precision))]


def _compile(kernel: Any, settings: dict[str, Any], part: Part, dtype: str, target: int) -> Compiled:
    from glance_fast.kernels.gpu.ahead_of_time import compile_ahead

    code = compile_ahead(kernel, argument_types(kernel, settings, dtype), settings, target)
    registers, spilled = resources(code.ptx, target)
    return Compiled(
        kernel=kernel.fn.__name__,
        before=part.before,
        after=part.after,
        dtype=dtype,
        target=target,
        registers=registers,
        spilled_bytes=spilled,
        shared_bytes=code.shared,
        matrix_instructions=len(MATRIX.findall(code.ptx)),
    )


def argument_types(kernel: Any, settings: dict[str, Any], dtype: str) -> dict[str, str]:
    """The types of a kernel's arguments; `first` is a table of the layers' kernels and a matrix of the heads'."""
    of_heads = kernel.fn.__name__ == "score_kernel"
    types = {}
    for name in kernel.arg_names:
        if name in settings:
            continue
        if name in INTEGERS or name.endswith("_stride"):
            types[name] = "i32"
        elif name.removeprefix("conv_") in TABLES:
            types[name] = "*i32"
        elif name == "images":
            types[name] = "*u8"
        elif name in ("sums", "bias", "scale", "shift") or of_heads:
            types[name] = "*fp32"
        else:
            types[name] = f"*{dtype}"
    return types


if __name__ == "__main__":
    typer.run(main)
