"""The teachers: shapes, the same features for the same patches, no gradients, and the weights' source."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from glance_fast.errors import ConfigError, ImageError
from glance_fast.teachers import Teacher, load_teacher
from glance_fast.teachers.base import input_size
from tests.helpers.teachers import DIMS, LITE0, SIZES, State, random_patches
from tests.helpers.tolerances import assert_near


@pytest.mark.parametrize("side", SIZES)
def test_one_vector_per_patch(teacher: Teacher, side: int) -> None:
    features = teacher(random_patches(3, side))
    assert features.shape == (3, teacher.dim) == (3, DIMS[teacher.name])
    assert features.dtype == torch.float32
    assert bool(features.isfinite().all())
    assert float(features.std(0).max()) > 0.01
    assert teacher(random_patches(0, side)).shape == (0, teacher.dim)


@pytest.mark.parametrize(
    ("side", "shown"),
    [(8, 64), (32, 64), (33, 64), (39, 64), (40, 96), (55, 96), (56, 128), (64, 128), (512, 128)],
)
def test_input_size(side: int, shown: int) -> None:
    assert input_size(side) == shown


@pytest.mark.parametrize(
    "wrong",
    [
        torch.zeros(1, 3, 7, 7),
        torch.zeros(1, 3, 513, 513),
        torch.zeros(1, 3, 32, 31),
        torch.zeros(1, 1, 32, 32),
        torch.zeros(3, 32, 32),
        torch.zeros(1, 3, 32, 32, dtype=torch.float64),
        torch.zeros(1, 3, 32, 32, dtype=torch.uint8),
    ],
    ids=lambda wrong: f"{wrong.dtype}-{list(wrong.shape)}",
)
def test_other_patches_are_refused(teacher: Teacher, wrong: Tensor) -> None:
    with pytest.raises(ImageError, match=r"float32 patches \[N, 3, P, P\].*8 to 512"):
        teacher(wrong)


def test_same_patches_same_features(teacher: Teacher) -> None:
    x = random_patches(4, 32)
    first = teacher(x)
    torch.use_deterministic_algorithms(True)  # fills fresh memory with NaN
    try:
        assert torch.equal(first, teacher(x))
    finally:
        torch.use_deterministic_algorithms(False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(first, teacher(x))


def test_loading_draws_no_random_numbers(resnet_file: Path) -> None:
    before = torch.get_rng_state()
    features = [load_teacher()(random_patches(2, 32)), load_teacher("resnet18", resnet_file)(random_patches(2, 32))]
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(features[0], load_teacher()(random_patches(2, 32)))


def test_features_of_a_patch_do_not_depend_on_the_batch(teacher: Teacher) -> None:
    x = random_patches(35, 32)  # a CPU takes 32 at once
    alone = torch.cat([teacher(patch) for patch in x[:, None]])
    assert_near(teacher(x), alone, "teacher")
    other = x.clone()
    other[1:] = 1 - other[1:]
    assert_near(teacher(other)[0], alone[0], "teacher")


def test_memory_layout_does_not_matter(teacher: Teacher) -> None:
    x = random_patches(3, 17)
    assert_near(teacher(x.contiguous(memory_format=torch.channels_last)), teacher(x), "teacher")
    wide = random_patches(3, 40)[:, :, 5:22, 9:26]
    assert_near(teacher(wide), teacher(wide.contiguous()), "teacher")


def test_features_keep_the_position(teacher: Teacher) -> None:
    spot = torch.full((2, 3, 32, 32), 0.5)
    texture = random_patches(1, 12, seed=3)[0]
    spot[0, :, 2:14, 2:14] = texture
    spot[1, :, 18:30, 18:30] = texture
    plain = teacher(torch.full((1, 3, 32, 32), 0.5))
    changed = (teacher(spot) - plain).abs().unflatten(1, (-1, 4)).mean(1)
    assert changed[0].argmax() == 0
    assert changed[1].argmax() == 3


def test_eval_mode_sticks(teacher: Teacher) -> None:
    x = random_patches(4, 32)
    before = teacher(x)
    assert teacher.train() is teacher
    nn.ModuleList([teacher]).train()
    assert not any(module.training for module in teacher.modules())
    assert torch.equal(before, teacher(x))


def test_no_gradients(teacher: Teacher) -> None:
    x = random_patches(2, 32).requires_grad_()
    with torch.enable_grad():
        assert not teacher(x).requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not any(value.is_meta for value in (*teacher.parameters(), *teacher.buffers()))


def test_other_forms_of_the_same_weights(teachers: dict[str, Teacher], random_state: State, tmp_path: Path) -> None:
    x = random_patches(2, 32)
    bare = {name: value for name, value in random_state.items() if not name.startswith("fc.")}
    bare = {name: value for name, value in bare.items() if not name.endswith("num_batches_tracked")}
    save_file(bare, tmp_path / "r.safetensors")
    torch.save({name: nn.Parameter(value.double()) for name, value in bare.items()}, tmp_path / "r.pt")
    for name in ("r.safetensors", "r.pt"):
        assert torch.equal(load_teacher("resnet18", tmp_path / name)(x), teachers["resnet18"](x))


def test_source_says_which_weights(teachers: dict[str, Teacher], resnet_file: Path) -> None:
    assert "ImageNet" in teachers["efficientnet-lite0"].source
    assert hashlib.sha256(LITE0.read_bytes()).hexdigest()[:16] in teachers["efficientnet-lite0"].source
    assert resnet_file.name in teachers["resnet18"].source
    assert hashlib.sha256(resnet_file.read_bytes()).hexdigest()[:16] in teachers["resnet18"].source
    loaded = load_teacher("efficientnet-lite0", LITE0)
    assert LITE0.name in loaded.source
    assert torch.equal(loaded(random_patches(1, 32)), teachers["efficientnet-lite0"](random_patches(1, 32)))


def test_unknown_name() -> None:
    with pytest.raises(ConfigError, match="'vgg'; legal teachers are efficientnet-lite0, resnet18"):
        load_teacher("vgg")
