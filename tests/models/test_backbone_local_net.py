"""The pretrained Local-Net computes what the teacher computes, from its patch alone, and the same on images."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from glance_fast.config import ModelConfig, TrainConfig
from glance_fast.errors import ConfigError
from glance_fast.models import context_net
from glance_fast.models.backbone_local_net import PATCH, WIDTH, PretrainedLocalNet, feature_map_spec
from glance_fast.models.model import GlanceModel
from glance_fast.plan.patches import FeatureMapSpec, grid_starts
from glance_fast.presets import PRESETS
from glance_fast.stains import default_stains
from glance_fast.teachers import Teacher, load_teacher
from glance_fast.training.backbone_init import copy_teacher, fit_to_photographs
from glance_fast.training.base_stage import Context
from tests.helpers.tolerances import DTYPES, assert_close


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return load_teacher()


@pytest.fixture(scope="module")
def net(teacher: Teacher) -> PretrainedLocalNet:
    torch.manual_seed(0)
    net = PretrainedLocalNet(7)
    copy_teacher(net, teacher)
    return net.double()


def images(size: tuple[int, int], batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def test_a_patch_is_what_the_last_cell_sees(net: PretrainedLocalNet) -> None:
    assert (PATCH, WIDTH) == (83, 168)
    margin = 8
    image = images((PATCH + 2 * margin,) * 2, 1).requires_grad_()
    net(image, 8)[0, :, 1, 1].sum().backward()
    assert image.grad is not None
    touched = torch.nonzero(image.grad[0].abs().sum(0))
    assert touched.min(0).values.tolist() == [margin, margin]
    assert touched.max(0).values.tolist() == [margin + PATCH - 1] * 2


def test_the_presets_center_offset_is_the_centre_of_the_networks_gradient(net: PretrainedLocalNet) -> None:
    """The squared gradient is centred before the patch's centre with the teacher's weights, not with random ones."""
    expected = PRESETS["fast"]["model"]["center_offset"]
    assert expected == PRESETS["accurate"]["model"]["center_offset"]
    assert _center_offset(net) == pytest.approx([-expected, -expected], abs=0.5)
    assert _center_offset(PretrainedLocalNet(7).double()) == pytest.approx([0, 0], abs=1.5)


def _center_offset(net: PretrainedLocalNet) -> list[float]:
    """Offset of the last block's squared gradient from a patch's centre, in pixels along each axis."""
    patches = images((PATCH, PATCH), 48).requires_grad_()
    features = net.last_tap(net.tap_features(patches))
    weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(features, patches, weights)
    energy, position = gradient.square().sum((0, 1)), torch.arange(PATCH) - (PATCH - 1) / 2
    return [float((energy.sum(1 - axis) * position).sum() / energy.sum()) for axis in (0, 1)]


def test_inside_an_image_it_is_the_teacher(net: PretrainedLocalNet, teacher: Teacher) -> None:
    """The teacher's cell j of stride 8 sees 67 pixels from 8j - 26 on: ours, 6 pixels in, are its cells from 4 on."""
    picture = images((256, 256), 1)
    with torch.no_grad():
        teacher_features = deepcopy(teacher.stages[0]).double()(picture)
        taps = net.tap_features(picture[:, :, 6:, 6:], 8)
        feature_map = net.encode(picture[:, :, 6:, 6:], 8).feature_map
    patches = taps.shape[2]
    assert patches == 21
    expected = torch.nn.functional.avg_pool2d(teacher_features[0], 3, 1)[:, 4 : 4 + patches, 4 : 4 + patches]
    assert_close(taps[0, 80:120], expected, torch.float64)
    assert feature_map.shape == (1, 24, 58, 58)


@pytest.mark.parametrize("block, kernel, stride, channels", [(2, 19, 4, 24), (3, 35, 8, 40), (4, 67, 8, 40)])
def test_global_net_reads_what_no_pixel_of_a_hole_reaches(
    teacher: Teacher, block: int, kernel: int, stride: int, channels: int
) -> None:
    """Of the map behind a block exactly the cells of a hole change where its pixels do, whatever the step."""
    assert feature_map_spec(block) == FeatureMapSpec(kernel, stride, channels)
    net = PretrainedLocalNet(5, feature_block=block)
    copy_teacher(net, teacher)
    picture = images((260, 240), 1)
    erased = picture.clone()
    erased[:, :, 80 : 80 + PATCH, 72 : 72 + PATCH] = 0
    with torch.no_grad():
        before, after = (net.double().feature_map(image) for image in (picture, erased))
        for step in (stride, 3 * stride):
            assert_close(net.encode(picture, step).feature_map, before, torch.float64)
    rows, cols = net.feature_map_spec.hole(80, PATCH), net.feature_map_spec.hole(72, PATCH)
    changed = torch.nonzero((before != after).any(1)[0])
    assert changed.min(0).values.tolist() == [rows.start, cols.start]
    assert changed.max(0).values.tolist() == [rows.stop - 1, cols.stop - 1]
    assert len(changed) == len(rows) * len(cols)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("step", [4, 8, 12, 16, 20, 32])
