"""Tiny runs of training: `python -m tests.helpers.training DATA OUTPUT DEVICES` is a run in its own process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from glance_fast.config import TrainConfig
from glance_fast.stains import default_stains
from glance_fast.teachers import Teacher
from glance_fast.training.base_stage import Context
from glance_fast.training.train import Job, train_model
from tests.helpers.models import tiny_config, tiny_model

TRAIN = TrainConfig(
    seed=5, distil_steps=3, finetune_steps=3, global_steps=3, dad_steps=3, patches_per_step=16,
    images_per_step=2, holes_per_axis=2, dad_images_per_step=2,
    false_alarm_rate=0.25,
)  # fmt: skip


def stage_context(teacher: Teacher, train: TrainConfig = TRAIN) -> Context:
    pixels = np.random.default_rng(1).integers(40, 220, (6, 48, 56, 3), dtype=np.uint8)
    return Context(tiny_model(), teacher, train, pixels, pixels, pixels, default_stains())


def start_training(data: Path, output: Path, devices: int = 1) -> subprocess.Popen[bytes]:
    """Training in a process of its own, that can be killed."""
    command = [sys.executable, "-m", "tests.helpers.training", str(data), str(output), str(devices)]
    root = str(Path(__file__).parents[2])
    env = os.environ | {"PYTHONPATH": root}
    return subprocess.Popen(command, env=env, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish_training(process: subprocess.Popen[bytes], timeout: float = 120) -> None:
    """Wait for a run, which must succeed."""
    _, errors = process.communicate(timeout=timeout)
    assert process.returncode == 0, errors.decode()


if __name__ == "__main__":
    torch.set_num_threads(1)
    data, output, devices = sys.argv[1:]
    job = Job(Path(data), Path(output))
    train_model(job, tiny_config(), TRAIN.model_copy(update={"devices": int(devices)}))
