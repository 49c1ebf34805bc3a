"""Where a run stands: weights, optimizer and place in one safetensors file, replaced whole after every step."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from glance_fast.errors import TrainingError
from glance_fast.storage.atomic_write import replace_file


@dataclass(frozen=True)
class Place:
    """Stage (index) and step that come next, and what the run was started with."""

    stage: int
    step: int
    fingerprint: str


def save_state(path: Path, place: Place, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Replace `path` by the state after a step: the module's tensors and the optimizer's, by parameter number."""
    tensors = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
    for number, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": value for name, value in values.items()}
    packed = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    replace_file(path, save(packed, metadata={"place": json.dumps(place.__dict__)}))


def read_place(path: Path) -> tuple[Place, dict[str, Tensor]]:
    """The place and the tensors in `path`; raises TrainingError for a damaged file."""
    try:
        with safe_open(path, framework="pt") as file:
            place = Place(**json.loads((file.metadata() or {})["place"]))
            return place, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"{path} is damaged ({error}); delete {path.parent} and train again") from error


def load_state(tensors: dict[str, Tensor], module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put saved tensors back into a stage's module and its optimizer."""
    module.load_state_dict({n.removeprefix("module."): t for n, t in tensors.items() if n.startswith("module.")})
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, number, part = name.split(".")
            moments.setdefault(int(number), {})[part] = tensor
    optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})