@pytest.mark.parametrize("size", [(99, 122), (160, 83)], ids=str)
def test_an_image_gives_the_features_of_its_patches(
    teacher: Teacher, dtype: torch.dtype, step: int, size: tuple[int, int]
) -> None:
    torch.manual_seed(1)
    net = PretrainedLocalNet(5)
    copy_teacher(net, teacher)
    net, picture = net.double(), images(size)
    rows, cols = (grid_starts(side, PATCH, step) for side in size)
    with torch.no_grad():
        single = [net(picture[:, :, y : y + PATCH, x : x + PATCH]) for y in rows for x in cols]
        reference = torch.cat(single, dim=2).view(2, 5, len(rows), len(cols))
        assert_close(net.to(dtype)(picture.to(dtype), step), reference, dtype)


def test_context_features_are_the_teachers_next_blocks(teacher: Teacher) -> None:
    net = PretrainedLocalNet(7, context_features=3)
    copy_teacher(net, teacher)
    context = net.double().context_net
    assert context is not None
    cells = torch.randn(2, 80, 7, 10, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    goes_on = deepcopy(teacher.stages[1]).double()
    assert isinstance(goes_on, torch.nn.Sequential)
    with torch.no_grad():
        expected = goes_on[1:](cells)
        assert_close(context.block_features(cells, 16), expected, torch.float64)
        assert_close(context(cells, 16), context.project(expected), torch.float64)
        # Patches 8 pixels apart: every second is taken, the others lie half-way, beyond the last it goes on as it ends.
        finer = context(cells.repeat_interleave(2, 2).repeat_interleave(2, 3), 8)
        along = context.project(expected)
        assert_close(finer[:, :, ::2, ::2], along, torch.float64)
        assert_close(finer[:, :, 1:-1:2, ::2], (along[:, :, 1:] + along[:, :, :-1]) / 2, torch.float64)
        assert_close(finer[:, :, -1, ::2], along[:, :, -1], torch.float64)


@pytest.mark.parametrize("step", [4, 8, 12, 16, 20])
def test_upsampling_weights_interpolate_the_sampled_locations(step: int) -> None:
    weights = context_net.upsampling_weights(9, step, torch.zeros(1, dtype=torch.float64))
    assert weights.shape == (9, -(-9 // max(1, 16 // step)))
    assert_close(weights.sum(1), torch.ones(9, dtype=torch.float64), torch.float64)
    assert torch.equal(weights[:: max(1, 16 // step)], torch.eye(weights.shape[1], dtype=torch.float64))


@pytest.mark.parametrize("context_features", [0, 3])
@pytest.mark.parametrize("step", [4, 8, 16])
def test_macs_are_those_that_are_counted(step: int, context_features: int) -> None:
    net = PretrainedLocalNet(7, context_features).double()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(images((131, 108), 1), step)
    means = 17 * 17 * 24 + 5 * 5 * 24 + 3 * 3 * 40 + 80
    locations = len(grid_starts(131, PATCH, step)) * len(grid_starts(108, PATCH, step))
    # Means over dilated cells are convolutions to the counter, at most all of them; and it counts the interpolation.
    interpolation = context_features * locations * (locations + 1)
    assert 0 <= counter.get_total_flops() // 2 - net.macs((131, 108), step) <= 4 * locations * means + interpolation


def test_the_projection_takes_the_main_directions_with_mean_zero(teacher: Teacher) -> None:
    config = ModelConfig(local_net="pretrained", patch=83, stride=8, border_padding=38, features=9, image_size=(64, 72))
    model = GlanceModel(config)
    assert isinstance(model.local_net, PretrainedLocalNet)
    copy_teacher(model.local_net, teacher)
    photos = np.random.default_rng(0).integers(0, 255, (20, 64, 72, 3), dtype=np.uint8)
    context = Context(model, teacher, TrainConfig(), photos, photos, photos, default_stains())
    fit_to_photographs(model.local_net, context, iter)
    with torch.no_grad():
        padded = model.padded(model.from_uint8(torch.from_numpy(photos)))
        z = model.local_net(padded, 8).flatten(2).double()
    assert z.mean((0, 2)).abs().max() < 1e-3
    within = z - z.mean(0)
    covariance = torch.einsum("bil,bjl->ij", within, within) / (z.shape[0] * z.shape[2])
    spread = covariance.diagonal()
    assert (spread.diff() <= 1e-6).all(), "the strongest direction comes first"
    assert (covariance - torch.diag(spread)).abs().max() < 1e-3 * spread.max()


@pytest.mark.parametrize(
    "wrong",
    [{"patch": 64}, {"stride": 6}, {"stride": 4, "feature_block": 3}, {"features": 169}, {"teacher": "resnet18"}],
    ids=str,
)
def test_what_the_pretrained_network_cannot_do_is_refused(wrong: dict[str, object]) -> None:
    settings = {"local_net": "pretrained", "patch": 83, "stride": 8, **wrong}
    with pytest.raises(ConfigError, match=rf"local_net = 'pretrained': {next(iter(wrong))} must be"):
        GlanceModel(ModelConfig.model_validate(settings))
