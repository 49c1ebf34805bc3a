"""Accuracy of our presets and the peers: `python -m bench.accuracy DATA --output DIR`.

DATA is a folder in MVTec AD's layout, or a folder of such folders, one per category. Our presets and the peers are
trained on the same normal photographs, resized alike, with the same teacher, and are evaluated on the same test images
in the same run; each of our heads is also evaluated alone. The rows of a method, category and seed are written to
`accuracy.json` as soon as they are measured, and all rows as a table to `accuracy.md`. A row has the figures of all
test images, and of the two parts of `bench.harness.splits`: the part that settings may be chosen by, and the part that
is reported.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

# `python bench/accuracy.py`, the command of 0.1.0: Python puts bench/ on its path, and not its parent.
if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.harness.environment import environment
from bench.harness.splits import PARTS, part_of
from bench.peers.methods import PEERS, Peer
from glance_fast.backends.torch_backend import TorchBackend
from glance_fast.cli import read_settings
from glance_fast.config import ModelConfig, TrainConfig
from glance_fast.engine import Engine
from glance_fast.errors import DataError
from glance_fast.evaluation.evaluate import evaluation_samples, score_samples, write_evaluation
from glance_fast.evaluation.galleries import Galleries
from glance_fast.evaluation.results import Evaluation, Scorer
from glance_fast.evaluation.summary import Summary
from glance_fast.presets import PRESETS
from glance_fast.storage.atomic_write import replace_file
from glance_fast.storage.model_folder import build_model
from glance_fast.teachers import load_teacher
from glance_fast.training.dataset import read_split
from glance_fast.training.train import Job, train_model

# Wang, Wu, Cui, Shen, CVPR 2021: mean over the 15 categories of MVTec AD.
PAPER_PRO = 0.961
MVTEC_AD = {
    "bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut", "pill", "screw", "tile",
    "toothbrush", "transistor", "wood", "zipper",
}  # fmt: skip
METRICS = ("image_auroc", "pixel_auroc", "aupro", "f1_max")
LEGAL = (*PRESETS, *(peer.name.lower() for peer in PEERS))

Row = dict[str, Any]
console = Console(width=140)


@dataclass(frozen=True)
class Trial:
    """One method on one category with one seed."""

    method: str
    data: Path
    output: Path
    seed: int
    settings: tuple[str, ...]
    effort: float
    pattern: str | None = None
    within: int = 0

    def read(self, preset: str) -> tuple[ModelConfig, TrainConfig]:
        return read_settings(None, [*self.settings, f"seed={self.seed}"], self.effort, preset)


def main(
    data: Annotated[Path, typer.Argument(help="A folder in MVTec AD's layout, or a root of such folders.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the table, the rows and the models.")],
    method: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(LEGAL)}; all but paper if none.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="May be repeated.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="A setting of our presets, name=value.")] = None,
    effort: Annotated[float, typer.Option(help="Multiplies the training steps of our presets.")] = 1.0,
    part: Annotated[str, typer.Option(help=f"Test images of the table: all, {', '.join(PARTS)}.")] = "all",
    pattern: Annotated[str | None, typer.Option(help="A number in the files' names, as for bench.disjoint.")] = None,
    within: Annotated[
        int, typer.Option(help="Photographs whose numbers differ by at most this are in the same part.")
    ] = 0,
) -> None:
    """Train and evaluate, and print one table; rows that the output folder already has are not measured again."""
    methods = method or [name for name in LEGAL if name != "paper"]
    if unknown := sorted(set(methods) - set(LEGAL)):
        raise DataError(f"unknown method {', '.join(unknown)}; legal are {', '.join(LEGAL)}")
    if part not in ("all", *PARTS):
        raise DataError(f"unknown part {part!r}; legal are all, {', '.join(PARTS)}")
    rows = _read_rows(output / "accuracy.json")
    for category in categories(data):
        for name in methods:
            for number in seed or [0]:
                trial = Trial(name, category, output, number, tuple(set_ or ()), effort, pattern, within)
                if not any(_belongs_to(row, trial) for row in rows):
                    rows += run(trial)
                    replace_file(output / "accuracy.json", (json.dumps(rows, indent=1) + "\n").encode())
    text = as_markdown([row | row["parts"].get(part, {}) for row in rows])
    replace_file(output / "accuracy.md", text.encode())
    console.print(text, markup=False, highlight=False)


def categories(data: Path) -> list[Path]:
    """`data` itself if it has a test folder, else its subfolders that have one; raises DataError without any."""
    if (data / "test").is_dir():
        return [data]
    folders = sorted(folder for folder in data.iterdir() if (folder / "test").is_dir()) if data.is_dir() else []
    if not folders:
        raise DataError(f"{data} has neither a test folder nor folders that have one; give MVTec AD's layout")
    return folders


def run(trial: Trial) -> list[Row]:
    """Train once and evaluate: one row for the method, and for ours one row for each head alone."""
    console.print(f"{trial.data.name}: {trial.method}, seed {trial.seed}", highlight=False)
    folder = trial.output / "runs" / trial.data.name / f"{trial.method}-{trial.seed}"
    start = time.monotonic()
    scorers, metadata = (_ours if trial.method in PRESETS else _peer)(trial, folder / "model")
    common = {
        "category": trial.data.resolve().name,
        "seed": trial.seed,
        "effort": trial.effort,
        "settings": list(trial.settings),
        "training_seconds": round(time.monotonic() - start, 1),
        **metadata,
        "machine": environment(),
    }
    rows = []
    for name, scorer in scorers.items():
        output = folder if name == trial.method else None  # one report: the heads alone are for the table
        rows.append({"method": name, **_evaluate(trial, scorer, output, metadata), **common})
        if output is None:
            rows[-1]["ms_per_image"] = rows[0]["ms_per_image"]  # the heads' scores are cached: the time is the method's
    return rows


def _evaluate(trial: Trial, scorer: Scorer, output: Path | None, metadata: dict[str, str]) -> Row:
    """The metrics of all test images, and of each part that has normal and defective ones; a report into `output`."""
    samples = evaluation_samples(trial.data)
    part = part_of(samples, trial.pattern, trial.within)
    galleries = Galleries()
    with Summary() as whole, ExitStack() as stack:
        parts = {name: stack.enter_context(Summary()) for name in PARTS}
        for scored in score_samples(scorer, trial.data, samples):
            for summary in (whole, parts[part[scored.sample.path]]):
                summary.add(scored)
            galleries.add(scored)
        evaluation = whole.evaluation(scorer, trial.data)
        by_part = {
            name: summary.evaluation(scorer, trial.data) for name, summary in parts.items() if summary.has_both_kinds()
        }
    if output is not None:
        write_evaluation(evaluation, galleries, output, f"{trial.data.name}: {trial.method}", metadata)
    measured = {name: {"images": len(of_part.images), **_metrics(of_part)} for name, of_part in by_part.items()}
    return {**_metrics(evaluation), "parts": measured}


class _CachedHeads(TorchBackend):
    """A backend that caches both heads' scores of each image, so that other mixtures of them cost nothing."""

    cache: dict[bytes, tuple[Tensor, Tensor]]

    def tensor_grids(self, images: Tensor, method: str = "dense") -> Tensor:
        key = hashlib.sha256(images.cpu().numpy().tobytes()).digest()
        if key not in self.cache:
            batch = self.model.from_uint8(images)
            with torch.inference_mode():
                self.cache[key] = self.model.head_scores(*self.dense.features(self.model, batch))
        return self.model.combine(*self.cache[key]).reshape(-1, *self._shape)


