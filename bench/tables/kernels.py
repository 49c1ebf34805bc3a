"""Tables of the GPU kernels' rooflines, computed from the plans of the presets and an H100's published figures."""

from __future__ import annotations

from itertools import pairwise

from bench.harness.launch_costs import H100_BYTES, H100_FLOPS, LaunchCost, fused_cost, launch_costs
from bench.tables.costs import model_of
from bench.tables.rows import Lines, Table, code
from glance_fast.presets import PRESETS


def _us(costs: list[LaunchCost]) -> float:
    """Microseconds of the rooflines, one launch after another."""
    return sum(cost.seconds(H100_FLOPS, H100_BYTES) for cost in costs) * 1e6


def kernel_roofline() -> Lines:
    """All launches of each preset in float16."""
    lines: Lines = [["", "multiply-adds", "MB", "roofline, all launches one after another", "heads alone"]]
    for preset in PRESETS:
        for batch in (1, 32):
            costs = list(launch_costs(model_of(preset), batch))
            macs, megabytes = sum(cost.macs for cost in costs) / 1e9, sum(cost.bytes for cost in costs) / 1e6
            total, heads = _us(costs), _us([cost for cost in costs if cost.launch == "heads"])
            per_image = f" ({total / batch:.1f} per image)" if batch > 1 else ""
            lines.append(
                [
                    f"{code(preset)}, batch {batch}",
                    f"{macs:.3g} G" if macs >= 10 else f"{macs:.2f} G",
                    f"{megabytes:.1f}" if megabytes < 100 else f"{megabytes:,.0f}",
                    (f"{total:.1f} µs" if total < 100 else f"{total:,.0f} µs") + per_image,
                    f"{heads:.1f} µs",
                ]
            )
    return lines


def joined_launches() -> Lines:
    """A convolution and its pooling in one launch and in two, batch 32."""
    lines: Lines = [["", "multiply-adds, one launch and two", "MB", "roofline"]]
    for preset in PRESETS:
        model = model_of(preset)
        costs = {cost.launch: cost for cost in launch_costs(model, 32)}
        for i, (conv, pool) in enumerate(pairwise(model.compile_plan().steps)):
            if i and (conv.layer.kind, pool.layer.kind) == ("conv", "pool") and pool.table.entries:
                before, after = conv.channels
                fused = fused_cost(conv, pool, 32)
                separate = [costs[f"{i} conv {before}→{after}, entries"], costs[f"{i + 1} pool {after}→{after}"]]
                macs = sum(cost.macs for cost in separate) / 1e9
                megabytes = sum(cost.bytes for cost in separate) / 1e6
                cells = [f"{fused.macs / 1e9:.0f}, {macs:.0f} G", f"{fused.bytes / 1e6:,.0f}, {megabytes:,.0f}"]
                lines.append(
                    [f"{code(preset)} {before}→{after}", *cells, f"{_us([fused]):.0f}, {_us(separate):.0f} µs"]
                )
    return lines


TABLES: dict[str, Table] = {"kernel-roofline": kernel_roofline, "joined-launches": joined_launches}
