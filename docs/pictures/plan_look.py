"""How the pictures of plans look: what colour each kind of cell has, boxes, legends, files."""

from __future__ import annotations

from typing import Literal

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from picture import save as save_picture

Pair = tuple[float, float]
Kind = Literal["base", "entry", "dead", "hole", "unread", "outside"]
FACE: dict[Kind, str] = {
    "base": "#a9bccd",
    "entry": "#f0923b",
    "dead": "#2e333b",
    "hole": "white",
    "unread": "#f7e3d0",
    "outside": "white",
}
MEANING: dict[Kind, str] = {
    "base": "base: untouched",
    "entry": "entry: touched",
    "dead": "dead: sees only hole",
    "hole": "hole",
    "unread": "touched, never read",
    "outside": "outside the image",
}
LINES: dict[Kind, tuple[str, str]] = {"hole": ("////", "-"), "outside": ("", ":")}
INK, QUIET = "#1f2328", "#59636e"
LOOP, DENSE = "#b9c0c8", "#1f7a74"


def style() -> None:
    mpl.rc("font", size=11)
    mpl.rc("text", color=INK)
    mpl.rc("axes", titlesize=11, titlepad=5)
    mpl.rc("legend", frameon=False, handlelength=1.4)
    mpl.rc("hatch", linewidth=0.8)
    mpl.rc("savefig", facecolor="white")


def canvas(height: float, xs: Pair, ys: Pair) -> tuple[Figure, Axes]:
    """One drawing area with equal units and no frame, room for a legend below; y grows downwards."""
    figure = plt.figure(figsize=(10, height))
    ax = figure.add_axes((0, 0.08, 1, 0.92))
    frame(ax, xs, ys)
    return figure, ax


def frame(ax: Axes, xs: Pair, ys: Pair) -> None:
    ax.set(xlim=xs, ylim=ys[::-1], aspect="equal")
    ax.axis("off")


def box(ax: Axes, at: Pair, size: Pair, kind: Kind, text: str = "", font: float = 10) -> None:
    edge = QUIET if kind in LINES else "white"
    hatch, line = LINES.get(kind, ("", "-"))
    # Holes lie above their neighbours, whose white edges would cut into the hole's.
    layer = 2 if hatch else 1
    ax.add_patch(Rectangle(at, *size, fc=FACE[kind], ec=edge, hatch=hatch, ls=line, lw=0.8, zorder=layer))
    colour = "white" if kind == "dead" else INK
    middle = at[0] + size[0] / 2, at[1] + size[1] / 2
    ax.text(*middle, text, ha="center", va="center_baseline", size=font, color=colour)


def legend(figure: Figure, *shown: Kind) -> None:
    lines = [LINES.get(kind, ("", "-")) for kind in shown]
    handles = [
        Patch(fc=FACE[kind], ec=QUIET, hatch=hatch, ls=line, label=MEANING[kind])
        for kind, (hatch, line) in zip(shown, lines, strict=True)
    ]
    figure.legend(handles=handles, loc="lower center", ncols=len(shown), columnspacing=1.8)


def save(figure: Figure, name: str) -> None:
    save_picture(figure, f"plan_{name}", dpi=150, bbox_inches="tight", pad_inches=0.15)
    plt.close(figure)