def _ours(trial: Trial, folder: Path) -> tuple[dict[str, Scorer], dict[str, str]]:
    model, train = trial.read(trial.method)
    train_model(Job(trial.data, folder, overwrite=True), model, train)
    engine = Engine.load(folder, backend="torch")
    backend = engine.backend
    assert isinstance(backend, TorchBackend)
    macs = backend.dense.plan.macs + backend.model.local_macs
    scorers: dict[str, Scorer] = {trial.method: engine}
    cache: dict[bytes, tuple[Tensor, Tensor]] = {}
    for head, weight in (("IAD", 1.0), ("DAD", 0.0)):
        files = dataclasses.replace(engine.files, model=model.model_copy(update={"iad_weight": weight}))
        cached = _CachedHeads(build_model(files), backend.device)
        cached.cache = cache
        scorers[f"{trial.method}, {head} alone"] = Engine(files, cached)
    return scorers, {"gmac": f"{macs / 1e9:.2f}", "size": "{}x{}".format(*model.image_size)}


def _peer(trial: Trial, folder: Path) -> tuple[dict[str, Scorer], dict[str, str]]:
    peer = fitted_peer(trial)
    with FlopCounterMode(display=False) as counter:
        peer.distances(np.zeros((1, *peer.size, 3), np.uint8))
    gmac = counter.get_total_flops() / 2e9
    return {trial.method: peer}, {"gmac": f"{gmac:.2f}", "size": "{}x{}".format(*peer.size)}


