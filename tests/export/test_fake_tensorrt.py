"""The faked TensorRT has the real library's names, and library code uses nothing that the fake lacks."""

from __future__ import annotations

import ast
import inspect
import json
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import fake_plugin, fake_tensorrt

ROOT = Path(__file__).resolve().parents[2]
API: dict[str, Any] = json.loads((ROOT / "tests" / "helpers" / "tensorrt_api.json").read_text())


@pytest.mark.parametrize("version", API)
def test_the_fake_has_the_real_librarys_names_and_parameters(version: str) -> None:
    members, parameters = API[version]["members"], API[version]["parameters"]
    assert set(API[version]["functions"]) == {"nptype"}
    members["Severity"] = members["ILogger.Severity"]
    for name, kind in vars(fake_tensorrt).items():
        if not inspect.isclass(kind) or kind.__module__ != fake_tensorrt.__name__ or name in ("Network", "Reference"):
            continue
        public = {member for member in vars(kind) if not member.startswith("_")} - {"last", "fails", "refused"}
        assert public <= {*members[name], "Severity"}, name
        for member, function in vars(kind).items():
            expected = parameters.get(f"{name}.{member}")
            if expected is not None and member in public | {"__init__"} and name != "ParserError":
                actual = list(inspect.signature(function).parameters)
                assert actual == expected[: len(actual)], f"{name}.{member}"


@pytest.mark.parametrize("version", API)
def test_the_fake_plugins_have_the_real_ones_names_and_parameters(version: str) -> None:
    members, parameters = API[version]["plugin"]["members"], API[version]["plugin"]["parameters"]
    for name, expected in parameters.items():
        actual = list(inspect.signature(attrgetter(name.removesuffix(".__init__"))(fake_plugin)).parameters)
        assert actual == expected[: len(actual)], name
    for source in ast.walk(ast.parse((ROOT / "export" / "tensorrt" / "plugins.py").read_text())):
        if isinstance(source, ast.Attribute) and ast.unparse(source.value) == "trtp":
            assert source.attr in members or source.attr in parameters, source.attr


def test_the_library_uses_nothing_that_the_fake_lacks() -> None:
    """What it reads of the module itself; members of objects fail where the fake lacks them."""
    drivers = ("glance_fast/backends/tensorrt_backend", "glance_fast/backends/cuda_driver/tensorrt_log")
    for source in ("export/tensorrt/build", "export/tensorrt/plugins", *drivers):
        for node in ast.walk(ast.parse((ROOT / f"{source}.py").read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("trt", "self._trt"):
                assert node.attr == "__version__" or hasattr(fake_tensorrt, node.attr), f"{source}: {node.attr}"
