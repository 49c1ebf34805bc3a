"""Draw the pictures of docs/plan.md, all from compiled plans."""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Polygon, Rectangle
from plan_look import DENSE, FACE, INK, LOOP, QUIET, Kind, box, canvas, frame, legend, save, style

from glance_fast.config import ModelConfig
from glance_fast.models.model import GlanceModel
from glance_fast.plan.axis import Keys, WindowSources
from glance_fast.plan.layer import OUTSIDE, conv, pool
from glance_fast.plan.patches import grid_starts
from glance_fast.plan.plan import Plan, compile_plan
from glance_fast.plan.step import Step
from glance_fast.plan.table import Table

# Small enough to draw every cell, deep enough for all kinds of cells: levels of 32, 16 and 8 cells a side.
LAYERS = (conv(4), pool(4), conv(4), pool(4), conv(4))
NAMES = ("pixels", "conv 1", "pool 1", "conv 2", "pool 2", "conv 3")
SIDE, PATCH = 32, 12


def toy(*starts: int) -> Plan:
    """The small plan of most pictures, with holes at `starts` x `starts`."""
    return compile_plan(LAYERS, (SIDE, SIDE), PATCH, (starts, starts))


def receptive_field(plan: Plan, level: int, cell: int) -> tuple[int, int]:
    """First and one past the last pixel that a cell of a level depends on: a walk down the plan's reads."""
    cells = np.array([cell])
    for step in reversed(plan.steps[:level]):
        cells = np.unique(step.rows.plain.cell[cells])
        cells = cells[cells != OUTSIDE]
    return int(cells[0]), int(cells[-1]) + 1


def kinds(plan: Plan, level: int) -> list[Kind]:
    """What the cells of a level are along the rows' axis, for a plan with one hole."""
    table, start = plan.tables[level], plan.holes_y[0]
    fields = [receptive_field(plan, level, cell) for cell in range(table.base_shape[0])]
    out: list[Kind] = ["unread" if a < start + plan.patch and b > start else "base" for a, b in fields]
    for i, cell in enumerate(table.rows.cell):
        out[cell] = "entry" if i < table.rows.alive else "dead"
    return out


def crossed(row: Kind, col: Kind) -> Kind:
    """What a cell is whose row and column are of these kinds."""
    if "base" in (row, col):
        return "base"
    if "unread" in (row, col):
        return "unread"
    return "dead" if row == col == "dead" else "entry"


def draw_hole() -> None:
    """What one hole changes in the default Global-Net: its convolutions, seen as images."""
    start, plan = 112, GlanceModel(ModelConfig()).compile_plan([14], [14])
    order: tuple[Kind, ...] = ("base", "unread", "entry", "dead")
    colours = ListedColormap([FACE[kind] for kind in order])
    figure, axes = plt.subplots(2, 3, figsize=(10, 7.4))
    levels = [i for i, step in enumerate(plan.steps, 1) if step.layer.kind == "conv"]
    for ax, level in zip(axes.flat, levels, strict=True):
        along = kinds(plan, level)
        picture = [[order.index(crossed(row, col)) for col in along] for row in along]
        ax.imshow(picture, cmap=colours, vmin=0, vmax=len(order) - 1, extent=(0, 256, 256, 0))
        low, high = (96, 160) if len(along) >= 64 else (0, 256)
        ticks = np.linspace(0, 256, len(along) + 1)
        ax.vlines(ticks, 0, 256, color="white", lw=0.3 if len(along) > 100 else 0.6)
        ax.hlines(ticks, 0, 256, color="white", lw=0.3 if len(along) > 100 else 0.6)
        edge = "white" if "dead" in along else INK
        ax.add_patch(Rectangle((start, start), 32, 32, fc="none", ec=edge, hatch="///", lw=1.2, zorder=3))
        ax.set(xlim=(low, high), ylim=(high, low), xticks=[], yticks=[], frame_on=False)
        count = plan.steps[level - 1].table.entries
        noun = "entry" if count == 1 else "entries"
        ax.set_title(f"layer {level - 1}: {len(along)}×{len(along)}, {count} {noun}")
    axes[0, 0].set_ylabel("middle 64 pixels", color=INK)
    axes[1, 0].set_ylabel("whole image", color=INK)
    figure.tight_layout(rect=(0, 0.05, 1, 1), h_pad=1.5)
    legend(figure, "base", "entry", "dead", "unread", "hole")
    save(figure, "hole")


