"""Checkpoint of a run: weights, optimizer and position in one safetensors file, replaced whole after every step."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from glance_fast.errors import TrainingError
from glance_fast.storage.atomic_write import replace_file

# Metadata keys: of a checkpoint, and of one that version 0.1.0 wrote, with its names of settings and tensors.
POSITION, FORMER_POSITION = "position", "place"


@dataclass(frozen=True)
class RunPosition:
    """Index of the stage and number of the step to run next, and the fingerprint of the run's settings and data."""

    stage: int
    step: int
    fingerprint: str


def save_state(path: Path, position: RunPosition, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Replace `path` by the state after a step: the module's tensors and the optimizer's, by parameter number."""
    tensors = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
    for number, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": value for name, value in values.items()}
    packed = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    replace_file(path, save(packed, metadata={POSITION: json.dumps(asdict(position))}))


def read_state(path: Path) -> tuple[RunPosition, dict[str, Tensor]]:
    """The position and the tensors in `path`; TrainingError for a damaged file or one of an earlier version."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if FORMER_POSITION in metadata:
                raise TrainingError(
                    f"{path.parent} holds an unfinished run of glance_fast 0.1.0, which this version cannot continue; "
                    "finish it with 0.1.0, or use --restart to discard it"
                )
            position = RunPosition(**json.loads(metadata[POSITION]))
            return position, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"{path} is damaged ({error}); delete {path.parent} and train again") from error


def load_state(tensors: dict[str, Tensor], module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Load saved tensors into a stage's module and its optimizer."""
    module.load_state_dict({n.removeprefix("module."): t for n, t in tensors.items() if n.startswith("module.")})
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, number, moment = name.split(".")
            moments.setdefault(int(number), {})[moment] = tensor
    optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})
