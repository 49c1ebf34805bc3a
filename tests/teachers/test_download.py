"""ResNet-18's weights from torchvision: downloaded, damaged, or not at all."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from glance_fast.errors import ModelFolderError
from glance_fast.teachers import Teacher, load_teacher
from tests.helpers.teachers import random_patches


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
        assert torch.equal(teacher(random_patches(1, 32)), teachers["resnet18"](random_patches(1, 32)))
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