def draw_axis() -> None:
    """All levels of one axis under one hole, and how one cell's key comes about."""
    start, level, cell, floor = 8, 3, 9, 11.0
    plan = toy(start)
    figure, ax = canvas(4.9, (-3.5, 33), (-0.5, 15))
    for i, table in enumerate(plan.tables):
        wide, y = SIDE / table.base_shape[0], floor - 2.2 * i
        for c, kind in enumerate(kinds(plan, i)):
            box(ax, (c * wide, y), (wide, 1.3), "base" if i == 0 else kind)
        ax.text(-0.6, y + 0.65, NAMES[i], ha="right", va="center")
    box(ax, (start, floor), (PATCH, 1.3), "hole")
    table = plan.tables[level]
    wide, y = SIDE / table.base_shape[0], floor - 2.2 * level
    low, high = receptive_field(plan, level, cell)
    cone = [(cell * wide, y + 1.3), (low, floor), (high, floor), ((cell + 1) * wide, y + 1.3)]
    ax.add_patch(Polygon(cone, fc="white", alpha=0.35, ec="none"))
    ax.add_patch(Polygon(cone, fc="none", ec=INK, lw=1.2, zorder=3))
    ax.add_patch(Rectangle((cell * wide, y), wide, 1.3, fc="none", ec=INK, lw=2.2, zorder=3))
    first, last = table.rows.hole[list(table.rows.cell).index(cell)]
    names = f"receptive field of cell {cell}", "I = hole ∩ field"
    for y, (a, b), text in zip((13, 14.3), ((low, high), (first, last)), names, strict=True):
        ax.plot([a, b], [y, y], color=INK, lw=2, marker="|", ms=9, mew=2)
        ax.text(b + 0.6, y, f"{text}: [{a}, {b})", va="center_baseline")
    legend(figure, "base", "entry", "dead", "unread", "hole")
    save(figure, "axis")


def numbers_of(keys: Keys, every: Keys) -> list[int]:
    """Which of `every` key the `keys` are."""
    pairs = list(zip(every.cell.tolist(), every.hole.tolist(), strict=True))
    return [pairs.index(pair) for pair in zip(keys.cell.tolist(), keys.hole.tolist(), strict=True)]


