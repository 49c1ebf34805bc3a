"""The teachers that these tests share: EfficientNet-Lite0 and a ResNet-18 with random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from glance_fast.teachers import Teacher, load_teacher
from glance_fast.teachers.resnet18 import resnet18
from tests.helpers.teachers import DIMS, State


@pytest.fixture(scope="session")
def random_state() -> State:
    """A ResNet-18 state dict with random weights and batch statistics that folding must get right."""
    generator = torch.Generator().manual_seed(7)
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in resnet18().state_dict().items()}
    state = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            values *= (2 / shape[1:].numel()) ** 0.5
        elif name.endswith(("running_var", "weight")):
            values = 0.5 + values.abs() / 4
        state[name] = torch.tensor(3) if name.endswith("num_batches_tracked") else values
    return state


@pytest.fixture(scope="session")
def resnet_file(random_state: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(random_state, path)
    return path


@pytest.fixture(scope="session")
def teachers(resnet_file: Path) -> dict[str, Teacher]:
    return {"efficientnet-lite0": load_teacher(), "resnet18": load_teacher("resnet18", resnet_file)}


@pytest.fixture(params=list(DIMS))
def teacher(request: pytest.FixtureRequest, teachers: dict[str, Teacher]) -> Teacher:
    return teachers[request.param]
