"""Runs stages one after the other, and goes on where a killed run stopped."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load, save
from torch import Tensor

from glance_fast.config import TrainConfig
from glance_fast.errors import TrainingError
from glance_fast.storage.atomic_write import replace_file
from glance_fast.training.base_stage import Stage
from glance_fast.training.checkpoint import Place, load_state, read_place, save_state
from glance_fast.training.log import Journal
from glance_fast.training.sampling import step_rng

LONGEST_GRADIENT = 5.0


@dataclass(frozen=True)
class Run:
    """A run's folder, its settings and what it works on; `fingerprint` names the settings and the data."""

    folder: Path
    train: TrainConfig
    fingerprint: str
    fabric: Fabric

    @property
    def state(self) -> Path:
        return self.folder / "state.safetensors"

    def finished(self, stage: Stage) -> Path:
        """Where a finished stage's weights lie."""
        return self.folder / f"{stage.name}.safetensors"


def run_stages(run: Run, stages: list[Stage]) -> None:
    """Train all stages, from the start or from where the run's folder says it stopped."""
    place, tensors = _where(run)
    journal = Journal(run.folder / "log.jsonl", place.stage, place.step)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[loss]}"), disable=run.fabric.global_rank > 0) as progress:
        for stage in stages[: place.stage]:
            stage.load_state_dict(load(run.finished(stage).read_bytes()))
            _derive(stage, progress)
        for index, stage in enumerate(stages[place.stage :], start=place.stage):
            _run_stage(run, stage, Place(index, place.step, run.fingerprint), (tensors, journal, progress))
            place, tensors = Place(index + 1, 0, run.fingerprint), {}


def _where(run: Run) -> tuple[Place, dict[str, Tensor]]:
    if not run.state.exists():
        return Place(0, 0, run.fingerprint), {}
    place, tensors = read_place(run.state)
    if place.fingerprint != run.fingerprint:
        raise TrainingError(
            f"{run.folder} holds an unfinished run with other settings or other images; give the same ones to go on, "
            "or --restart to throw that run away"
        )
    return place, tensors


def _run_stage(run: Run, stage: Stage, start: Place, rest: tuple[dict[str, Tensor], Journal, Progress]) -> None:
    tensors, journal, progress = rest
    fabric = run.fabric
    stage.train()
    optimizer = torch.optim.AdamW(stage.parameters(), lr=run.train.learning_rate, weight_decay=1e-4)
    if tensors:
        load_state(tensors, stage, optimizer)
    module, wrapped = fabric.setup(stage, optimizer)
    stage.resume([_rng(run, start, step) for step in range(start.step)])
    task = progress.add_task(f"{stage.name:<9}", total=stage.steps, completed=start.step, loss="")
    for step in range(start.step, stage.steps):
        rate = learning_rate(run.train.learning_rate, step, stage.steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        losses = module(*stage.draw(_rng(run, start, step)))
        total = sum(losses.values(), torch.zeros((), device=fabric.device))
        if not bool(torch.isfinite(total)):
            raise TrainingError(f"stage {stage.name}: the loss is {float(total)} at step {step}; lower learning_rate")
        wrapped.zero_grad()
        fabric.backward(total)
        fabric.clip_gradients(module, wrapped, max_norm=LONGEST_GRADIENT, error_if_nonfinite=False)
        wrapped.step()
        if fabric.is_global_zero:
            values = {name: float(loss.detach()) for name, loss in losses.items()}
            journal.write({"stage": stage.name, "stage_index": start.stage, "step": step, "losses": values, "lr": rate})
            save_state(run.state, Place(start.stage, step + 1, run.fingerprint), stage, optimizer)
            progress.update(task, advance=1, loss="  ".join(f"{n} {v:.4f}" for n, v in values.items()))
    _finish(run, stage, start.stage)
    _derive(stage, progress)


def _rng(run: Run, start: Place, step: int) -> np.random.Generator:
    return step_rng(run.train.seed, start.stage, step, run.fabric.global_rank)


def _derive(stage: Stage, progress: Progress) -> None:
    """Let a finished stage settle what follows from it, with a bar of its own."""
    stage.eval()
    stage.derive(lambda photos: _tracked(photos, f"{stage.name:<9}", progress))


def _tracked(photos: Sequence[NDArray[np.uint8]], name: str, progress: Progress) -> Iterator[NDArray[np.uint8]]:
    task = progress.add_task(name, total=len(photos), loss="settling")
    for some in photos:
        yield some
        progress.advance(task)


def _finish(run: Run, stage: Stage, index: int) -> None:
    """Close a stage: its weights to their own file first, then the run's place to the next stage."""
    stage.eval()
    stage.finish()
    if run.fabric.is_global_zero:
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in stage.state_dict().items()}
        replace_file(run.finished(stage), save(weights))
        empty = torch.optim.AdamW([torch.zeros(1)])
        save_state(run.state, Place(index + 1, 0, run.fingerprint), torch.nn.Module(), empty)
    run.fabric.barrier()


def learning_rate(highest: float, step: int, steps: int) -> float:
    """Linear warm-up over a twentieth of the steps, then a half cosine down to a hundredth."""
    warm = max(1, steps // 20)
    if step < warm:
        return highest * (step + 1) / warm
    part = (step - warm) / max(1, steps - warm)
    return highest * (0.01 + 0.99 * (1 + math.cos(math.pi * part)) / 2)