def draw_keys() -> None:
    """One level under all holes of an axis: cells with the same number are one key, computed once."""
    starts, level = grid_starts(SIDE, PATCH, 4), 2
    every = toy(*starts).tables[level].rows
    figure, ax = canvas(5.4, (-2.4, 16.2), (-0.8, 9))
    for c in range(SIDE // 2):
        ax.text(c + 0.5, -0.3, str(c), ha="center", color=QUIET)
    ax.text(-0.25, -0.3, "cell", ha="right", color=QUIET)
    for row, start in enumerate(starts):
        plan = toy(start)
        hole_keys = plan.tables[level].rows
        numbers = dict(zip(hole_keys.cell.tolist(), numbers_of(hole_keys, every), strict=True))
        for c, kind in enumerate(kinds(plan, level)):
            box(ax, (c, row), (1, 0.86), kind, str(numbers.get(c, "")))
        ax.text(-0.25, row + 0.43, f"hole at {start}", ha="right", va="center")
    wide = SIDE / 2 / len(every)
    for i in range(len(every)):
        box(ax, (i * wide, 7), (wide, 0.86), "entry" if i < every.alive else "dead", str(i), font=8.5)
    ax.text(-0.25, 7.43, "keys", ha="right", va="center")
    ax.text(every.alive * wide / 2, 8.4, f"{every.alive} alive: each belongs to one hole", ha="center")
    dead = len(every) - every.alive
    ax.text((len(every) - dead / 2) * wide, 8.4, f"{dead} dead: at most one a cell", ha="center")
    legend(figure, "base", "entry", "dead")
    save(figure, "keys")


def draw_product() -> None:
    """A level's cells at one location, and the table of all its keys, rows times columns."""
    starts, level = (4, 8), 2
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 5.5), width_ratios=(1, 1.12))
    rows, cols = (kinds(toy(start), level) for start in starts)
    frame(left, (-0.2, 16.2), (-0.2, 16.2))
    for y, x in np.ndindex(len(rows), len(cols)):
        box(left, (x, y), (1, 1), crossed(rows[y], cols[x]))
    corner = starts[1] / 2, starts[0] / 2
    left.add_patch(Rectangle(corner, PATCH / 2, PATCH / 2, fc="none", ec="white", hatch="///"))
    left.set_title(f"Cells of {NAMES[level]}, hole at row {starts[0]}, column {starts[1]}")
    draw_key_table(right, *(toy(*holes).tables[level].rows for holes in (starts, *zip(starts, strict=True))))
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    legend(figure, "base", "entry", "dead", "hole")
    save(figure, "product")


def draw_key_table(ax: Axes, keys: Keys, row_keys: Keys, col_keys: Keys) -> None:
    """All pairs of `keys`, numbered as they are stored; a ring round those that one location reads."""
    table, n = Table(keys, keys, (0, 0)), len(keys)
    frame(ax, (-3.4, n + 0.2), (-3.4, n + 0.2))
    used = [numbers_of(axis_keys, keys) for axis_keys in (row_keys, col_keys)]
    for row, col in np.ndindex(n, n):
        dead = row >= keys.alive and col >= keys.alive
        number = "" if dead else str(entry_number(table, row, col))
        box(ax, (col, row), (1, 1), "dead" if dead else "entry", number, font=7.8)
        if row in used[0] and col in used[1]:
            ax.add_patch(Rectangle((col + 0.06, row + 0.06), 0.88, 0.88, fc="none", ec="white", lw=1.6))
    box(ax, (-1.3, -1.3), (n + 1.3, 1.1), "base", "column untouched")
    box(ax, (-1.3, -0.2), (1.1, n + 0.2), "base")
    ax.text(-0.75, n / 2, "row untouched", rotation=90, ha="center", va="center", size=10)
    middles = keys.alive / 2, (keys.alive + n) / 2
    for middle, name in zip(middles, (f"{keys.alive} alive", f"{n - keys.alive} dead"), strict=True):
        ax.text(middle, -1.7, name, ha="center")
        ax.text(-1.7, middle, name, rotation=90, va="center", ha="right")
    ax.set_title("Row keys × column keys, numbered as stored\n(framed: for the hole on the left)", y=0.97)


def entry_number(table: Table, row: int, col: int) -> int:
    """Which of a table's entries a pair of keys is, for a table without base cells."""
    read = [WindowSources(*(np.array([[part]]) for part in (0, key, key >= table.rows.alive))) for key in (row, col)]
    return int(table.find(read[0], read[1])[0, 0])


