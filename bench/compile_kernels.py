"""Compile the Triton kernels for every GPU generation, without a GPU: `python -m bench.compile_kernels --output FILE`.

For each kernel, shape of the presets, dtype and target it tells what the compiled code takes: registers, spilled
bytes, shared memory, and how many matrix instructions are in it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track

from glance_fast.config import ModelConfig
from glance_fast.kernels.triton_tables import TABLES
from glance_fast.presets import PRESETS

TARGETS = (75, 80, 86, 89, 90, 100, 120)
DTYPES = ("fp16", "bf16", "fp32")
# Matrix instructions in PTX, by their names over the generations.
MATRIX = re.compile(r"\b(?:mma\.sync|wgmma\.mma_async|tcgen05\.mma)")


@dataclass(frozen=True)
class Shape:
    """A convolution of `before` to `after` channels; as_changes: another convolution follows."""

    before: int
    after: int
    as_changes: bool


@dataclass(frozen=True)
class Heads:
    """Heads of `before` features and `after` hidden units; whitened: a location's own W; `wide` features more."""

    before: int
    after: int
    whitened: bool
    wide: int


@dataclass(frozen=True)
class Compiled:
    """What one kernel's code takes on one target; channels before and after, or features and hidden units."""

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
    """Compile everything that the presets need and write a row each."""
    every: tuple[Shape | Heads, ...] = (*shapes(), *heads())
    todo = [(shape, dtype, target) for shape in every for dtype in DTYPES for target in TARGETS]
    rows: list[Compiled] = []
    for shape, dtype, target in track(todo, "Compiling", console=Console(stderr=True), transient=True):
        rows += compile_layer(shape, dtype, target) if isinstance(shape, Shape) else compile_ends(shape, dtype, target)
    output.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows), encoding="utf-8")
    worst = max(rows, key=lambda row: row.spilled_bytes)
    print(f"{len(rows)} kernels; most spilled: {worst.spilled_bytes} bytes ({worst})")


def shapes() -> list[Shape]:
    """The distinct convolutions of all presets."""
    found: dict[Shape, None] = {}
    for tables in PRESETS.values():
        config = ModelConfig.model_validate(tables["model"])
        found |= dict.fromkeys(_layers(config))
    return list(found)


def heads() -> list[Heads]:
    """The distinct heads of all presets."""
    configs = (ModelConfig.model_validate(tables["model"]) for tables in PRESETS.values())
    return list(dict.fromkeys(Heads(c.features, c.dad_width, c.location_norm, c.wide) for c in configs))


def _layers(config: ModelConfig) -> Iterator[Shape]:
    from glance_fast.nets.model import GlanceModel

    model = GlanceModel(config)
    layers, before = model.global_net.layers, model.local_net.reading.channels
    for i, layer in enumerate(layers):
        if layer.kind == "conv":
            yield Shape(before, layer.channels, i + 1 < len(layers) and layers[i + 1].kind == "conv")
        before = layer.channels


def compile_layer(shape: Shape, dtype: str, target: int) -> list[Compiled]:
    """Both launches of a convolution, and the pooling of what it gives, for one target."""
    from glance_fast.dense_triton import BLOCK
    from glance_fast.kernels.triton_max_pool import pool_constants, pool_kernel, pool_options
    from glance_fast.kernels.triton_partial_conv import OPTIONS, base_kernel, conv_constants, entries_kernel

    conv = {**conv_constants((3, 3, shape.before, shape.after), BLOCK, "ieee"), "AS_CHANGES": shape.as_changes}
    pool = {**pool_constants(shape.after, 2, BLOCK), "AS_CHANGES": True}
    pooled = pool_kernel, pool, pool_options(shape.after)
    kernels = ((base_kernel, conv, OPTIONS), (entries_kernel, conv, OPTIONS), pooled)
    return [_compile(kernel, constants, shape, dtype, target, options) for kernel, constants, options in kernels]


def compile_ends(shape: Heads, dtype: str, target: int) -> list[Compiled]:
    """What comes before the layers and after them: pixels to `dtype`, and the heads, with tf32 products beside it."""
    from glance_fast.kernels import triton_normalise, triton_pixel_conv, triton_score
    from glance_fast.nets.trunk import STEM, STEM_STRIDE

    pixels = {"OVERHANG": 38, "CHANNELS": 3, "BLOCK": triton_normalise.BLOCK}
    stem = triton_pixel_conv.pixel_constants((3, 3, 3, STEM), STEM_STRIDE, 38, 6.0)
    products = "ieee" if dtype == "fp32" else "tf32"
    total = shape.before + shape.wide
    both = triton_score.score_constants(total, shape.before, shape.after, shape.whitened, products)
    return [
        _compile(triton_normalise.normalise_kernel, pixels, shape, dtype, target, {}),
        _compile(triton_pixel_conv.pixel_conv_kernel, stem, shape, dtype, target, {}),
        _compile(triton_score.score_kernel, both, shape, dtype, target, triton_score.OPTIONS),
    ]


def _compile(
    kernel: Any, constants: dict[str, Any], shape: Shape | Heads, dtype: str, target: int, options: dict[str, int]
) -> Compiled:
    from glance_fast.kernels.ahead_of_time import compile_ahead

    types = _types(kernel, constants, dtype)
    code = compile_ahead(kernel, types, constants, target, options)
    registers, spilled = resources(code.ptx, target)
    return Compiled(
        kernel=kernel.fn.__name__,
        before=shape.before,
        after=shape.after,
        dtype=dtype,
        target=target,
        registers=registers,
        spilled_bytes=spilled,
        shared_bytes=code.shared,
        matrix_instructions=len(MATRIX.findall(code.ptx)),
    )


def _types(kernel: Any, constants: dict[str, Any], dtype: str) -> dict[str, str]:
    """The types of a kernel's arguments; `first` is a table of the layers' kernels and a matrix of the heads'."""
    reads = {"images": "*u8", "scale": "*fp32", "shift": "*fp32"}
    own = {
        "pixel_conv_kernel": reads,
        "normalise_kernel": {"images": "*u8", "out": f"*{dtype}", "total": "i32"},
        "score_kernel": {"rows": "i32", "locations": "i32"},
    }.get(kernel.fn.__name__, dict.fromkeys(TABLES, "*i32"))
    types = {}
    for name in kernel.arg_names:
        if name in constants:
            continue
        if name in own:
            types[name] = own[name]
        elif name in ("height", "width", "high", "wide") or name.endswith("_stride"):
            types[name] = "i32"
        elif kernel.fn.__name__ in ("score_kernel", "normalise_kernel") or name in ("sums", "bias"):
            types[name] = "*fp32"
        else:
            types[name] = f"*{dtype}"
    return types


def resources(ptx: str, target: int) -> tuple[int, int]:
    """Registers and spilled bytes, as the assembler that Triton brings along tells them."""
    spec = find_spec("triton")
    assert spec is not None and spec.origin is not None
    tools = Path(spec.origin).parent / "backends" / "nvidia" / "bin"
    assembler = tools / ("ptxas-blackwell" if target >= 100 and (tools / "ptxas-blackwell").exists() else "ptxas")
    name = re.search(r"\.target\s+(\w+)", ptx)
    assert name is not None
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [str(assembler), "-v", f"--gpu-name={name[1]}", file.name, "-o", os.devnull]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    used = re.search(r"Used (\d+) registers", told)
    spills = re.search(r"(\d+) bytes spill stores", told)
    assert used is not None
    return int(used[1]), int(spills[1]) if spills else 0


if __name__ == "__main__":
    typer.run(main)
