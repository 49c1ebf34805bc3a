"""The kernels for CPUs: the loop's numbers on every vector width; hostile plans and impossible builds refused."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from numpy.typing import NDArray

from glance_fast.backends.openvino_backend import multiplies_bfloat16
from glance_fast.backends.tolerances import relative_error, tolerance
from glance_fast.engine import Engine
from glance_fast.errors import BackendError, ConfigError, GlanceError, MissingDependencyError, ModelFolderError
from glance_fast.export.export import export
from glance_fast.export.graph import dense_pass_node
from glance_fast.export.graph.builder import FLOAT, Graph
from glance_fast.kernels.cpu import build
from glance_fast.kernels.cpu.build import SOURCES, extension
from glance_fast.models.global_net import global_layers
from glance_fast.plan.layer import conv, pool
from glance_fast.storage.export_record import export_path
from tests.helpers.compilers import HAS_CPP_COMPILER
from tests.helpers.dense_cases import DenseCase, dense_case, hole_grid
from tests.helpers.models import save_tiny, tiny_model
from tests.helpers.threads import assert_threads_agree
from tests.helpers.tolerances import assert_close

pytestmark = pytest.mark.skipif(not HAS_CPP_COMPILER, reason="there is no C++ compiler here")

# Vectors of 4, of 8 and of as many numbers as this CPU has; each takes other tiles.
WIDTHS = {"x86-64": "sse2", "x86-64-v3": "avx2", "native": ""}
LAYERS = {
    "usual": global_layers((4, 5, 6, 6), 1),
    "two convolutions per level": global_layers((4, 6, 6), 2),
    "more than a panel": global_layers((17, 33, 65, 130), 1),
    "other kernels": [conv(5, 5), pool(5, 3), conv(19), conv(7, 1), pool(7)],
    "pools of pools": [conv(8), pool(8), pool(8), conv(9)],
}

CompiledPass = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@pytest.fixture(scope="module", params=WIDTHS)
def library(request: pytest.FixtureRequest) -> Path:
    if WIDTHS[request.param] not in Path("/proc/cpuinfo").read_text():
        pytest.skip(f"this CPU has no {WIDTHS[request.param]}")
    return extension(arch=request.param)


@cache
def core_with(library: Path) -> openvino.Core:
    """One per library, kept: it holds the code of the kernels, and takes longer to make than a model to compile."""
    core = openvino.Core()
    core.add_extension(str(library))
    return core


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model exported with our kernels; read only."""
    folder = save_tiny(tmp_path_factory.mktemp("kernels") / "model", tiny_model())
    export(folder, "openvino", plugins=True)
    return folder


