"""The dense pass against the per-patch loop at its best: `python -m bench.speed`.

The loop is timed at batches of 1, 4 and 16 holes, in both memory layouts, on some of the locations (each costs the
same), and the fastest of them is what the dense pass is compared with. Nothing is timed before the dense pass has
given the loop's numbers at the timed locations.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bench.harness.cases import check_loop, spread
from bench.harness.environment import machine
from glance_fast.backends.torch_backend import TorchBackend
from glance_fast.config import ModelConfig
from glance_fast.dense.loop import LoopPass
from glance_fast.models.model import GlanceModel

BATCHES = (1, 4, 16)
LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}


def main(
    strides: Annotated[list[int], typer.Option("--stride")] = [8, 4],  # noqa: B006  typer reads it as the default
    repeats: int = 9,
    locations: Annotated[int, typer.Option(help="Locations a run of the loop; each costs the same.")] = 16,
) -> None:
    """Print a table: dense, loop at its best, their ratio, and the plan's ratio of multiply-adds."""
    console = Console(width=130)
    table = Table("stride", "locations", "dense ms", "loop s", "loop's best form", "faster", "fewer multiply-adds")
    for stride in strides:
        table.add_row(*row(stride, repeats, locations))
    console.print(table)
    console.print(machine())


@torch.inference_mode()
def row(stride: int, repeats: int, locations: int) -> list[str]:
    """One row of the table: Global-Net at the default configuration and this stride, float32."""
    torch.manual_seed(0)
    model = GlanceModel(ModelConfig(stride=stride)).eval()
    net, backend, side = model.global_net, TorchBackend(model), max(2, round(locations**0.5))
    check_loop(backend, side)
    dense, plan = backend.dense, backend.dense.plan
    image = model.from_uint8(torch.randint(0, 256, (1, *model.config.image_size, 3), dtype=torch.uint8))
    subset = model.compile_plan(*spread(model, side))
    turns: dict[str, list[tuple[float, float]]] = {}
    for layout, memory in LAYOUTS.items():
        net.to(memory_format=memory)  # type: ignore[call-overload]
        for turn in range(-1, repeats):  # interleaved, the first turn untimed
            dense_s = _seconds(lambda: dense(net, image))
            for batch in BATCHES:
                loop_s = _seconds(lambda batch=batch: LoopPass(subset, batch)(net, image))  # type: ignore[misc]
                if turn >= 0:
                    turns.setdefault(f"{layout}, batch {batch}", []).append((dense_s, loop_s))
    best = min(turns, key=lambda form: median(loop_s for _, loop_s in turns[form]))
    share = plan.locations / subset.locations
    # The ratio of each turn: the machine's pace changes from turn to turn, for both alike.
    ratios = sorted(share * loop_s / dense_s for dense_s, loop_s in turns[best])
    return [
        str(stride),
        str(plan.locations),
        f"{median(dense_s for form in turns.values() for dense_s, _ in form) * 1e3:.0f}",
        f"{median(loop_s for _, loop_s in turns[best]) * share:.1f}",
        best,
        f"{median(ratios):.0f}x ({ratios[0]:.0f} to {ratios[-1]:.0f})",
        f"{plan.loop_macs / plan.macs:.1f}x",
    ]


def _seconds(run: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    typer.run(main)
