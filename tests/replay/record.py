"""What must not change when code only moves: `python -m tests.replay.record` writes it to recorded.json.

Plans and the structure of exported graphs are hashed exactly; a graph's weights are compared by two sums, as CPUs
round differently. PTX is that of one version of Triton, without names and line numbers.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import AttributeProto, ModelProto, numpy_helper

from glance_fast.config import ModelConfig
from glance_fast.export.graph.pipeline import export_onnx
from glance_fast.export.graph.target import Target
from glance_fast.models.model import GlanceModel
from glance_fast.plan.plan import Plan, refine_bands
from glance_fast.postprocessing.calibration import Calibration
from glance_fast.presets import PRESETS

RECORDED = Path(__file__).with_name("recorded.json")
# The forms of a preset's graph: half floats, and our kernels for CPUs as its dense pass.
GRAPHS = {
    "onnx fp32": Target(),
    "onnx fp16": Target(precision="fp16"),
    "openvino fp32, kernels": Target("openvino"),
    "openvino bf16, kernels": Target("openvino", "bf16"),
}
TARGET = 90
# The names of the kernels' cases in recorded.json.
CASE_LABELS = {"StemCase": "Stem", "ConvCase": "Shape", "HeadsCase": "Heads"}
CALIBRATION = Calibration(
    scores=(0.0,), false_alarm_rate=0.5, threshold=0.0, pixel_false_alarm_rate=0.5, pixel_threshold=0.0
)


def preset_model(preset: str) -> GlanceModel:
    """A preset's networks with random weights of seed 0, by numpy's generator: the same on every CPU."""
    model = GlanceModel(ModelConfig.model_validate(PRESETS[preset]["model"])).eval().requires_grad_(False)
    rng = np.random.default_rng(0)
    for tensor in model.state_dict().values():
        fan_in = tensor[0].numel() if tensor.dim() > 1 else 4
        values = rng.standard_normal(tensor.shape) / np.sqrt(fan_in)
        if tensor.dim() == 3 and tensor.shape[-1] == tensor.shape[-2] > 1:
            values = np.tril(values)  # of a whitening matrix
        tensor.copy_(torch.from_numpy(values))
    return model


def plan_hash(plan: Plan) -> str:
    """SHA-256 of every table that a plan is made of."""
    digest = hashlib.sha256()
    _feed(digest, plan.holes_y, plan.holes_x, plan.patch, plan.macs, plan.loop_macs, plan.peak_bytes, plan.readout)
    for step in plan.steps:
        _feed(digest, step.layer, step.table.base, step.table.entries)
        _feed(digest, step.below.base_index(), step.table.base_index(), step.valid_counts())
        for block in step.blocks():
            _feed(digest, block.entries, block.taps, block.sources, block.recompute)
    return digest.hexdigest()


def _feed(digest: Any, *values: Any) -> None:
    """Add numbers, tuples, slices, arrays and frozen records to a hash."""
    for value in values:
        if isinstance(value, np.ndarray):
            digest.update(f"{value.dtype} {value.shape}".encode() + value.tobytes())
        elif isinstance(value, tuple):
            _feed(digest, len(value), *value)
        elif is_dataclass(value):
            _feed(digest, *(getattr(value, field.name) for field in fields(value)))
        else:
            digest.update(repr(value).encode() + b";")


def graph_hash(model: ModelProto) -> tuple[str, list[float]]:
    """SHA-256 of a graph's nodes, wires, integers and metadata names, and two sums of its floating weights.

    The names of values and nodes are no part of it, except those of inputs and outputs.
    """
    digest, names, sums = hashlib.sha256(), dict[str, str](), np.zeros(2)
    numbers = count()
    for value in (*model.graph.input, *model.graph.output):
        digest.update(value.SerializeToString())
    for tensor in model.graph.initializer:
        names[tensor.name] = f"w{next(numbers)}"
        sums += _feed_tensor(digest, numpy_helper.to_array(tensor))
    for node in model.graph.node:
        wires = [names.setdefault(name, name) for name in node.input]
        names |= {name: f"v{next(numbers)}" for name in node.output}
        digest.update(repr((node.domain, node.op_type, wires, len(node.output))).encode())
        for attribute in sorted(node.attribute, key=lambda attribute: attribute.name):
            if attribute.type == AttributeProto.TENSOR:
                sums += _feed_tensor(digest, numpy_helper.to_array(attribute.t))
            else:
                digest.update(attribute.SerializeToString())
    digest.update(repr(sorted(entry.key for entry in model.metadata_props)).encode())
    digest.update(repr([(opset.domain, opset.version) for opset in model.opset_import]).encode())
    return digest.hexdigest(), sums.tolist()


def _feed_tensor(digest: Any, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Hash integers and shapes; give the sums that stand for floating numbers."""
    digest.update(f"{array.dtype} {array.shape}".encode())
    if array.dtype.kind != "f":
        digest.update(array.tobytes())
        return np.zeros(2)
    flat = array.astype(np.float64).ravel()
    return np.array([np.abs(flat).sum(), flat @ np.cos(np.arange(flat.size))])


def plans() -> dict[str, str]:
    """The plan of each preset, as compiled and as split for a CPU."""
    models = {preset: GlanceModel(ModelConfig.model_validate(PRESETS[preset]["model"])) for preset in PRESETS}
    return {
        f"{preset}{kind}": plan_hash(plan)
        for preset, model in models.items()
        for kind, plan in (("", model.compile_plan()), (" split", refine_bands(model.compile_plan())))
    }


def graphs(preset: str) -> dict[str, tuple[str, list[float]]]:
    """Every form of a preset's graph."""
    model = preset_model(preset)
    return {form: graph_hash(export_onnx(model, CALIBRATION, target)) for form, target in GRAPHS.items()}


def kernels() -> Iterator[tuple[str, str]]:
    """The PTX of every kernel in half and full floats; run where Triton's interpreter is off."""
    from bench.compile_kernels import SAMPLES, argument_types, launches_of
    from glance_fast.kernels.gpu.ahead_of_time import compile_ahead

    for part in SAMPLES:
        for dtype in ("fp16", "fp32"):
            for number, (kernel, settings) in enumerate(launches_of(part, dtype)):
                code = compile_ahead(kernel, argument_types(kernel, settings, dtype), settings, TARGET)
                name = f"{CASE_LABELS[type(part).__name__]} {part.before} {part.after} {number} {dtype}"
                yield name, ptx_hash(code.ptx, code.name)


def ptx_hash(ptx: str, name: str) -> str:
    """SHA-256 of the code alone: without the entry's name, files, lines and debug sections."""
    code = ptx.split(".section")[0].replace(name, "kernel")
    lines = (re.sub(r"\s*//.*", "", line) for line in code.splitlines())
    kept = (line for line in lines if line.strip() and not re.match(r"\s*\.(loc|file)\b", line))
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()


def kernels_elsewhere() -> dict[str, str]:
    """`kernels` from a process of its own, whose Triton compiles."""
    code = "import json; from tests.replay.record import kernels; print(json.dumps(dict(kernels())))"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    hashes: dict[str, str] = json.loads(run.stdout.splitlines()[-1])
    return hashes


def main() -> None:
    """Record everything anew; the file's difference in git is what has changed."""
    from triton import __version__ as triton_version

    recorded = {
        "plans": plans(),
        "graphs": {preset: graphs(preset) for preset in PRESETS},
        "triton": triton_version,
        "kernels": kernels_elsewhere(),
    }
    RECORDED.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
