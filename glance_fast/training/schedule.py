"""The stages of a run in order: what each computes, and which weights it trains.

    distil     D(L(p)) → R(p)           l_k on patches, normal and stained
    fine-tune  l_k + w · l_c + v · l_s  on normal and stained patches; then z_l is brought to mean 0, variance 1
    global     s_IAD(z_l, z_g)          through the dense pass, many holes per image; L is frozen
    dad        C(z_l, z_g) → normal?    normal locations against stained ones; L and G are frozen

A pretrained Local-Net is not trained: it has the last two stages only.
"""

from __future__ import annotations

import torch
from torch import nn

from glance_fast.training.base_stage import Context, TrainingStage
from glance_fast.training.dad_stage import DadStage
from glance_fast.training.distillation import DistillationStage, FineTuningStage
from glance_fast.training.global_stage import GlobalNetStage


def build_stages(context: Context) -> list[TrainingStage]:
    """The stages of a run, on one model; their initial weights depend on the seed alone."""
    train, config = context.train, context.model.config
    stages: list[TrainingStage] = []
    if config.local_net == "distilled":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(train.seed)
            decoder = nn.Linear(config.features, context.teacher.dim).to(context.device)
            stages += [
                DistillationStage(context, train.distil_steps, decoder),
                FineTuningStage(context, train.finetune_steps, decoder),
            ]
    return [*stages, GlobalNetStage(context, train.global_steps), DadStage(context, train.dad_steps)]
