"""Time per hole of Global-Net's training, through the dense pass and with full masked images.

`python -m bench.training_speed --output bench/results/training_speed.jsonl`: forward and backward, no optimizer. Both
must give the same gradients before they are timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from torch import Tensor

from bench.harness.environment import append_rows, use_all_cores
from glance_fast.backends.tolerances import relative_error, tolerance
from glance_fast.config import ModelConfig
from glance_fast.dense.loop import LoopPass
from glance_fast.dense.torch_pass import DensePass
from glance_fast.models.model import GlanceModel
from glance_fast.plan.plan import Plan
from glance_fast.training.sampling import draw_grid_subset


def main(
    images: int = 4,
    holes: Annotated[int, typer.Option(help="Holes per axis.")] = 6,
    repeats: int = 5,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file of JSON lines, appended to.")] = None,
) -> None:
    """Print milliseconds per hole for both, and their ratio; a step of the dense pass includes compiling its plan."""
    row = measure(images, holes, repeats)
    Console(width=130).print(
        f"dense pass {row['dense_ms_per_hole']:.2f} ms per hole ({images} images, {holes**2} holes each); "
        f"full masked images {row['masked_ms_per_hole']:.0f} ms per hole; {row['speedup']:.0f} times faster"
    )
    if output is not None:
        append_rows(output, [row])


def measure(images: int, holes: int, repeats: int) -> dict[str, Any]:
    """Milliseconds per hole, medians of interleaved repeats; the lowest and highest ratio of single repeats."""
    torch.manual_seed(0)
    model = GlanceModel(ModelConfig())
    batch = torch.randn(images, 3, *model.config.image_size)
    masked_plan = _plan(model, 2)
    _check(model, batch[:1], masked_plan)
    dense_ms, masked_ms = [], []
    for _ in range(repeats):
        dense = _step(model, lambda: DensePass(_plan(model, holes))(model.global_net, batch))
        dense_ms.append(dense / (images * holes**2))
        masked = _step(model, lambda: LoopPass(masked_plan, 4)(model.global_net, batch[:1]))
        masked_ms.append(masked / masked_plan.locations)
    ratios = [masked / dense for dense, masked in zip(dense_ms, masked_ms, strict=True)]
    return {
        "images": images,
        "holes": holes**2,
        "repeats": repeats,
        "dense_ms_per_hole": round(median(dense_ms), 4),
        "masked_ms_per_hole": round(median(masked_ms), 3),
        "speedup": round(median(ratios), 2),
        "speedup_low": round(min(ratios), 2),
        "speedup_high": round(max(ratios), 2),
    }


def _plan(model: GlanceModel, count: int) -> Plan:
    rows, cols = model.grid
    subset = draw_grid_subset((len(rows), len(cols)), count, np.random.default_rng(0))
    return model.compile_plan(subset.rows, subset.cols)


def _step(model: GlanceModel, forward: Callable[[], Tensor]) -> float:
    model.zero_grad()
    start = time.perf_counter()
    torch.autograd.backward(forward().square().mean())
    return (time.perf_counter() - start) * 1e3


def _check(model: GlanceModel, image: Tensor, plan: Plan) -> None:
    gradients, net = [], model.global_net
    for forward in (lambda: DensePass(plan)(net, image), lambda: LoopPass(plan, 4)(net, image)):
        _step(model, forward)
        gradients.append(torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]))
    difference = relative_error(gradients[0], gradients[1])
    if difference > tolerance("gradient", "fp32"):
        raise SystemExit(f"the gradients differ by {difference:.1e}; nothing was timed")


if __name__ == "__main__":
    use_all_cores()
    typer.run(main)
