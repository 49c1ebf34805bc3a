"""Runs the stages in order, and resumes a killed run at its last checkpoint."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from glance_fast.config import TrainConfig
from glance_fast.errors import TrainingError
from glance_fast.training.base_stage import TrainingStage
from glance_fast.training.checkpoint import Checkpoint, RunPosition, damaged, read_state, save_state
from glance_fast.training.log import LogDigest, TrainingLog
from glance_fast.training.sampling import step_rng

MAX_GRADIENT_NORM = 5.0
# Seconds between checkpoints, which are what a killed run repeats at most: flushing one to the disk takes 10 to 50 ms,
# as long as a step on a GPU.
CHECKPOINT_SECONDS = 1.0
WEIGHT_DECAY = 1e-4
# The learning rate rises over the first of this many parts of a stage, and falls to this share of the highest.
WARMUP_PARTS, FINAL_RATE = 20, 0.01


@dataclass(frozen=True)
class TrainingRun:
    """A run's folder, settings and devices; `fingerprint` identifies the settings and the data."""

    folder: Path
    train: TrainConfig
    fingerprint: str
    fabric: Fabric

    @property
    def state(self) -> Path:
        """The checkpoint of the stage in progress."""
        return self.folder / "state.safetensors"

    def finished(self, stage: TrainingStage) -> Path:
        """The weights of a finished stage."""
        return self.folder / f"{stage.name}.safetensors"

    def rng(self, stage: int, step: int) -> np.random.Generator:
        """The random source of a step on this device."""
        return step_rng(self.train.seed, stage, step, self.fabric.global_rank)

    def position(self, stage: int, step: int, log: LogDigest) -> RunPosition:
        """A position in this run, whose log has come to `log`."""
        return RunPosition(stage=stage, step=step, fingerprint=self.fingerprint, log=log)


@dataclass(frozen=True)
class _StageStart:
    """Where a stage begins: its index, the first step to run, and the checkpoint if that is not step 0."""

    index: int
    step: int
    checkpoint: Checkpoint | None = None


@dataclass(frozen=True)
class _Reporter:
    """The progress bars of a run, and the log, which the first device writes."""

    log: TrainingLog | None
    progress: Progress


def run_stages(run: TrainingRun, stages: list[TrainingStage]) -> None:
    """Train all stages, from the start or from the position in the run's folder."""
    checkpoint = _unfinished(run, stages)
    position = checkpoint.position if checkpoint else run.position(0, 0, LogDigest())
    log = TrainingLog(run.folder / "log.jsonl", position.log) if run.fabric.is_global_zero else None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[loss]}"), disable=run.fabric.global_rank > 0) as progress:
        for index, stage in enumerate(stages[: position.stage]):
            _load_finished(run, stage, index)
            _finalize_statistics(stage, progress)
        start = _StageStart(position.stage, position.step, checkpoint if position.step else None)
        for stage in stages[position.stage :]:
            _run_stage(run, stage, start, _Reporter(log, progress))
            start = _StageStart(start.index + 1, 0)


def _unfinished(run: TrainingRun, stages: Sequence[TrainingStage]) -> Checkpoint | None:
    """The checkpoint in the run's folder, if it has one; TrainingError for a damaged one and for one of another run."""
    if not os.path.lexists(run.state):
        return None
    checkpoint = read_state(run.state, max(map(_max_bytes, stages)))
    position = checkpoint.position
    _check_run(run, checkpoint)
    steps = [*(stage.steps for stage in stages), 0]
    if position.stage > len(stages) or position.step > steps[position.stage]:
        raise damaged(run.state, f"it is at step {position.step} of stage {position.stage}, beyond the end")
    return checkpoint


def _load_finished(run: TrainingRun, stage: TrainingStage, index: int) -> None:
    path = run.finished(stage)
    checkpoint = read_state(path, _max_bytes(stage))
    _check_run(run, checkpoint)
    if checkpoint.position.stage != index:
        raise damaged(path, "it holds another stage")
    checkpoint.restore_module(stage)


