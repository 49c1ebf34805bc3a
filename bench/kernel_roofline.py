"""Multiply-adds and bytes of each kernel launch, and its roofline: `python -m bench.kernel_roofline --preset fast`.

What is counted: `bench.harness.launch_costs`. By default the rates are the published ones of an H100 SXM.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import typer

from bench.harness.launch_costs import (
    H100_BYTES,
    H100_FLOPS,
    FloatWidths,
    conv_costs,
    fused_cost,
    launch_costs,
    pool_cost,
)
from glance_fast.config import ModelConfig
from glance_fast.models.model import GlanceModel
from glance_fast.presets import DEFAULT, PRESETS


def main(
    preset: Annotated[str, typer.Option(help="Whose layers.")] = DEFAULT,
    batch: Annotated[int, typer.Option(help="Images per launch.", min=1)] = 1,
    flops: Annotated[float, typer.Option(help="Floating-point operations per second.")] = H100_FLOPS,
    bandwidth: Annotated[float, typer.Option(help="Bytes per second.")] = H100_BYTES,
) -> None:
    """Print a Markdown table of a preset in float16."""
    model = GlanceModel(ModelConfig.model_validate(PRESETS[preset]["model"]))
    rows, plan = list(launch_costs(model, batch)), model.compile_plan()
    print(f"| `{preset}`, batch {batch} | multiply-adds | MB | roofline | bound by |\n|---|---|---|---|---|")
    for row in rows:
        bound = "products" if 2 * row.macs / flops > row.bytes / bandwidth else "memory"
        time = f"{row.seconds(flops, bandwidth) * 1e6:.2f} µs"
        print(f"| {row.launch} | {row.macs / 1e6:,.1f} M | {row.bytes / 1e6:.2f} | {time} | {bound} |")
    macs, moved = sum(row.macs for row in rows), sum(row.bytes for row in rows)
    total = sum(row.seconds(flops, bandwidth) for row in rows)
    print(f"| all | {macs / 1e6:,.0f} M | {moved / 1e6:.1f} | {total * 1e6:.1f} µs | |")
    print("\n| fused with its pooling | multiply-adds, in one launch and in two | MB | roofline |\n|---|---|---|---|")
    for conv, pool in pairwise(plan.steps[1:]):  # the first layer is launched alone
        if (conv.layer.kind, pool.layer.kind) == ("conv", "pool") and pool.table.entries:
            fused = fused_cost(conv, pool, batch)
            _, entries = conv_costs("", conv, batch, FloatWidths(2, 2))
            separate = [entries, pool_cost("", pool, batch, 2)]
            macs, moved = (sum(getattr(cost, name) for cost in separate) / 1e6 for name in ("macs", "bytes"))
            times = fused.seconds(flops, bandwidth), sum(cost.seconds(flops, bandwidth) for cost in separate)
            figures = f"{fused.macs / 1e6:,.0f}, {macs:,.0f} M | {fused.bytes / 1e6:.1f}, {moved:.1f}"
            print(f"| {fused.launch} | {figures} | {times[0] * 1e6:.1f}, {times[1] * 1e6:.1f} µs |")


if __name__ == "__main__":
    typer.run(main)
