"""The most memory that one case holds, in a process of its own: what `bench.runtimes` starts for each of its cases.

    python -m bench.harness.peak_memory openvino FILE.xml PRECISION THREADS BATCH
    python -m bench.harness.peak_memory openvino-plugins FILE.onnx PRECISION THREADS BATCH
    python -m bench.harness.peak_memory onnxruntime FILE.onnx fp32 THREADS BATCH
    python -m bench.harness.peak_memory torch METHOD,SIZE,STRIDE fp32 THREADS BATCH

It runs the case a few times on images of zeros and prints bytes, or "None" where the system does not tell. The
exported forms are read without PyTorch, as on a production line.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from bench.harness.runners import (
    Point,
    Run,
    in_onnxruntime,
    in_openvino,
    in_torch,
    our_model,
    ours_in_torch,
    with_plugins,
)
from glance_fast.commands.peak_memory import peak_rss, peak_rss_of
from glance_fast.presets import PRESETS

ROOT = Path(__file__).resolve().parents[2]
RUNS = 3


def held(arguments: tuple[str, ...]) -> int | None:
    """Bytes that a process with these arguments held at most."""
    command = [sys.executable, "-m", "bench.harness.peak_memory", *arguments]
    try:
        return peak_rss_of(command, ROOT)
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"{' '.join(command)} failed:\n{error.stderr}") from None


def _openvino(file: str, precision: str, threads: int, batch: int) -> Run:
    import openvino

    return in_openvino(openvino.Core().read_model(file), batch, precision, threads)


def _openvino_plugins(file: str, precision: str, threads: int, batch: int) -> Run:
    core = with_plugins()
    return in_openvino(core.read_model(file), batch, precision, threads, core=core)


def _onnxruntime(file: str, _: str, threads: int, batch: int) -> Run:
    return in_onnxruntime(file, batch, threads)


def _torch(what: str, _: str, threads: int, batch: int) -> Run:
    import torch

    torch.set_num_threads(threads)
    method, *numbers = what.split(",")
    size, stride = map(int, numbers)
    if method not in PRESETS:
        from bench.peers.networks import FORWARD

        return in_torch(FORWARD[method]().eval(), torch.zeros(batch, 3, size, size))
    from glance_fast.backends.torch_backend import TorchBackend

    return ours_in_torch(TorchBackend(our_model(method, Point(size, stride))), batch)


MAKERS: dict[str, Callable[[str, str, int, int], Run]] = {
    "openvino": _openvino,
    "openvino-plugins": _openvino_plugins,
    "onnxruntime": _onnxruntime,
    "torch": _torch,
}


def main(runtime: str, what: str, precision: str, threads: str, batch: str) -> None:
    """Run the case and print what it held."""
    run = MAKERS[runtime](what, precision, int(threads), int(batch))
    for _ in range(RUNS):
        run()
    print(peak_rss())


if __name__ == "__main__":
    main(*sys.argv[1:])