def compiled(library: Path, case: DenseCase, bfloat16: bool = False, **changed: NDArray[Any]) -> CompiledPass:
    """Global-Net of images [B, C, H, W] in OpenVINO; `changed` replaces what the functions of these names give."""
    graph = Graph("dense pass")
    image = graph.input("image", FLOAT, ["batch", *case.images.shape[1:]])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in changed.items():
            patch.setattr(dense_pass_node, name, lambda _, value=value: value)
        z_global = dense_pass_node.dense_pass_node(graph, case.net, case.plan, image, bfloat16)
    graph.output(z_global, "z", FLOAT, ["batch", case.plan.locations, case.net.project.out_features])
    core = core_with(library)
    hints = {"INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(core.read_model(graph.finish({}).SerializeToString()), "CPU", hints)

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.array(request([images])["z"])

    return run


def check(library: Path, case: DenseCase) -> None:
    images = case.images.float().numpy()
    assert_close(compiled(library, case)(images), case.loop(), torch.float32)


@pytest.mark.parametrize("size", [(37, 53), (64, 41)], ids=str)
@pytest.mark.parametrize("patch, stride", [(8, 7), (13, 5), (24, 3)])
@pytest.mark.parametrize("min_keys", [0, 3, 12])
def test_grids(
    library: Path, size: tuple[int, int], patch: int, stride: int, min_keys: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense_pass_node, "MIN_KEYS", min_keys)
    check(library, dense_case(LAYERS["usual"], size, patch, hole_grid(size, patch, stride), batch=2))


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("readout", [1, 2])
def test_layers(library: Path, layers: str, readout: int) -> None:
    check(library, dense_case(LAYERS[layers], (45, 50), 11, hole_grid((45, 50), 11, 6), readout, batch=3))


@pytest.mark.parametrize("size", [(37, 53), (32, 32)], ids=str)
@pytest.mark.parametrize("patch", [8, 15, 31])
def test_holes_at_and_beyond_every_border(library: Path, size: tuple[int, int], patch: int) -> None:
    rows, cols = (sorted({1 - patch, 0, (side - patch) // 2, side - patch, side - 1}) for side in size)
    check(library, dense_case(LAYERS["usual"], size, patch, (rows, cols), readout=2))


def test_one_location(library: Path) -> None:
    check(library, dense_case(global_layers((4, 6), 1), (17, 19), 8, ([9], [0])))


def test_memory_of_one_image_is_not_seen_by_the_next(library: Path) -> None:
    case = dense_case(LAYERS["usual"], (37, 53), 11, hole_grid((37, 53), 11, 6), batch=2)
    first, second = (case.images[i : i + 1].float().numpy() for i in (0, 1))
    used, fresh = compiled(library, case), compiled(library, case)
    used(np.float32(1e30) * first)
    np.testing.assert_array_equal(used(second), fresh(second))


@pytest.mark.skipif(not multiplies_bfloat16(), reason="this CPU multiplies no bfloat16")
@pytest.mark.parametrize("layers", LAYERS)
def test_bfloat16_is_near(layers: str) -> None:
    case = dense_case(LAYERS[layers], (45, 50), 11, hole_grid((45, 50), 11, 6), batch=2)
    actual = compiled(extension(), case, bfloat16=True)(case.images.float().numpy())
    assert tolerance("output", "fp32") < relative_error(actual, case.loop()) < tolerance("output", "bf16")


def test_bfloat16_is_refused_by_kernels_for_another_cpu() -> None:
    case = dense_case(LAYERS["usual"], (37, 53), 11, hole_grid((37, 53), 11, 6))
    with pytest.raises(RuntimeError, match="multiplies no bfloat16; export the model at fp32"):
        compiled(extension(arch="x86-64"), case, bfloat16=True)(case.images.float().numpy())


def test_any_wrong_number_of_a_serialized_plan_is_refused() -> None:
    """Plans come in files, which may be hostile: every number is checked before it is used as an address."""
    case = dense_case(LAYERS["usual"], (21, 23), 8, hole_grid((21, 23), 8, 5))
    images, serialized = case.images.float().numpy(), dense_pass_node.serialize_plan(case.plan)
    library, expected = extension(), compiled(extension(), case)(images)
    random = np.random.default_rng(0)
    for position in [*range(12), *random.integers(12, len(serialized), 12)]:
        for value in (-1, 2**31 - 1, -(2**31)):
            wrong = serialized.copy()
            wrong[position] = value
            with pytest.raises(RuntimeError, match="export the model again"):
                compiled(library, case, serialize_plan=wrong)(images)
    for position in random.integers(0, len(serialized), 30):
        # What is legal elsewhere may be so here: then it gives some numbers, as many as it says.
        wrong = serialized.copy()
        wrong[position] = random.choice(serialized)
        try:
            actual = compiled(library, case, serialize_plan=wrong)(images)
        except RuntimeError as error:
            actual = expected if "export the model again" in str(error) or "reads images" in str(error) else actual[:0]
        assert actual.shape == expected.shape
    for short in (
        serialized[:0],
        serialized[:1],
        serialized[: len(serialized) // 2],
        serialized[:-1],
        np.append(serialized, 0),
    ):
        with pytest.raises(RuntimeError, match="export the model again"):
            compiled(library, case, serialize_plan=short.astype(np.int32))(images)


def test_more_or_fewer_weights_are_refused() -> None:
    case = dense_case(LAYERS["usual"], (21, 23), 8, hole_grid((21, 23), 8, 5))
    weights = dense_pass_node.serialize_weights(case.net)
    for wrong, message in ((weights[:-1], "fewer weights"), (np.append(weights, 0), "more weights")):
        with pytest.raises(RuntimeError, match=f"{message} than the plan has; export the model again"):
            compiled(extension(), case, serialize_weights=wrong.astype(np.float32))(case.images.float().numpy())


@pytest.mark.parametrize("streams", [1, 2])
def test_any_thread_may_score(exported: Path, streams: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glance_fast.backends.registry.cpu_threads", lambda: 2)
    assert_threads_agree(Engine.load(exported, "openvino", streams=streams))


def no_compiler(patch: pytest.MonkeyPatch, _: Path) -> None:
    patch.setattr(shutil, "which", lambda _: None)


def no_headers(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setattr(build, "_openvino", lambda: folder)


def no_code(patch: pytest.MonkeyPatch, folder: Path) -> None:
    shutil.copytree(SOURCES, folder / "cpu")
    (folder / "cpu" / "openvino_op.cpp").write_text("this is no C++")
    patch.setattr(build, "SOURCES", folder / "cpu")


def no_linux(patch: pytest.MonkeyPatch, _: Path) -> None:
    patch.setattr(sys, "platform", "win32")


def no_private_folder(patch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / "open").mkdir()
    (folder / "open").chmod(0o777)
    patch.setattr(build, "_default_folders", lambda: [folder / "open" / "cache"])


def no_folder(patch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / "file").touch()
    patch.setattr(build, "user_cache_path", lambda _: folder / "file" / "cache")


@pytest.mark.parametrize(
    "breaks, kind, message",
    [
        (no_compiler, MissingDependencyError, r"need a C\+\+ compiler, g\+\+ or c\+\+; install one, or export"),
        (no_headers, BackendError, r"brings no headers .*pip install --upgrade openvino, or export the model without"),
        (no_code, BackendError, r"cannot compile our kernels, or export the model without plugins.*openvino_op\.cpp"),
        (no_linux, BackendError, r"compiled on Linux, and this is win32; export the model without plugins"),
        (
            no_private_folder,
            BackendError,
            r"others may write to .*open\. .*set XDG_CACHE_HOME .*or export",
        ),
        (no_folder, BackendError, r"cannot hold our compiled kernels: Not a directory; export the model without"),
    ],
)
def test_compile_failures_say_what_to_do(
    breaks: Callable[[pytest.MonkeyPatch, Path], None],
    kind: type[GlanceError],
    message: str,
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(build, "user_cache_path", lambda _: tmp_path / "empty")
    breaks(monkeypatch, tmp_path)
    for action in (lambda: Engine.load(exported, "openvino"), lambda: export(exported, "openvino", plugins=True)):
        with pytest.raises(kind, match=f"(?s){message}"):
            action()


def test_plugins_that_cannot_be_are_refused(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model", tiny_model())
    for precision in ("fp16", "int8"):
        with pytest.raises(ConfigError, match=f"in fp32 or bf16 for openvino; .*or {precision} without plugins"):
            export(folder, "openvino", precision, plugins=True)
    assert not export_path(folder, "openvino", "fp32").exists()


def test_a_damaged_export_names_the_command_that_rebuilds_it(exported: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "model"))
    export_path(folder, "openvino", "fp32").with_suffix(".bin").write_bytes(b"")
    with pytest.raises(ModelFolderError, match=r"--to openvino --precision fp32 --plugins$"):
        Engine.load(folder, "openvino")
