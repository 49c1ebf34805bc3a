"""The paper's stages in their order: what each computes, and which weights it moves.

    distil     D(L(p)) → R(p)           l_k on patches, plain and stained
    fine-tune  l_k + w · l_c + v · l_s  on normal and stained patches; then z_l is brought to mean 0, variance 1
    global     s_IAD(z_l, z_g)          through the dense pass, many holes an image; L is frozen
    dad        C(z_l, z_g) → normal?    normal locations against stained ones; L and G are frozen

A Local-Net that is the teacher's own beginning has nothing to learn: it starts at the third.
"""

from __future__ import annotations

import torch
from torch import nn

from glance_fast.training.base_stage import Context, Stage
from glance_fast.training.dad_stage import Judge
from glance_fast.training.distillation import Distil, FineTune
from glance_fast.training.global_stage import Expect


def build_stages(context: Context) -> list[Stage]:
    """The stages of a run, on one model; what they start from depends on the seed alone."""
    train, config = context.train, context.model.config
    stages: list[Stage] = []
    if config.local_net == "plain":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(train.seed)
            decoder = nn.Linear(config.features, context.teacher.dim).to(context.device)
            stages += [
                Distil(context, train.distil_steps, decoder),
                FineTune(context, train.finetune_steps, decoder),
            ]
    return [*stages, Expect(context, train.global_steps), Judge(context, train.dad_steps)]