def fitted_peer(trial: Trial) -> Peer:
    """A peer fitted at the image size, with the teacher and to the images of the default preset."""
    model, train = trial.read("fast")
    peer_class = next(peer_class for peer_class in PEERS if peer_class.name.lower() == trial.method)
    peer = peer_class(load_teacher(model.teacher), trial.seed, model.resize)
    split = read_split(trial.data, model, train)
    peer.fit(split.train, split.held_out, train)
    return peer


def _metrics(evaluation: Evaluation) -> Row:
    pixel = evaluation.pixel
    return {
        "image_auroc": round(evaluation.image_auroc, 4),
        "pixel_auroc": round(pixel.auroc, 4) if pixel else None,
        "aupro": round(pixel.aupro, 4) if pixel else None,
        "f1_max": round(evaluation.f1_max, 4),
        "ms_per_image": round(evaluation.timing.median_ms, 2),
        "defects": {row.defect: round(row.image_auroc, 4) for row in evaluation.defects},
    }


def _belongs_to(row: Row, trial: Trial) -> bool:
    key = (trial.method, trial.data.resolve().name, trial.seed, trial.effort, list(trial.settings))
    return (row["method"], row["category"], row["seed"], row["effort"], row["settings"]) == key


def _read_rows(path: Path) -> list[Row]:
    try:
        rows: list[Row] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    except ValueError as error:
        raise DataError(f"{path} cannot be read ({error}); move it away to begin a new table") from None
    return rows


def as_markdown(rows: list[Row]) -> str:
    """One table per category, one line per method (mean ± deviation over seeds), and the mean over categories."""
    names = sorted({row["category"] for row in rows})
    parts = [_table(name, [row for row in rows if row["category"] == name]) for name in names]
    if len(names) > 1:
        parts.append(_overall(rows))
    return "\n".join(parts)


def _table(category: str, rows: list[Row]) -> str:
    defects = sorted({defect for row in rows for defect in row["defects"]})
    head = ["method", "seeds", *METRICS, *defects, "training s", "ms per image", "GMAC"]
    lines = [f"### {category}", "", _line(head), _line(["---"] * len(head))]
    for method in dict.fromkeys(row["method"] for row in rows):
        of_method = [row for row in rows if row["method"] == method]
        figures = [_spread([row[name] for row in of_method]) for name in METRICS]
        figures += [_spread([row["defects"].get(defect) for row in of_method]) for defect in defects]
        costs = [f"{mean(row[name] for row in of_method):.0f}" for name in ("training_seconds", "ms_per_image")]
        lines.append(_line([method, str(len(of_method)), *figures, *costs, of_method[0].get("gmac", "")]))
    return "\n".join([*lines, ""])


def _overall(rows: list[Row]) -> str:
    measured = {row["category"] for row in rows}
    lines = ["### mean over categories", "", _line(["method", *METRICS]), _line(["---"] * (1 + len(METRICS)))]
    for method in dict.fromkeys(row["method"] for row in rows):
        of_method = [row for row in rows if row["method"] == method]
        lines.append(_line([method, *(_mean([row[name] for row in of_method]) for name in METRICS)]))
    if measured >= MVTEC_AD:
        lines.append(_line(["Glancing at the Patch, as published", "", "", f"{PAPER_PRO}", ""]))
    return "\n".join([*lines, ""])


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _mean(values: list[float | None]) -> str:
    present = [value for value in values if value is not None]
    return f"{mean(present):.3f}" if present else "-"


def _spread(values: list[float | None]) -> str:
    present = [value for value in values if value is not None]
    return _mean(values) + (f" ± {stdev(present):.3f}" if len(present) > 1 else "")


if __name__ == "__main__":
    typer.run(main)