def draw_mask() -> None:
    """sum(M) of a 3x3 window of the first layer: at a hole's edge, at its corner, at the image's border."""
    cases = (("hole's edge", (8, 14, 7)), ("hole's corner", (8, 8, 8)), ("image's border", (0, 0, 12)))
    figure, axes = plt.subplots(1, 3, figsize=(10, 4.3))
    for ax, (name, (start, y, x)) in zip(axes, cases, strict=True):
        frame(ax, (x - 3.1, x + 4.1), (y - 3.1, y + 4.1))
        hole = range(start, start + PATCH)
        for cy, cx in np.ndindex(7, 7):
            at = (y - 3 + cy, x - 3 + cx)
            kind: Kind = "outside" if min(at) < 0 else "hole" if at[0] in hole and at[1] in hole else "base"
            box(ax, at[::-1], (1, 1), kind)
        ax.add_patch(Rectangle((x - 1, y - 1), 3, 3, fc="none", ec=FACE["entry"], lw=4, zorder=3))
        ax.set_title(f"window at a {name}" if name[0] == "h" else f"window at the {name}")
        ax.text(x + 0.5, y + 4.35, window_sum(toy(start).steps[0], y, x), ha="center", va="top")
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    legend(figure, "base", "hole", "outside")
    save(figure, "mask")


def window_sum(step: Step, y: int, x: int) -> str:
    """sum(M) of the window at a touched cell, as the plan has it, with its four counts."""
    keys, reads = step.table.rows, step.rows.keys
    row, col = (list(keys.cell).index(cell) for cell in (y, x))
    counts = [int(part[i].sum()) for part in (reads.inside, reads.dead) for i in (row, col)]
    entry = entry_number(Table(keys, keys, (0, 0)), row, col)
    total = step.valid_counts()[step.table.base + entry]
    assert total == counts[0] * counts[1] - counts[2] * counts[3]
    return "sum(M) = {}·{} − {}·{} = {}".format(*counts, total)


@dataclass(frozen=True)
class Strip:
    """A table drawn as one line of blocks, not to scale: what each holds, its first row, its left edge."""

    y: float
    kinds: tuple[Kind, ...]
    labels: tuple[str, ...]
    rows: tuple[int, ...]
    lefts: tuple[float, ...]

    def block(self, row: int) -> int:
        return int(np.searchsorted(self.rows, row, side="right")) - 1

    def middle(self, row: int) -> float:
        """The x of the middle of a row."""
        i = self.block(row)
        part = (row + 0.5 - self.rows[i]) / (self.rows[i + 1] - self.rows[i])
        return self.lefts[i] + part * (self.lefts[i + 1] - self.lefts[i])


def values(table: Table, y: float) -> Strip:
    """The parts of a table: its base, its entries, the zero row."""
    height, width = table.base_shape
    labels = (f"base\n{height} × {width} cells", f"entries, block by block\n{table.entries}", "zero\nrow")
    rows = (0, table.base, table.zero, table.zero + 1)
    return Strip(y, ("base", "entry", "dead"), labels, rows, (0, 34, 91, 100))


def changed(table: Table, y: float) -> Strip:
    """The parts of the table of what the holes change in a level."""
    labels = (f"entries − their base cells\n{table.entries}", "− base: what dead cells lose", "zero\nrow")
    rows = (0, table.entries, table.zero, table.zero + 1)
    return Strip(y, ("entry", "dead", "outside"), labels, rows, (0, 50, 91, 100))


def draw_strip(ax: Axes, blocks: Strip, name: str) -> None:
    for i, (kind, text) in enumerate(zip(blocks.kinds, blocks.labels, strict=True)):
        box(ax, (blocks.lefts[i], blocks.y), (blocks.lefts[i + 1] - blocks.lefts[i], 6), kind, text)
        y, va = (-0.6, "bottom") if blocks.y == 0 else (blocks.y + 6.6, "top")
        ax.text(blocks.lefts[i] + 0.4, y, str(blocks.rows[i]), va=va, color=QUIET, size=10)
    ax.text(-1.2, blocks.y + 3, name, ha="right", va="center")


