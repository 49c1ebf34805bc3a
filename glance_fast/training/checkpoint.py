"""Checkpoints of a run: weights, optimizer and position in one safetensors file, with a hash of all of it.

A file is replaced whole, every second and at the end of every stage. The hash is part of the file, so that the two
cannot be of different steps.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from glance_fast.data.regular_file import read_regular
from glance_fast.errors import TrainingError
from glance_fast.storage.atomic_write import replace_file
from glance_fast.storage.checked_files import faults
from glance_fast.storage.strict_json import parse_object
from glance_fast.storage.tensor_file import MAX_HEADER_BYTES, read_header
from glance_fast.training.log import LogDigest

# Metadata keys: of a checkpoint, and of one that version 0.1.0 wrote, with its names of settings and tensors.
POSITION, DIGEST, FORMER_POSITION = "position", "sha256", "place"
MODULE, OPTIMIZER = "module.", "optimizer."


class RunPosition(BaseModel):
    """Index of the stage and number of the step to run next, the fingerprint of settings and data, and the log so far.

    `fingerprint` identifies the run's settings and data.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    stage: int = Field(ge=0)
    step: int = Field(ge=0)
    fingerprint: str
    log: LogDigest


@dataclass(frozen=True)
class Checkpoint:
    """A checked file of a run: its position, and the tensors of a stage's module and optimizer by name."""

    path: Path
    position: RunPosition
    tensors: dict[str, Tensor]

    def restore_module(self, module: nn.Module) -> None:
        """Load the saved tensors into a stage's module; TrainingError where they are those of another."""
        saved = {n.removeprefix(MODULE): tensor for n, tensor in self.tensors.items() if n.startswith(MODULE)}
        self._check({n: t.shape for n, t in module.state_dict().items()}, saved)
        module.load_state_dict(saved)

    def restore_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Load the saved moments, which every parameter has, into an AdamW optimizer; TrainingError likewise."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        saved = {n.removeprefix(OPTIMIZER): tensor for n, tensor in self.tensors.items() if n.startswith(OPTIMIZER)}
        shapes = {
            f"{number}.{name}": shape
            for number, parameter in enumerate(parameters)
            for name, shape in (("step", torch.Size()), ("exp_avg", parameter.shape), ("exp_avg_sq", parameter.shape))
        }
        self._check(shapes, saved)
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in saved.items():
            number, _, moment = name.partition(".")
            moments.setdefault(int(number), {})[moment] = tensor
        optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})

    def _check(self, due: dict[str, torch.Size], saved: dict[str, Tensor]) -> None:
        if due != {name: tensor.shape for name, tensor in saved.items()}:
            raise damaged(self.path, "its tensors are not those of this stage")


def save_state(
    path: Path, position: RunPosition, module: nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> None:
    """Replace `path` by the state after a step: the module's tensors and the optimizer's, by parameter number."""
    tensors = {f"{MODULE}{name}": tensor for name, tensor in module.state_dict().items()}
    for number, values in optimizer.state_dict()["state"].items() if optimizer else ():
        tensors |= {f"{OPTIMIZER}{number}.{name}": value for name, value in values.items()}
    packed = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = position.model_dump_json()
    replace_file(path, save(packed, metadata={POSITION: text, DIGEST: _digest(text, packed)}))


def read_state(path: Path, limit: int) -> Checkpoint:
    """The checkpoint in `path`, of at most `limit` bytes of tensors.

    Raises TrainingError for a damaged file and for one of an earlier version.
    """
    try:
        data = read_regular(path, MAX_HEADER_BYTES + limit)
        metadata = read_header(data).metadata
        if FORMER_POSITION in metadata:
            raise TrainingError(
                f"{path.parent} holds an unfinished run of glance_fast 0.1.0, which this version cannot continue; "
                "finish it with 0.1.0, or use --restart to discard it"
            )
        if missing := {POSITION, DIGEST} - set(metadata):
            raise damaged(path, f"it has no {' and no '.join(sorted(missing))}")
        text, tensors = metadata[POSITION], load(data)
        if metadata[DIGEST] != _digest(text, tensors):
            raise damaged(path, "wrong SHA-256")
        return Checkpoint(path, RunPosition.model_validate(parse_object(text.encode())), tensors)
    except ValidationError as error:
        raise damaged(path, faults(error)) from None
    except OSError as error:
        raise damaged(path, error.strerror or str(error)) from None
    except (SafetensorError, ValueError) as error:
        raise damaged(path, str(error)) from None


def damaged(path: Path, fault: str) -> TrainingError:
    """The error for a file of an unfinished run that is not as the run left it."""
    return TrainingError(
        f"{path} is damaged ({fault}); the unfinished run cannot go on: restore the file, or use --restart to discard "
        "the run and train again"
    )


def _digest(position: str, tensors: dict[str, Tensor]) -> str:
    """SHA-256 of a position's text and of the names, dtypes, shapes and bytes of tensors."""
    digest = hashlib.sha256(position.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
