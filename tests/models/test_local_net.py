"""Local-Net sees its patch and nothing else, and gives the same on images as on cut-out patches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from glance_fast.models.local_net import DistilledLocalNet, windows_for
from glance_fast.plan.patches import grid_starts
from tests.helpers.tolerances import DTYPES, assert_close


def local_net(patch: int, channels: tuple[int, ...] = (3, 4)) -> DistilledLocalNet:
    torch.manual_seed(patch)
    net = DistilledLocalNet(patch, 5, channels).double()
    with torch.no_grad():
        for conv in net.convs:
            assert isinstance(conv, torch.nn.Conv2d)
            assert conv.bias is not None
            conv.bias.normal_(0, 0.1)
    return net


def images(size: tuple[int, int], batch: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, *size, generator=generator, dtype=torch.float64)


def test_windows_cover_the_patch_exactly() -> None:
    for patch in range(8, 513):
        field, jump = 1, 1
        for window in windows_for(patch):
            assert window.kernel >= 1 and window.stride in (1, 2)
            field, jump = field + (window.kernel - 1) * jump, jump * window.stride
        assert field == patch


@pytest.mark.parametrize("patch", [*range(8, 41), 47, 63, 64, 65, 96, 127, 128])
def test_gradients_reach_the_whole_patch_and_no_further(patch: int) -> None:
    net = local_net(patch)
    with torch.no_grad():
        # Positive weights, lest a ReLU or a chance zero hides a pixel.
        for weight in net.parameters():
            weight.abs_().clamp_(min=1e-3)
    margin = 3
    image = torch.ones(1, 3, patch + 2 * margin, patch + 2 * margin, dtype=torch.float64, requires_grad=True)
    out = net(image, 1)
    assert out.shape == (1, 5, 2 * margin + 1, 2 * margin + 1)
    out[0, :, margin, margin].sum().backward()
    assert image.grad is not None
    expected = torch.zeros(image.shape[2:], dtype=torch.bool)
    expected[margin : margin + patch, margin : margin + patch] = True
    assert torch.equal((image.grad[0] != 0).all(dim=0), expected)
    assert torch.equal((image.grad[0] != 0).any(dim=0), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("patch", [8, 11, 16, 19, 32])
@pytest.mark.parametrize("step", [1, 2, 3, 4, 6, 7, 8, 16, 40])
@pytest.mark.parametrize("size", [(37, 53), (64, 41)], ids=str)
def test_an_image_gives_the_features_of_its_patches(
    dtype: torch.dtype, patch: int, step: int, size: tuple[int, int]
) -> None:
    net, image = local_net(patch), images(size)
    rows, cols = (grid_starts(side, patch, step) for side in size)
    # The first, the last and a sample of the patches between: all of them at step 1 are over a thousand.
    row_sample, col_sample = ([*range(0, len(all_), max(1, len(all_) // 4)), -1] for all_ in (rows, cols))
    with torch.no_grad():
        single = [
            net(image[:, :, rows[y] : rows[y] + patch, cols[x] : cols[x] + patch])
            for y in row_sample
            for x in col_sample
        ]
        assert all(part.shape == (2, 5, 1, 1) for part in single)
        actual = net.to(dtype)(image.to(dtype), step)
    assert actual.shape == (2, 5, len(rows), len(cols))
    reference = torch.cat(single, dim=2).view(2, 5, len(row_sample), len(col_sample))
    assert_close(actual[:, :, row_sample][:, :, :, col_sample], reference, dtype)


def test_one_patch_is_the_image() -> None:
    net, image = local_net(17), images((17, 17))
    for step in (1, 3, 8, 17):
        assert_close(net(image, step), net(image).detach(), torch.float64)


def test_gradients_through_an_image_are_those_through_patches() -> None:
    net, image = local_net(11), images((23, 29))
    weights = list(net.parameters())
    patches = [image[:, :, y : y + 11, x : x + 11] for y in range(0, 13, 3) for x in range(0, 19, 3)]
    # A different weight for each patch, so that exchanged patches are noticed.
    pull = images((5, 7), seed=1)[:, 0]
    expected = torch.autograd.grad((net(torch.cat(patches)).sum(1).flatten() * by_patch(pull)).sum(), weights)
    actual = torch.autograd.grad((net(image, 3).sum(1) * pull).sum(), weights)
    for gradient, reference in zip(actual, expected, strict=True):
        assert_close(gradient, reference, torch.float64)


def by_patch(pull: Tensor) -> Tensor:
    """[B, h, w] in the order of patches, each for the whole batch."""
    return pull.flatten(1).T.flatten()


@pytest.mark.parametrize(
    "patch, step, size", [(32, 8, (64, 96)), (19, 5, (37, 53)), (8, 1, (20, 33)), (16, 48, (50, 17))]
)
def test_macs_are_those_that_are_counted(patch: int, step: int, size: tuple[int, int]) -> None:
    net = local_net(patch)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(images(size, batch=1), step)
    assert net.macs(size, step) == counter.get_total_flops() // 2


def test_the_last_width_serves_all_further_convolutions() -> None:
    net = DistilledLocalNet(64, 5, (3, 4))
    widths = [conv.weight.shape[0] for conv in net.convs if isinstance(conv, torch.nn.Conv2d)]
    assert widths == [3] + [4] * (len(net.windows) - 1)
    assert len(DistilledLocalNet(8, 5, (3, 4, 5, 6, 7, 8)).convs) == len(windows_for(8))