def draw_memory() -> None:
    """What the holes change in one table, the table above it, and what one row of that reads."""
    i = 2
    step = toy(9).steps[i]
    below, above = changed(step.below, 0), values(step.table, 15)
    partial = [block for block in step.blocks() if block.sources.shape[1] < step.layer.kernel**2]
    block = next(block for block in partial if len({below.block(row) for row in block.sources[0]}) == 2)
    sources, row = block.sources[0], step.table.base + block.entries.start
    base_cell = int(step.table.base_index()[block.entries.start])
    figure, ax = canvas(5.4, (-13, 101), (-4, 50))
    draw_strip(ax, below, f"{NAMES[i]},\nchanges")
    draw_strip(ax, above, NAMES[i + 1])
    for source in sources:
        ax.plot([below.middle(source), above.middle(row)], [6, above.y], color=INK, lw=1)
    for table_row in (row, base_cell):
        ax.plot([above.middle(table_row)] * 2, [above.y, above.y + 6], color=INK, lw=3)
    path = [
        (above.middle(base_cell), above.y + 6),
        (above.middle(base_cell), above.y + 9),
        (above.middle(row), above.y + 9),
    ]
    ax.plot(*zip(*path, (above.middle(row), above.y + 6), strict=True), color=INK, lw=1, ls=":")
    taps = np.full(9, -1)
    taps[list(block.taps)] = sources
    for (y, x), source in np.ndenumerate(taps.reshape(3, 3)):
        kind: Kind = "base" if source < 0 else below.kinds[below.block(source)]
        box(ax, (x * 6, 31 + y * 6), (6, 6), kind, "" if source < 0 else str(source))
    ax.text(9, 30, f"the window of row {row}", ha="center", va="bottom")
    actions = (
        ("start", f"from the sum without a hole, that of base cell {base_cell}"),
        ("gather", f"the {len(sources)} touched taps' changes, C numbers each"),
        ("multiply", "by these taps' weights, and add: one product a block"),
        ("scale", f"by 9 / sum(M), here 9 / {step.valid_counts()[row]}"),
        ("finish", f"add the bias, ReLU: row {row} of {NAMES[i + 1]}, C′ numbers"),
    )
    for n, (verb, rest) in enumerate(actions):
        ax.text(25, 32 + 4.2 * n, verb, weight="bold", va="center")
        ax.text(38, 32 + 4.2 * n, rest, va="center")
    legend(figure, "base", "entry", "dead")
    save(figure, "memory")


def draw_cost(plan: Plan) -> None:
    """Multiply-adds of the loop and of the dense pass, one pair of bars per convolution."""
    steps = [(i, step) for i, step in enumerate(plan.steps) if step.macs]
    names = [*("layer {}\n{}×{}".format(i, *step.table.base_shape) for i, step in steps), "all"]
    dense = np.array([*(step.macs for _, step in steps), plan.macs]) / 1e9
    once = [step.loop_macs for _, step in steps]
    loop = np.array([*once, sum(once)]) * plan.locations / 1e9
    figure, ax = plt.subplots(figsize=(10, 5))
    positions = np.arange(len(names))
    ax.barh(positions - 0.2, loop, 0.38, color=LOOP, label=f"loop, {plan.locations} runs")
    ax.barh(positions + 0.2, dense, 0.38, color=DENSE, label="dense pass")
    for y, a, b in zip(positions, loop, dense, strict=True):
        ax.text(a * 1.06, y - 0.2, f"{a:.1f}", va="center_baseline", size=10)
        ax.text(b * 1.06, y + 0.2, f"{b:.2f}   ({a / b:.0f} times fewer)", va="center_baseline", size=10)
    ax.set(xscale="log", xlim=(0.05, 1000), yticks=positions, yticklabels=names)
    ax.set_xlabel("GMAC per image, log scale", color=INK)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.invert_yaxis()
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.set_axisbelow(True)
    ax.grid(axis="x", color="#e4e8ec")
    figure.legend(loc="lower center", ncols=2)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    save(figure, "cost")


def main() -> None:
    style()
    for draw in (draw_hole, draw_axis, draw_keys, draw_product, draw_mask, draw_memory):
        draw()
    draw_cost(GlanceModel(ModelConfig()).compile_plan())


if __name__ == "__main__":
    main()