def _check_run(run: TrainingRun, checkpoint: Checkpoint) -> None:
    if checkpoint.position.fingerprint != run.fingerprint:
        raise TrainingError(
            f"{run.folder} holds an unfinished run with other settings or other images; use the same settings and "
            "images to resume it, or --restart to discard it"
        )


def _max_bytes(stage: TrainingStage) -> int:
    """Bytes that a checkpoint of a stage cannot exceed: its weights, and a step and two moments of each."""
    return sum(4 * max(int(tensor.nbytes), 4) for tensor in stage.state_dict().values())


def _run_stage(run: TrainingRun, stage: TrainingStage, start: _StageStart, reporter: _Reporter) -> None:
    fabric, progress = run.fabric, reporter.progress
    stage.train()
    optimizer = torch.optim.AdamW(stage.parameters(), lr=run.train.learning_rate, weight_decay=WEIGHT_DECAY)
    if start.checkpoint is not None:
        start.checkpoint.restore_module(stage)
        start.checkpoint.restore_optimizer(optimizer)
    module, wrapped = fabric.setup(stage, optimizer)
    stage.resume([run.rng(start.index, step) for step in range(start.step)])
    task = progress.add_task(f"{stage.name:<9}", total=stage.steps, completed=start.step, loss="")
    saved_at = -math.inf  # the first step is saved
    for step in range(start.step, stage.steps):
        rate = learning_rate(run.train.learning_rate, step, stage.steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        losses = module(*stage.draw(run.rng(start.index, step)))
        total = sum(losses.values(), torch.zeros((), device=fabric.device))
        if not bool(torch.isfinite(total)):
            raise TrainingError(f"stage {stage.name}: the loss is {float(total)} at step {step}; lower learning_rate")
        wrapped.zero_grad()
        fabric.backward(total)
        fabric.clip_gradients(module, wrapped, max_norm=MAX_GRADIENT_NORM, error_if_nonfinite=False)
        wrapped.step()
        if reporter.log is not None:
            values = {name: float(loss.detach()) for name, loss in losses.items()}
            row = {"stage": stage.name, "stage_index": start.index, "step": step, "losses": values, "lr": rate}
            reporter.log.write(row)
            if time.monotonic() - saved_at >= CHECKPOINT_SECONDS:
                save_state(run.state, run.position(start.index, step + 1, reporter.log.sync()), stage, optimizer)
                saved_at = time.monotonic()
            progress.update(task, advance=1, loss="  ".join(f"{n} {v:.4f}" for n, v in values.items()))
    _finish(run, stage, start.index, reporter.log)
    _finalize_statistics(stage, progress)


def _finalize_statistics(stage: TrainingStage, progress: Progress) -> None:
    """Let a finished stage compute its statistics, with a progress bar of its own."""
    stage.eval()
    stage.finalize_statistics(lambda batches: _tracked(batches, f"{stage.name:<9}", progress))


def _tracked(batches: Sequence[NDArray[np.uint8]], name: str, progress: Progress) -> Iterator[NDArray[np.uint8]]:
    task = progress.add_task(name, total=len(batches), loss="statistics")
    for photos in batches:
        yield photos
        progress.advance(task)


def _finish(run: TrainingRun, stage: TrainingStage, index: int, log: TrainingLog | None) -> None:
    """Close a stage: write its weights to their own file first, then move the run's position to the next stage."""
    stage.eval()
    stage.finish()
    if log is not None:
        rows = log.sync()
        save_state(run.finished(stage), run.position(index, stage.steps, rows), stage)
        save_state(run.state, run.position(index + 1, 0, rows), torch.nn.Module())
    run.fabric.barrier()


def learning_rate(highest: float, step: int, steps: int) -> float:
    """Linear warm-up over a twentieth of the steps, then a half cosine down to a hundredth of `highest`."""
    warmup = max(1, steps // WARMUP_PARTS)
    if step < warmup:
        return highest * (step + 1) / warmup
    fraction = (step - warmup) / max(1, steps - warmup)
    return highest * (FINAL_RATE + (1 - FINAL_RATE) * (1 + math.cos(math.pi * fraction)) / 2)
