"""The learning rate, the log and the saved state of a run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import nn

from glance_fast.errors import TrainingError
from glance_fast.training.checkpoint import RunPosition, read_state, save_state
from glance_fast.training.log import LogDigest, TrainingLog, read_rows
from glance_fast.training.runner import learning_rate


def test_the_learning_rate_warms_up_and_ends_at_a_hundredth() -> None:
    rates = [learning_rate(1.0, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == 1.0
    assert rates[-1] < 0.02
    assert learning_rate(1.0, 0, 1) == 1.0


def log_of(path: Path, steps: int) -> TrainingLog:
    log = TrainingLog(path, LogDigest())
    for step in range(steps):
        log.write({"stage": "a", "step": step, "losses": {}})
    return log


def test_the_log_drops_rows_after_the_checkpoint_and_an_incomplete_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = log_of(path, 2)
    kept = log.digest
    log.write({"stage": "a", "step": 2, "losses": {}})
    with path.open("a") as file:
        file.write('{"stage": "a", "st')
    assert TrainingLog(path, kept).digest == kept
    assert [row["step"] for row in read_rows(path)] == [0, 1]
    TrainingLog(path, LogDigest())
    assert read_rows(path) == []


@pytest.mark.parametrize("change", ["cut", "flipped", "missing", "FIFO"])
def test_a_log_that_is_not_the_runs_own_is_named(tmp_path: Path, change: str) -> None:
    path = tmp_path / "log.jsonl"
    kept, whole = log_of(path, 3).digest, path.read_bytes()
    path.write_bytes(whole[:-1] if change == "cut" else whole.replace(b"1", b"2"))
    if change in ("missing", "FIFO"):
        path.unlink()
    if change == "FIFO":
        os.mkfifo(path)
    with pytest.raises(TrainingError, match=r"log.jsonl (is not the log|cannot be read).* or use --restart"):
        TrainingLog(path, kept)


def position(stage: int, step: int) -> RunPosition:
    return RunPosition(stage=stage, step=step, fingerprint="x", log=LogDigest())


def trained(net: nn.Module) -> torch.optim.AdamW:
    """The optimizer of a net after a step."""
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return optimizer


def test_a_checkpoint_is_read_as_it_was_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    nets = [nn.Linear(3, 2) for _ in range(2)]
    optimizers = trained(nets[0]), torch.optim.AdamW(nets[1].parameters())
    save_state(tmp_path / "state", position(1, 7), nets[0], optimizers[0])
    checkpoint = read_state(tmp_path / "state", 1000)
    checkpoint.restore_module(nets[1])
    checkpoint.restore_optimizer(optimizers[1])
    assert checkpoint.position == position(1, 7)
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(a, b)
        for name, value in optimizers[0].state[a].items():
            assert torch.equal(value, optimizers[1].state[b][name])


def test_a_damaged_state_is_an_error_that_names_it(tmp_path: Path) -> None:
    path, net = tmp_path / "state", nn.Linear(3, 2)
    save_state(path, position(0, 1), net, trained(net))
    whole = path.read_bytes()
    changed = [whole[:length] for length in range(0, len(whole), 5)]
    changed += [whole[:i] + bytes([whole[i] ^ bit]) + whole[i + 1 :] for i in range(len(whole)) for bit in (1, 128)]
    for data in changed:
        path.write_bytes(data)
        with pytest.raises(TrainingError, match=r"state is damaged .* or use --restart"):
            read_state(path, 1000)


@pytest.mark.parametrize("net", [nn.Linear(4, 2), nn.Linear(3, 2, bias=False), nn.Sequential(nn.Linear(3, 2))], ids=str)
def test_a_state_of_another_stage_is_named(tmp_path: Path, net: nn.Module) -> None:
    path, saved = tmp_path / "state", nn.Linear(3, 2)
    save_state(path, position(0, 1), saved, trained(saved))
    with pytest.raises(TrainingError, match="its tensors are not those of this stage"):
        read_state(path, 1000).restore_module(net)


def test_a_state_without_the_moments_of_every_weight_is_refused(tmp_path: Path) -> None:
    path, net = tmp_path / "state", nn.Linear(3, 2)
    save_state(path, position(0, 1), net)
    with pytest.raises(TrainingError, match="its tensors are not those of this stage"):
        read_state(path, 1000).restore_optimizer(torch.optim.AdamW(net.parameters()))


def test_a_state_is_not_waited_for_and_its_size_is_bounded(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(TrainingError, match="a FIFO"):
        read_state(tmp_path / "fifo", 1000)
    (tmp_path / "giant").touch()
    os.truncate(tmp_path / "giant", 2**40)
    with pytest.raises(TrainingError, match="at most"):
        read_state(tmp_path / "giant", 1000)


def test_a_state_without_a_hash_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(save({}, metadata={"position": position(0, 1).model_dump_json()}))
    with pytest.raises(TrainingError, match=r"state is damaged \(it has no sha256\)"):
        read_state(tmp_path / "state", 1000)


def test_rows_of_the_log_are_on_the_disk_before_a_checkpoint_vouches_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed, sync = list[int](), os.fsync
    log = TrainingLog(tmp_path / "log.jsonl", LogDigest())

    def synced(descriptor: int) -> None:
        flushed.append(os.fstat(descriptor).st_size)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    log.write({"step": 0})
    assert flushed == [], "not after every step"
    assert log.sync() == log.digest and flushed == [log.digest.size]
