"""The dense pass against the per-patch loop at its best: `python -m bench.speed --output bench/results/speed.jsonl`.

The loop is timed at batches of 1, 4 and 16 holes, in both memory layouts, at some of the locations (each costs the
same), and the dense pass is compared with the fastest of these forms. Before anything is timed, the dense pass must
give the loop's numbers at the timed locations.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bench.harness.cases import check_against_loop, spread_indices
from bench.harness.environment import append_rows, use_all_cores
from glance_fast.backends.torch_backend import TorchBackend
from glance_fast.config import ModelConfig
from glance_fast.dense.loop import LoopPass
from glance_fast.models.model import GlanceModel
from glance_fast.plan.plan import Plan

BATCHES = (1, 4, 16)
LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}

# Seconds of the dense pass and of the loop in one turn.
Turn = tuple[float, float]


def main(
    strides: Annotated[list[int], typer.Option("--stride")] = [8, 4],  # noqa: B006  typer reads it as the default
    repeats: int = 9,
    locations: Annotated[int, typer.Option(help="Locations per run of the loop; each costs the same.")] = 16,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file of JSON lines, appended to.")] = None,
) -> None:
    """Print a table: dense pass, loop at its best, their ratio, and the plan's ratio of multiply-adds."""
    rows = [measure(stride, repeats, locations) for stride in strides]
    table = Table("stride", "locations", "dense ms", "loop s", "loop's best form", "faster", "fewer multiply-adds")
    for row in rows:
        table.add_row(
            str(row["stride"]),
            str(row["locations"]),
            f"{row['dense_ms']:.0f}",
            f"{row['loop_ms'] / 1e3:.1f}",
            row["loop_form"],
            f"{row['speedup']:.0f}x ({row['speedup_low']:.0f} to {row['speedup_high']:.0f})",
            f"{row['fewer_macs']:.1f}x",
        )
    Console(width=130).print(table)
    if output is not None:
        append_rows(output, rows)


@torch.inference_mode()
def measure(stride: int, repeats: int, locations: int) -> dict[str, Any]:
    """One row: Global-Net of the preset `paper` at this stride, float32."""
    torch.manual_seed(0)
    model = GlanceModel(ModelConfig(stride=stride)).eval()
    backend, side = TorchBackend(model), max(2, round(locations**0.5))
    check_against_loop(backend, side)
    plan, some_locations = backend.dense.plan, model.compile_plan(*spread_indices(model, side))
    turns: dict[str, list[Turn]] = {}
    for layout, memory in LAYOUTS.items():
        model.global_net.to(memory_format=memory)  # type: ignore[call-overload]
        for form, timed in _time_layout(backend, some_locations, repeats).items():
            turns[f"{layout}, {form}"] = timed
    best = min(turns, key=lambda form: median(loop_s for _, loop_s in turns[form]))
    share = plan.locations / some_locations.locations
    # The ratio of each turn: the machine's speed changes from turn to turn, for both alike.
    ratios = [share * loop_s / dense_s for dense_s, loop_s in turns[best]]
    return {
        "stride": stride,
        "locations": plan.locations,
        "repeats": repeats,
        "dense_ms": round(median(dense_s for timed in turns.values() for dense_s, _ in timed) * 1e3, 2),
        "loop_ms": round(median(loop_s for _, loop_s in turns[best]) * share * 1e3, 1),
        "loop_form": best,
        "speedup": round(median(ratios), 2),
        "speedup_low": round(min(ratios), 2),
        "speedup_high": round(max(ratios), 2),
        "fewer_macs": round(plan.loop_macs / plan.macs, 2),
    }


def _time_layout(backend: TorchBackend, some_locations: Plan, repeats: int) -> dict[str, list[Turn]]:
    """Turns of each batch size; the first turn is not counted."""
    net, image = backend.model.global_net, _random_image(backend.model)
    turns: dict[str, list[Turn]] = {f"batch {batch}": [] for batch in BATCHES}
    for turn in range(-1, repeats):
        dense_s = _seconds(lambda: backend.dense(net, image))
        for batch in BATCHES:
            loop_s = _seconds(partial(LoopPass(some_locations, batch), net, image))
            if turn >= 0:
                turns[f"batch {batch}"].append((dense_s, loop_s))
    return turns


def _random_image(model: GlanceModel) -> Tensor:
    return model.from_uint8(torch.randint(0, 256, (1, *model.config.image_size, 3), dtype=torch.uint8))


def _seconds(run: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    use_all_cores()
    typer.run(main)
