"""Settings: sound defaults, frozen, and every wrong one refused with what is legal."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from glance_fast.config import ModelConfig, TrainConfig, checked
from glance_fast.errors import ConfigError, GlanceError
from glance_fast.models.model import GlanceModel


def test_the_default_model_is_that_of_the_docs() -> None:
    config = ModelConfig()
    assert (config.image_size, config.patch, config.stride) == ((256, 256), 32, 8)
    assert GlanceModel(config).compile_plan().locations == 841


@pytest.mark.parametrize("kind", [ModelConfig, TrainConfig])
def test_settings_go_through_json_unchanged(kind: type[ModelConfig | TrainConfig]) -> None:
    assert checked(kind, json.loads(kind().model_dump_json()), "here") == kind()


@pytest.mark.parametrize("kind", [ModelConfig, TrainConfig])
def test_settings_are_frozen(kind: type[ModelConfig | TrainConfig]) -> None:
    settings = kind()
    name = next(iter(kind.model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(settings, name, getattr(settings, name))


def test_every_setting_is_kept() -> None:
    values: dict[str, Any] = {
        "image_size": (64, 48),
        "patch": 9,
        "stride": 3,
        "global_channels": (4, 5),
        "iad_weight": 0.0,
    }
    config = checked(ModelConfig, values, "here")
    assert {name: getattr(config, name) for name in values} == values


IMPOSSIBLE: dict[str, Any] = {
    "image_size": [
        (0, 0),
        (-64, 64),
        (64,),
        (64, 64, 3),
        (31, 256),
        (256, 16385),
        (8192, 8192),
        "256",
        None,
        (64.5, 64),
    ],
    "resize": ["crop", "", 1],
    "bits": [8, 9, 11, 32, "twelve"],
    "alpha": ["keep", "", None],
    "patch": [7, 513, 0, -8, 8.5, "big"],
    "stride": [0, -1, 1.5],
    "border_padding": [-1, 16, 257, 1.5],
    "center_offset": [16, -16, 65, 0.5],
    "local_net": ["deep", None],
    "location_whitening": ["maybe", None, 2],
    "context_features": [-1, 113, 5],
    "features": [0, 4097],
    "feature_block": [1, 5, 2.5],
    "local_channels": [(), (0,), (4097,), (8, -1), 8],
    "global_channels": [(), (0,), (4097,), (8, -1), (4,) * 10, 8],
    "global_convs": [0, 9],
    "readout": [0, 10],
    "dad_width": [0, 4097],
    "iad_weight": [-0.1, 1.1, float("nan"), float("inf"), "half"],
    "smoothing_sigma": [-0.1, 17, float("nan")],
    "top_k": [0, -1],
    "teacher": ["vgg", "", None],
}
IMPOSSIBLE_TRAINING: dict[str, Any] = {
    "seed": [-1, 2**31, 0.5],
    "distil_steps": [0],
    "finetune_steps": [0],
    "global_steps": [0],
    "dad_steps": [0],
    "patches_per_step": [1],
    "images_per_step": [0],
    "holes_per_axis": [0],
    "dad_images_per_step": [0],
    "dad_holes_per_axis": [0],
    "whitening_shrinkage": [0, -1, 1.1, float("nan")],
    "whitening_pooling": [-0.1, 1],
    "dad_pool_fraction": [0, 1.1],
    "learning_rate": [0, -1e-3, 1.1, float("nan")],
    "jitter": [-0.1, 0.6],
    "compactness_weight": [-1, float("inf")],
    "stain_weight": [-1, float("nan")],
    "calibration_fraction": [0, 1],
    "false_alarm_rate": [0, 1],
    "pixel_false_alarm_rate": [0, 1],
    "accelerator": ["tpu"],
    "devices": [0],
    "precision": ["64", 16],
}


@pytest.mark.parametrize(
    "kind, name, value",
    [
        (kind, name, value)
        for kind, table in ((ModelConfig, IMPOSSIBLE), (TrainConfig, IMPOSSIBLE_TRAINING))
        for name, values in table.items()
        for value in values
    ],
)
def test_an_impossible_value_is_refused_by_name(kind: type[ModelConfig | TrainConfig], name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^model\.json: .*({name}|Global-Net levels)"):
        checked(kind, {name: value}, "model.json")


@pytest.mark.parametrize(
    ("size", "patches"),
    [((4096, 4096), "4065 rows of 4065 patches"), ((64, 16384), "33 rows of 16353 patches")],
)
def test_a_grid_that_no_memory_holds_is_refused(size: tuple[int, int], patches: str) -> None:
    with pytest.raises(ConfigError, match=f"stride 1 makes {patches}; at most 4096 a side .* use a larger stride"):
        checked(ModelConfig, {"image_size": size, "stride": 1, "global_channels": [4]}, "here")


@pytest.mark.parametrize("kind, table", [(ModelConfig, IMPOSSIBLE), (TrainConfig, IMPOSSIBLE_TRAINING)])
def test_every_setting_is_checked(kind: type[ModelConfig | TrainConfig], table: dict[str, Any]) -> None:
    assert set(table) == set(kind.model_fields)


def test_an_unknown_name_lists_the_legal_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        checked(ModelConfig, {"patches": 32}, "config.json")
    message = str(caught.value)
    assert message.startswith("config.json: unknown setting 'patches'; legal settings are image_size, resize, ")
    assert all(name in message for name in ModelConfig.model_fields)
    assert issubclass(ConfigError, GlanceError) and issubclass(ConfigError, ValueError)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    "kind, old, new",
    [(kind, old, new) for kind in (ModelConfig, TrainConfig) for old, new in kind.former_names.items()],
)
def test_the_former_name_of_a_setting_is_refused_with_the_new_one(
    kind: type[ModelConfig | TrainConfig], old: str, new: str
) -> None:
    assert new in kind.model_fields and old not in kind.model_fields
    with pytest.raises(ConfigError, match=f"^mine.toml: setting '{old}' is now '{new}'$"):
        checked(kind, {old: getattr(kind(), new)}, "mine.toml")


@pytest.mark.parametrize(("old", "new"), ModelConfig.former_values["local_net"].items())
def test_the_former_value_of_a_setting_is_refused_with_the_new_one(old: str, new: str) -> None:
    with pytest.raises(ConfigError, match=f"^mine.toml: local_net = '{old}' is now '{new}'$"):
        checked(ModelConfig, {"local_net": old}, "mine.toml")


@pytest.mark.parametrize("kind", [ModelConfig, TrainConfig])
def test_every_setting_is_described(kind: type[ModelConfig | TrainConfig]) -> None:
    assert [name for name, field in kind.model_fields.items() if not field.description] == []


def test_every_wrong_value_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        checked(TrainConfig, {"images_per_step": 0, "jitter": 0.9, "speed": 1}, "train.json")
    message = str(caught.value)
    assert message.count("; ") >= 2
    assert "images_per_step = 0: Input should be greater than or equal to 1" in message
    assert "jitter = 0.9: Input should be less than or equal to 0.5" in message
    assert "unknown setting 'speed'" in message


@pytest.mark.parametrize(
    "values, message",
    [
        (
            {"image_size": (31, 64)},
            "image_size 31x64 is smaller than one 32x32 patch; use an image_size of at least 32x32 or a smaller patch",
        ),
        ({"image_size": (64, 16385)}, "image_size 64x16385 is beyond 16384 pixels a side"),
        (
            {"image_size": (64, 63), "readout": 2},
            "6 Global-Net levels and a 2-cell read-out need an image of at least 64 pixels a side, "
            "got 64x63; use fewer global_channels or a larger image_size",
        ),
        ({"local_channels": (8, 0)}, "local_channels must be widths from 1 to 4096, got (8, 0)"),
    ],
)
def test_values_that_do_not_go_together_say_what_to_do(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        checked(ModelConfig, values, "given")
    assert str(caught.value) == f"given: {message}"


def test_the_smallest_image_that_the_message_names_is_enough() -> None:
    config = checked(ModelConfig, {"image_size": (64, 65), "readout": 2}, "given")
    assert GlanceModel(config).compile_plan().locations == 25
