"""The learning rate, the log and the saved state of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from glance_fast.errors import TrainingError
from glance_fast.training.checkpoint import RunPosition, load_state, read_state, save_state
from glance_fast.training.log import TrainingLog, read_rows
from glance_fast.training.runner import learning_rate


def test_the_learning_rate_warms_up_and_ends_at_a_hundredth() -> None:
    rates = [learning_rate(1.0, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == 1.0
    assert rates[-1] < 0.02
    assert learning_rate(1.0, 0, 1) == 1.0


def test_the_log_drops_rows_after_the_checkpoint_and_an_incomplete_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    rows = [{"stage": "a", "stage_index": 0, "step": step, "losses": {}} for step in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"stage": "a", "st')
    TrainingLog(path, 0, 2)
    assert [row["step"] for row in read_rows(path)] == [0, 1]


def test_a_checkpoint_is_read_as_it_was_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    nets = [nn.Linear(3, 2) for _ in range(2)]
    optimizers = [torch.optim.AdamW(net.parameters()) for net in nets]
    nets[0](torch.ones(1, 3)).sum().backward()
    optimizers[0].step()
    save_state(tmp_path / "state", RunPosition(1, 7, "x"), nets[0], optimizers[0])
    position, tensors = read_state(tmp_path / "state")
    load_state(tensors, nets[1], optimizers[1])
    assert position == RunPosition(1, 7, "x")
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(a, b)
        for name, value in optimizers[0].state[a].items():
            assert torch.equal(value, optimizers[1].state[b][name])


def test_a_state_cut_anywhere_is_an_error_that_names_it(tmp_path: Path) -> None:
    path, net = tmp_path / "state", nn.Linear(3, 2)
    save_state(path, RunPosition(0, 1, "x"), net, torch.optim.AdamW(net.parameters()))
    whole = path.read_bytes()
    for length in range(0, len(whole), 5):
        path.write_bytes(whole[:length])
        with pytest.raises(TrainingError, match="state is damaged"):
            read_state(path)
