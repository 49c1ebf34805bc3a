"""A hole's cost in Global-Net's training: through the dense pass, and with full masked images.

`python -m bench.training_speed`: forward, backward, no optimizer. Both give the same gradients (checked first).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
import typer
from rich.console import Console
from torch import Tensor

from bench.harness.environment import machine
from glance_fast.config import ModelConfig
from glance_fast.dense.loop import LoopPass
from glance_fast.dense.torch_pass import DensePass
from glance_fast.evaluation.tolerances import relative_error, tolerance
from glance_fast.models.model import GlanceModel
from glance_fast.plan.plan import Plan
from glance_fast.training.sampling import draw_places


def main(images: int = 4, holes: int = 6, repeats: int = 5) -> None:
    """Print milliseconds a hole for both, and their ratio; a step of the dense pass includes compiling its plan."""
    torch.manual_seed(0)
    model = GlanceModel(ModelConfig())
    batch = torch.randn(images, 3, *model.config.image_size)
    masked_plan = _plan(model, 2)
    _check(model, batch[:1], masked_plan)
    dense_ms, masked_ms = [], []
    for _ in range(repeats):
        dense_ms.append(_step(model, lambda: DensePass(_plan(model, holes))(model.global_net, batch)))
        masked_ms.append(_step(model, lambda: LoopPass(masked_plan, 4)(model.global_net, batch[:1])))
    dense, masked = median(dense_ms) / (images * holes**2), median(masked_ms) / masked_plan.locations
    console = Console(width=130)
    console.print(
        f"dense pass {dense:.2f} ms a hole ({images} images, {holes**2} holes each); "
        f"full masked images {masked:.0f} ms a hole; {masked / dense:.0f} times faster"
    )
    console.print(machine())


def _plan(model: GlanceModel, count: int) -> Plan:
    rows, cols = model.grid
    places = draw_places((len(rows), len(cols)), count, np.random.default_rng(0))
    return model.compile_plan(places.rows, places.cols)


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
    typer.run(main)
