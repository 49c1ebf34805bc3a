"""The plan: locations that see nothing, impossible holes and layers, and no need of PyTorch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from glance_fast.dense.loop import LoopPass
from glance_fast.errors import ConfigError
from glance_fast.models.global_net import GlobalNet, global_layers
from glance_fast.plan.layer import conv, pool
from glance_fast.plan.plan import compile_plan
from tests.helpers.models import tiny_model


@pytest.mark.parametrize(
    "channels, patch, readout, blind",
    [((4,), 8, 1, 9), ((4, 4, 4), 8, 1, 0), ((4,), 8, 6, 9), ((4,), 8, 7, 0), ((4,), 2, 1, 0)],
)
def test_blind_counts_locations_that_see_nothing(
    channels: tuple[int, ...], patch: int, readout: int, blind: int
) -> None:
    holes = ([4, 10, 20], [4, 10, 20])
    plan = compile_plan(global_layers(channels, 1), (32, 32), patch, holes, readout)
    assert plan.blind() == blind


def test_blind_counts_locations_at_the_border() -> None:
    """At a border the field is cut off: only there the hole covers it."""
    torch.manual_seed(0)
    plan = compile_plan(global_layers((4, 4, 4), 1), (48, 48), 20, ([0, 14], [0, 14]))
    net = GlobalNet(global_layers((4, 4, 4), 1), 5).double()
    with torch.no_grad():
        actual = LoopPass(plan)(net, torch.randn(1, 3, 48, 48, dtype=torch.float64))[0]
    nothing = int((actual == net.project.bias).all(dim=1).sum())
    assert plan.blind() == nothing
    assert 0 < nothing < plan.locations


def test_a_model_that_sees_nothing_is_refused_with_what_to_do() -> None:
    model = tiny_model(global_channels=(6,))
    with pytest.raises(ConfigError, match=r"at 30 of 30 locations the 16-pixel hole .* use more global_channels"):
        model.compile_plan()


@pytest.mark.parametrize("holes", [([], [0]), ([0], []), ([-8], [0]), ([0], [0, 20]), ([16], [0])], ids=str)
def test_impossible_holes_are_refused(holes: tuple[list[int], list[int]]) -> None:
    with pytest.raises(ConfigError, match=r"holes of 8 pixels must start from -7 to (15|19), got \["):
        compile_plan([conv(4)], (16, 20), 8, holes)


def test_impossible_layers_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"layer 1 \(pool\) has no cell left on an image of \(3, 20\)"):
        compile_plan([conv(4), pool(4, 4)], (3, 20), 2, ([0], [0]))
    with pytest.raises(ConfigError, match=r"the last level has \(4, 5\) cells, fewer than a read-out of 5"):
        compile_plan([pool(3, 4)], (16, 20), 8, ([0], [0]), readout=5)
    with pytest.raises(ConfigError, match=r"a pool keeps the channels .* got channels \[4, 5\]"):
        compile_plan([conv(4), pool(5)], (16, 20), 8, ([0], [0]))


def test_a_plan_is_compiled_without_torch() -> None:
    code = (
        "import sys; from glance_fast.plan.plan import compile_plan; from glance_fast.plan.layer import conv, pool\n"
        "print(compile_plan([conv(4), pool(4)], (16, 16), 8, ([0, 8], [4])).macs, 'torch' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split()[1] == "False"
