"""Every engine repeats, when it is loaded, the scores that were saved with its model, or it is refused."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from glance_fast.backends.self_check import make_self_check
from glance_fast.backends.tolerances import relative_error, tolerance
from glance_fast.backends.torch_backend import TorchBackend
from glance_fast.engine import Engine
from glance_fast.errors import ModelFolderError
from glance_fast.export.export import export
from glance_fast.storage.model_folder import SELF_CHECK, WEIGHTS, read_model
from glance_fast.storage.self_check import SelfCheck
from tests.helpers.images import textured_image
from tests.helpers.models import as_format_3, edit_config, fitted_model, plant, save_tiny, tiny_model

REFUSED = r"does not repeat the scores that the model was saved with: they differ by \S+ of the largest, and 1e-05 is"
EXPORTS = {
    "onnxruntime": "exports/onnx-fp32/onnx-fp32.onnx",
    "openvino": "exports/openvino-fp32/openvino-fp32.bin",
}


@pytest.fixture
def located(tmp_path: Path) -> Path:
    """A model whose locations have whitening matrices of their own, with exports."""
    changes = {"image_size": (37, 53), "patch": 19, "stride": 4, "border_padding": 9, "location_whitening": True}
    folder = save_tiny(tmp_path / "located", fitted_model(changes))
    for export_format in ("onnx", "openvino"):
        export(folder, export_format)
    return folder


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = load((folder / WEIGHTS).read_bytes())
    change(weights)
    plant(folder, WEIGHTS, save(weights))


def test_a_changed_weight_is_refused(located: Path) -> None:
    whole = (located / WEIGHTS).read_bytes()
    for name, weights in load(whole).items():
        plant(located, WEIGHTS, whole)
        # A bias of the classifier alone moves no score by more than that.
        factor = 0.02 if name != "distortion.classify.4.bias" else 1.0
        if weights.any():
            step = factor * weights.abs().max()
            change_weights(located, lambda state, key=name, by=step: state[key].add_(by))  # type: ignore[misc]
            with pytest.raises(
                ModelFolderError, match=REFUSED + r" legal; the weights are damaged \(restore the folder"
            ):
                Engine.load(located, "torch")


def test_the_whitening_of_one_location_is_seen(located: Path) -> None:
    for location in (0, 41, -1):
        folder = Path(shutil.copytree(located, located.with_name(f"location {location}")))
        change_weights(folder, lambda weights, at=location: weights["whitening.matrix"][at].mul_(1.01))  # type: ignore[misc]
        with pytest.raises(ModelFolderError, match=REFUSED):
            Engine.load(folder, "torch")


@pytest.mark.parametrize("backend", EXPORTS)
def test_a_changed_weight_of_an_export_is_refused(located: Path, backend: str) -> None:
    bias = load((located / WEIGHTS).read_bytes())["global_net.convs.1.bias"].numpy()
    data = (located / EXPORTS[backend]).read_bytes()
    assert bias.tobytes() in data
    plant(located, EXPORTS[backend], data.replace(bias.tobytes(), (bias + np.float32(0.01)).tobytes(), 1))
    with pytest.raises(ModelFolderError, match=REFUSED + r".* \(make it again with: glance-fast export .* fp32\)"):
        Engine.load(located, backend)


CHANGES: dict[str, Callable[[SelfCheck], SelfCheck]] = {
    "channels": lambda check: SelfCheck(check.image[..., ::-1], check.grid),
    "upside down": lambda check: SelfCheck(check.image[:, ::-1], check.grid),
    "one location": lambda check: SelfCheck(check.image, check.grid + (np.arange(60) == 17).reshape(2, 5, 6)),
    "other scores": lambda check: SelfCheck(check.image, check.grid[:, ::-1]),
}


@pytest.mark.parametrize("backend", ["torch", *EXPORTS])
@pytest.mark.parametrize("change", CHANGES)
def test_another_image_or_other_scores_are_refused(exported_copy: Path, backend: str, change: str) -> None:
    check = read_model(exported_copy).self_check()
    assert check is not None
    plant(exported_copy, SELF_CHECK, CHANGES[change](check).to_bytes())
    with pytest.raises(ModelFolderError, match=REFUSED):
        Engine.load(exported_copy, backend)


@pytest.mark.parametrize(
    "backend, precision",
    [("torch", "fp32"), ("onnxruntime", "fp32"), ("onnxruntime", "fp16"), ("openvino", "fp32"), ("openvino", "fp16")],
)
def test_healthy_engines_are_far_within_the_tolerance(exported_folder: Path, backend: str, precision: str) -> None:
    engine = Engine.load(exported_folder, backend, precision=precision)
    check = engine.files.self_check()
    assert check is not None
    error = relative_error(np.stack([np.asarray(grid) for grid in engine.backend.grids(list(check.image))]), check.grid)
    assert error < tolerance("trained map", precision) / 3


def test_scores_that_are_not_finite_are_refused(exported_copy: Path) -> None:
    change_weights(exported_copy, lambda weights: weights["distortion.classify.0.bias"].fill_(float("nan")))
    with pytest.raises(ModelFolderError, match="self-check: a value that is compared is not finite; the weights are"):
        Engine.load(exported_copy, "torch")


def test_images_are_scored_one_by_one_at_load(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[int] = []
    grids = TorchBackend.grids

    def counted(backend: TorchBackend, images: Any, method: str = "dense") -> Any:
        scored.append(len(images))
        return grids(backend, images, method)

    monkeypatch.setattr(TorchBackend, "grids", counted)
    Engine.load(tiny_folder, "torch")
    assert scored == [1, 1]


def test_folders_of_format_3_load_without_a_self_check(exported_copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = Engine.load(exported_copy, "openvino").score(textured_image(48, 56)).score
    edit_config(exported_copy, as_format_3)
    (exported_copy / SELF_CHECK).unlink()
    logging.getLogger("glance_fast").propagate = True
    with caplog.at_level(logging.INFO, "glance_fast"):
        for backend in EXPORTS:
            Engine.load(exported_copy, backend)
        assert Engine.load(exported_copy, "openvino").score(textured_image(48, 56)).score == expected
    assert caplog.text.count("has format 3, which has no self-check: train it again for one") == 3


def test_it_is_made_of_the_model_as_it_is(tiny_folder: Path) -> None:
    model = tiny_model().train()
    photo = textured_image(48, 56)
    check = make_self_check(model, photo)
    assert model.training and check.image.shape == (2, 48, 56, 3) and check.grid.shape == (2, 5, 6)
    saved = read_model(tiny_folder).self_check()
    assert saved is not None
    np.testing.assert_array_equal(check.image, saved.image)
    np.testing.assert_array_equal(check.grid, saved.grid)
    noise = check.image[0] - photo / 2
    assert 20 < noise.std() < 40 and np.abs(np.corrcoef(noise.ravel(), photo.ravel())[0, 1]) < 0.2
