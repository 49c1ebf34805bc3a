"""Time per image of the methods of `bench.accuracy`: `python -m bench.latency DATA JUDGED --output FILE`.

Training takes hours, and other programs run meanwhile, so the times in its rows do not belong to one state of the
machine. Here the models that it saved in JUDGED, and the peers, fitted again on the category DATA, score test images in
turn, in PyTorch: from decoded photographs to maps in the photographs' own size. `docs/pictures/accuracy.py` draws them.
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
from bench.harness.environment import environment, use_all_cores
from bench.harness.interleaved import Case, run_interleaved
from bench.peers.methods import PEERS
from glance_fast.data.datasets import test_samples
from glance_fast.data.images import read_image
from glance_fast.engine import Engine
from glance_fast.errors import DataError
from glance_fast.evaluation.results import Scorer
from glance_fast.presets import PRESETS

# Seconds before each run: numpy's threads, which compute PaDiM's products, wait actively for longer than others. With
# 0.05 `fast`, which runs after it, took 79 ms instead of 32.
REST = 0.3


def main(
    data: Annotated[Path, typer.Argument(help="One category in MVTec AD's layout.")],
    judged: Annotated[Path, typer.Argument(help="The output folder of bench.accuracy.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A JSON file for the rows.")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="As for bench.accuracy, for the peers.")] = None,
    turns: int = 40,
) -> None:
    """Score test images in turn, print the medians, write the rows."""
    rows = measure(data, judged, turns, tuple(set_ or ()))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    table = Table("method", "ms per image", "from", "to")
    for row in rows:
        table.add_row(row["method"], *(f"{row[name]:.1f}" for name in ("ms", "low", "high")))
    Console().print(table)


def measure(data: Path, judged: Path, turns: int, settings: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """One row per method; each turn is another test image. Raises DataError where no model was saved."""
    runs = judged / "runs" / data.resolve().name
    models = {name: sorted(runs.glob(f"{name}-*/model")) for name in PRESETS}
    scorers: dict[str, Scorer] = {name: Engine.load(paths[0], "torch") for name, paths in models.items() if paths}
    if not scorers:
        raise DataError(f"{runs} holds no model; make them with: python -m bench.accuracy {data} --output {judged}")
    for kind in PEERS:
        scorers[kind.name.lower()] = fitted_peer(Trial(kind.name.lower(), data, judged, 0, settings, 1.0))
    samples = test_samples(data)
    images = [read_image(sample.path) for sample in samples[:: max(1, len(samples) // (turns + 1))]]
    # Every method sees the same images in the same order.
    cases = [
        Case(name, "PyTorch", "fp32", partial(_score, scorer, cycle(images)), 0.0) for name, scorer in scorers.items()
    ]
    rows, recorded = [], environment()
    for case, measurement in zip(cases, run_interleaved(cases, turns, REST), strict=True):
        ms = [seconds * 1e3 for seconds in measurement.seconds]
        figures = {"ms": round(median(ms), 2), "low": round(min(ms), 2), "high": round(max(ms), 2)}
        rows.append({"method": case.method, **figures, "turns": turns, **recorded})
    return rows


def _score(scorer: Scorer, images: Any) -> object:
    return scorer.score(next(images))


if __name__ == "__main__":
    use_all_cores()
    typer.run(main)
