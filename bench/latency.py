"""What an image takes each method of `bench/accuracy.py`: `python -m bench.latency DATA JUDGED --output FILE`.

Training runs for hours and other work goes on beside it, so the times in its rows are not of one machine. Here the
models that it left in JUDGED and the peers, fitted anew on the category DATA, score test images in turn, in PyTorch,
decoded photographs to maps in their own size. `docs/pictures/accuracy.py` draws them.
"""

from __future__ import annotations

import json
from functools import partial
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bench.accuracy import Trial, fitted_peer
from bench.harness.environment import machine
from bench.harness.interleaved import Case, take_turns
from bench.peers.methods import PEERS
from glance_fast.data.datasets import test_samples
from glance_fast.data.images import read_image
from glance_fast.engine import Engine
from glance_fast.errors import DataError
from glance_fast.evaluation.results import Scorer
from glance_fast.presets import PRESETS

# Seconds before each run: the threads of PaDiM's products, numpy's own, wait actively for longer than others' do. With
# 0.05 `fast`, whose turn comes after it, took 79 ms and not 32.
REST = 0.3


def main(
    data: Annotated[Path, typer.Argument(help="One category in MVTec AD's layout.")],
    judged: Annotated[Path, typer.Argument(help="The output folder of bench/accuracy.py.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A JSON file for the rows.")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="As for bench/accuracy.py, for the peers.")] = None,
    turns: int = 40,
) -> None:
    """Score test images in turn, print the medians, write the rows."""
    rows = measure(data, judged, turns, tuple(set_ or ()))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    table = Table("method", "ms an image", "from", "to")
    for row in rows:
        table.add_row(row["method"], *(f"{row[name]:.1f}" for name in ("ms", "low", "high")))
    Console().print(table)


def measure(data: Path, judged: Path, turns: int, settings: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """A row a method; each turn is another test image. Raises DataError where no model was left."""
    place = judged / "runs" / data.resolve().name
    found = {name: sorted(place.glob(f"{name}-*/model")) for name in PRESETS}
    scorers: dict[str, Scorer] = {name: Engine.load(paths[0], "torch") for name, paths in found.items() if paths}
    if not scorers:
        raise DataError(f"{place} holds no model; make them with: python bench/accuracy.py {data} --output {judged}")
    for kind in PEERS:
        scorers[kind.name.lower()] = fitted_peer(Trial(kind.name.lower(), data, judged, 0, settings, 1.0))
    samples = test_samples(data)
    images = [read_image(sample.path) for sample in samples[:: max(1, len(samples) // (turns + 1))]]
    # Every method sees the same images in the same order.
    cases = [
        Case(name, "PyTorch", "fp32", partial(_score, scorer, cycle(images)), 0.0) for name, scorer in scorers.items()
    ]
    rows, facts = [], machine()
    for case, taken in zip(cases, take_turns(cases, turns, REST), strict=True):
        ms = [seconds * 1e3 for seconds in taken.seconds]
        figures = {"ms": round(median(ms), 2), "low": round(min(ms), 2), "high": round(max(ms), 2)}
        rows.append({"method": case.method, **figures, "turns": turns, **facts})
    return rows


def _score(scorer: Scorer, images: Any) -> object:
    return scorer.score(next(images))


if __name__ == "__main__":
    typer.run(main)
