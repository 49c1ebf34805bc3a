"""Write the tables of docs/plan.md, all computed from compiled plans; `--check` compares them and writes nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from glance_fast.config import ModelConfig, TrainConfig
from glance_fast.export.graph.levels import entry_range
from glance_fast.models.global_net import global_layers
from glance_fast.models.model import GlanceModel
from glance_fast.plan.patches import grid_starts
from glance_fast.plan.plan import Plan, compile_plan, refine_bands
from glance_fast.plan.step import Step

PAGE = Path(__file__).resolve().parent.parent / "plan.md"


def default_plan(starts: Sequence[int], patch: int = 32) -> Plan:
    """The plan of the default Global-Net with holes at `starts` x `starts`."""
    config = ModelConfig()
    layers = global_layers(config.global_channels, config.global_convs)
    return compile_plan(layers, config.image_size, patch, (starts, starts), config.readout)


def sentence_count(plan: Plan) -> str:
    loop = plan.locations * sum(step.table.base for step in plan.steps)
    dense = sum(step.table.zero for step in plan.steps)
    return (
        f"All in all the loop's {plan.locations} runs compute {loop:,} cells of feature maps. "
        f"The dense pass computes {dense:,}, or {dense / loop:.1%} of them."
    )


def table_keys(plan: Plan) -> str:
    """How many cells the loop computes, how many of them matter, how many of those differ."""
    lines = ["layer|keys per axis|loop|touched and read|entries|base", "---|--:|--:|--:|--:|--:"]
    single = [default_plan([start]) for start in plan.holes_y]
    for i, step in enumerate(plan.steps):
        keys = step.table.rows
        of_holes = [hole.steps[i].table.rows for hole in single]
        read = sum(map(len, of_holes)) ** 2 - sum(len(k) - k.alive for k in of_holes) ** 2
        loop = plan.locations * step.table.base
        axis = f"{keys.alive} alive, {len(keys) - keys.alive} dead"
        name = f"{i} {step.layer.kind}"
        lines.append(f"{name}|{axis}|{loop:,}|{read:,}|{step.table.entries:,}|{step.table.base:,}")
    return rows_of(lines)


def table_split(plan: Plan) -> str:
    """A plan as it is and refined for a CPU: multiply-adds and blocks of convolutions, reads in runs of pools."""
    lines = ["layer|as it is|refined for a CPU", "---|---|---"]
    other = refine_bands(plan)
    for i, (step, finer) in enumerate(zip(plan.steps, other.steps, strict=True)):
        lines.append(f"{i} {step.layer.kind}|{_summary(step)}|{_summary(finer)}")
    lines.append(f"total|{_gmac(plan.macs)}|{_gmac(other.macs)}")
    return rows_of(lines)


def _summary(step: Step) -> str:
    if step.layer.kind == "conv":
        count = len(step.blocks())
        return f"{_gmac(step.macs)} in {count} block{'s' * (count > 1)}"
    (block,), entries, runs = step.blocks(), 0, 0
    for span in step.table.spans:
        for read in block.sources[span].T:
            entries += int(((read >= step.below.base) & (read < step.below.zero)).sum())
            runs += len(read) if entry_range(read, step.below) else 0
    return f"{runs / entries:.0%} in runs"


def _gmac(macs: int) -> str:
    return f"{macs / 1e9:.2f} GMAC"


def table_growth() -> str:
    """Cost of the dense pass and its ratio to the loop's for patches and strides."""
    strides = (4, 8, 16, 32)
    lines = ["patch|" + "|".join(f"stride {s}" for s in strides), "--:|" + "--:|" * len(strides)]
    for patch in (16, 32, 64, 96):
        plans = [default_plan(grid_starts(256, patch, s), patch) for s in strides]
        assert not any(p.blind() for p in plans)
        cells = [f"{p.macs / 1e9:.1f} GMAC ({p.loop_macs / p.macs:.0f}×)" for p in plans]
        lines.append(f"{patch}|" + "|".join(cells))
    return rows_of(lines)


def table_training() -> str:
    """Forward cost of an image with the holes of some random rows and columns, a mean over 20 draws."""
    lines = ["random rows × columns|holes|loop|dense pass|of it, base pass", "---|--:|--:|--:|--:"]
    for count in (1, 2, 4, TrainConfig().holes_per_axis, 8, 12):
        rng = np.random.default_rng(0)
        plans = [default_plan(np.sort(rng.integers(0, 225, count)).tolist()) for _ in range(20)]
        macs = float(np.mean([p.macs for p in plans]))
        loop = plans[0].loop_macs
        base = loop / plans[0].locations / 1e9
        lines.append(f"{count} × {count}|{count**2}|{loop / 1e9:.2f}|{macs / 1e9:.2f}|{base:.2f}")
    return rows_of(lines)


def rows_of(lines: Iterable[str]) -> str:
    return "\n".join(f"| {line.strip('|').replace('|', ' | ')} |" for line in lines)


def filled(page: str, blocks: dict[str, str]) -> str:
    """The page with the blocks between their markers."""
    for name, block in blocks.items():
        start, end = f"<!-- {name}: written by pictures/plan_tables.py -->\n", "\n<!-- end -->"
        assert page.count(start) == 1, f"{PAGE.name} has {page.count(start)} markers for {name}"
        before, after = page.split(start)
        page = before + start + block + end + after.split(end.strip(), 1)[1]
    return page


def main() -> None:
    plan = GlanceModel(ModelConfig()).compile_plan()
    blocks = {
        "count": sentence_count(plan),
        "cost": f"```text\n{plan}\n```",
        "keys": table_keys(plan),
        "split": table_split(plan),
        "growth": table_growth(),
        "training": table_training(),
    }
    page = PAGE.read_text(encoding="utf-8")
    if sys.argv[1:] == ["--check"]:
        raise SystemExit(filled(page, blocks) != page)
    PAGE.write_text(filled(page, blocks), encoding="utf-8")


if __name__ == "__main__":
    main()
