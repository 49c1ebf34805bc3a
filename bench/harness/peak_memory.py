"""Peak memory of a case in a process of its own, which `bench.runtimes` starts for each of its cases.

    python -m bench.harness.peak_memory our-openvino FOLDER PRECISION THREADS BATCH
    python -m bench.harness.peak_memory our-onnxruntime FOLDER fp32 THREADS BATCH
    python -m bench.harness.peak_memory our-torch FOLDER fp32 THREADS BATCH
    python -m bench.harness.peak_memory peer-openvino FILE.xml PRECISION THREADS BATCH
    python -m bench.harness.peak_memory peer-onnxruntime FILE.onnx fp32 THREADS BATCH
    python -m bench.harness.peak_memory peer-torch METHOD,SIZE fp32 THREADS BATCH

It runs the case a few times on images of zeros and prints bytes, or "None" where the system does not report them.
Exported models are loaded without PyTorch, as on a production line.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.harness.runners import Runner, engine_runner, onnxruntime_runner, openvino_runner, torch_runner
from glance_fast.commands.peak_memory import peak_rss, peak_rss_of

ROOT = Path(__file__).resolve().parents[2]
RUNS = 3


def peak_memory_of(arguments: tuple[str, ...]) -> int | None:
    """Peak resident bytes of a process with these arguments; None where the system does not report them."""
    command = [sys.executable, "-m", "bench.harness.peak_memory", *arguments]
    try:
        return peak_rss_of(command, ROOT)
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"{' '.join(command)} failed:\n{error.stderr}") from None


def _ours(folder: str, backend: str, precision: str, batch: int) -> Runner:
    from glance_fast.storage.model_folder import read_model

    size = read_model(Path(folder)).model.image_size
    return engine_runner(Path(folder), backend, precision, np.zeros((batch, *size, 3), np.uint8))


def _our_openvino(folder: str, precision: str, _: int, batch: int) -> Runner:
    return _ours(folder, "openvino", precision, batch)


def _our_onnxruntime(folder: str, precision: str, _: int, batch: int) -> Runner:
    return _ours(folder, "onnxruntime", precision, batch)


def _our_torch(folder: str, precision: str, threads: int, batch: int) -> Runner:
    import torch

    torch.set_num_threads(threads)
    return _ours(folder, "torch", precision, batch)


def _peer_openvino(file: str, precision: str, threads: int, batch: int) -> Runner:
    import openvino

    return openvino_runner(openvino.Core().read_model(file), batch, precision, threads)


def _peer_onnxruntime(file: str, _: str, threads: int, batch: int) -> Runner:
    return onnxruntime_runner(file, batch, threads)


def _peer_torch(source: str, _: str, threads: int, batch: int) -> Runner:
    import torch

    from bench.peers.networks import PEER_NETWORKS

    torch.set_num_threads(threads)
    method, size = source.split(",")
    return torch_runner(PEER_NETWORKS[method]().eval(), torch.zeros(batch, 3, int(size), int(size)))


KINDS: dict[str, Callable[[str, str, int, int], Runner]] = {
    "our-openvino": _our_openvino,
    "our-onnxruntime": _our_onnxruntime,
    "our-torch": _our_torch,
    "peer-openvino": _peer_openvino,
    "peer-onnxruntime": _peer_onnxruntime,
    "peer-torch": _peer_torch,
}


def main(kind: str, source: str, precision: str, threads: str, batch: str) -> None:
    """Run the case and print the peak resident bytes of this process."""
    run = KINDS[kind](source, precision, int(threads), int(batch))
    for _ in range(RUNS):
        run()
    print(peak_rss())


if __name__ == "__main__":
    main(*sys.argv[1:])
