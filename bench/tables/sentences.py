"""Figures in sentences, by name: single rows, and ratios of two."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import mean

from bench.harness.cases import OPENVINO_PLUGINS
from bench.harness.roofline import MEMORY
from bench.tables.accuracy import FEATURE_BLOCK_2, ROWS, rows_of, values
from bench.tables.rows import BenchmarkRun, last_run, read_rows, run_of, runs
from bench.tables.speed import FASTER_MACHINE, PLUGINS_DAY, RUNTIMES, bfloat16_gain, limit, peer_ratio
from glance_fast.presets import PRESETS

Figure = Callable[[], str]
# The heads of a preset in the names of figures and in the rows' methods.
HEADS = {"": "", "-iad": ", IAD alone", "-dad": ", DAD alone"}
TRAINING, STARTUP = "training_speed.jsonl", "startup.jsonl"
RUNS: dict[str, Callable[[], BenchmarkRun]] = {
    "last": partial(last_run, RUNTIMES),
    "faster": partial(run_of, RUNTIMES, FASTER_MACHINE["third run"]),
    "avx2": partial(last_run, "runtimes-avx2.jsonl"),
    "avx2-first": lambda: next(iter(runs("runtimes-avx2.jsonl").values())),
}
RUNTIME_NAMES = {"plain": "OpenVINO", "kernels": OPENVINO_PLUGINS}
COMPARED = {"padim": ("PaDiM ResNet-18", "fast", 2), "stfpm": ("STFPM ResNet-18", "fast", 2),
            "efficientad-s": ("EfficientAD-S", "accurate", 1)}  # fmt: skip


def _runtime_figures() -> dict[str, Figure]:
    """RUN-PEER-RUNTIME-PRECISION: time of a peer over that of our preset; RUN-PRESET-RUNTIME-bf16-gain."""
    figures: dict[str, Figure] = {}
    for run in RUNS:
        for runtime in RUNTIME_NAMES:
            for precision in ("fp32", "bf16"):
                for peer in COMPARED:
                    figures[f"{run}-{peer}-{runtime}-{precision}"] = partial(_peer, run, peer, runtime, precision)
            for preset in PRESETS:
                figures[f"{run}-{preset}-{runtime}-bf16-gain"] = partial(_gain, run, preset, runtime)
                figures[f"{run}-{preset}-{runtime}-share"] = partial(_share, run, preset, runtime)
        for precision in ("fp32", "bf16"):
            figures[f"{run}-limit-{precision}"] = partial(_limit, run, precision)
        figures[f"{run}-bandwidth"] = partial(_bandwidth, run)
        for name in ("p50_ms", "p95_ms", "p99_ms"):
            figures[f"{run}-fast-{name.removesuffix('_ms')}"] = partial(_latency, run, name)
        for precision in ("fp32", "bf16"):
            figures[f"{run}-fast-rate-{precision}"] = partial(_rate, run, precision)
    return figures


def _peer(run: str, peer: str, runtime: str, precision: str) -> str:
    name, preset, digits = COMPARED[peer]
    return f"{peer_ratio(RUNS[run](), name, preset, precision, RUNTIME_NAMES[runtime]):.{digits}f}"


def _gain(run: str, preset: str, runtime: str) -> str:
    return f"{bfloat16_gain(RUNS[run](), preset, RUNTIME_NAMES[runtime]):.2f}"


def _share(run: str, preset: str, runtime: str) -> str:
    return f"{RUNS[run]().row(preset, RUNTIME_NAMES[runtime])['roofline_share']:.0%}"


def _limit(run: str, precision: str) -> str:
    return f"{limit(RUNS[run](), precision):.0f}"


def _bandwidth(run: str) -> str:
    return f"{RUNS[run]().row(MEMORY, 'PyTorch')['memory_gb_per_second']:.0f}"


def _latency(run: str, name: str) -> str:
    return f"{RUNS[run]().row('fast')[name]:.1f} ms"


def _rate(run: str, precision: str) -> str:
    rate = RUNS[run]().row("fast", "OpenVINO", precision)["images_per_second"]
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.1f}"


def _disturbed(runtime: str) -> str:
    """`paper` in the most disturbed run of 28 November over the third."""
    runs = [run_of(RUNTIMES, PLUGINS_DAY[label]) for label in ("second run, most disturbed", "third run")]
    slow, fast = (run.row("paper", RUNTIME_NAMES[runtime])["ms"] for run in runs)
    return f"{slow / fast:.1f}"


def _training_minutes() -> str:
    rows = [*rows_of(ROWS, "fast"), *rows_of(ROWS, "accurate")]
    return f"{mean(row['training_seconds'] for row in rows) / 60:.0f} minutes"


def _metric(name: str, method: str, metric: str, part: str | None) -> str:
    return f"{mean(values(name, method, metric, part)):.3f}"


def _gap(method: str, metric: str, part: str | None) -> str:
    """How much higher a metric of ours is than PaDiM's."""
    ours, padim = (mean(values(ROWS, name, metric, part)) for name in (method, "padim"))
    return f"{ours - padim:.3f}"


def _fall(method: str) -> str:
    """Image AUROC of seed 0 on all images of the published split, less that on new tiles."""
    before, after = (
        next(row["image_auroc"] for row in rows_of(name, method) if row["seed"] == 0)
        for name in (ROWS, "mt-new-tiles.json")
    )
    return f"{before - after:.2f}"


def _block_2_cost(method: str) -> str:
    costs = [float(rows_of(name, method)[0]["gmac"]) for name in (FEATURE_BLOCK_2, ROWS)]
    return f"{costs[0] / costs[1]:.1f}"


def _accuracy_figures() -> dict[str, Figure]:
    """METHOD-PART-METRIC; METHOD-minus-padim-PART-METRIC; METHOD-new-tiles-fall; METHOD-block-2-cost."""
    figures: dict[str, Figure] = {}
    names = {
        f"{preset}{short}": f"{preset}{alone}" for preset in ("fast", "accurate") for short, alone in HEADS.items()
    }
    for short, method in {**names, "padim": "padim", "patchcore": "patchcore"}.items():
        for part, key in (("choosing", "choosing"), ("reported", "reporting"), ("all", None)):
            for metric in ("image_auroc", "aupro"):
                figures[f"{short}-{part}-{metric}"] = partial(_metric, ROWS, method, metric, key)
                if short in ("fast", "accurate"):
                    figures[f"{short}-minus-padim-{part}-{metric}"] = partial(_gap, method, metric, key)
        if "-" not in short:
            figures[f"{short}-new-tiles-fall"] = partial(_fall, method)
    for preset in ("fast", "accurate"):
        figures[f"{preset}-block-2-cost"] = partial(_block_2_cost, preset)
        for file in ("center-offset-0", "feature-block-2", "context-features-0"):
            for metric in ("image_auroc", "aupro"):
                figures[f"{preset}-{file}-{metric}"] = partial(_metric, f"mt-{file}.json", preset, metric, None)
    return figures


def _first_loop(name: str, preset: str) -> str:
    """The loop over a preset in the first run of a file."""
    return f"{next(iter(runs(name).values())).row(preset)['loop_speedup']:.0f}"


def _training_speed(name: str, form: str) -> str:
    return form.format(read_rows(TRAINING)[-1][name])


def _startup(backend: str, name: str, form: str) -> str:
    """Seconds of the last rows of `bench.startup`."""
    return form.format([row for row in read_rows(STARTUP) if row["backend"] == backend][-1][name])


def _installed(package: str | None) -> str:
    """Megabytes of a package of the base install, or of all with their unit."""
    sizes = [row for row in read_rows(STARTUP) if row["backend"] == "openvino"][-1]["install_bytes"]
    return f"{sum(sizes.values()) / 1e6:.0f} MB" if package is None else f"{sizes[package] / 1e6:.0f}"


FIGURES: dict[str, Figure] = {
    **_runtime_figures(),
    **_accuracy_figures(),
    "disturbed-plain": partial(_disturbed, "plain"),
    "disturbed-kernels": partial(_disturbed, "kernels"),
    "training-minutes": _training_minutes,
    "avx2-first-loop-paper": partial(_first_loop, "runtimes-avx2.jsonl", "paper"),
    "training-dense": partial(_training_speed, "dense_ms_per_hole", "{:.1f} ms"),
    "training-masked": partial(_training_speed, "masked_ms_per_hole", "{:.0f} ms"),
    "training-speedup": partial(_training_speed, "speedup", "{:.0f} times"),
    "startup-openvino-total": partial(_startup, "openvino", "total_s", "{:.2f} s"),
    "startup-openvino-import": partial(_startup, "openvino", "import_s", "{:.2f}"),
    "startup-openvino-load": partial(_startup, "openvino", "load_s", "{:.2f}"),
    "startup-openvino-score": partial(_startup, "openvino", "score_s", "{:.2f}"),
    "startup-onnxruntime-total": partial(_startup, "onnxruntime", "total_s", "{:.2f} s"),
    "startup-torch-total": partial(_startup, "torch", "total_s", "{:.2f} s"),
    "install-total": partial(_installed, None),
    "install-openvino": partial(_installed, "openvino"),
    "install-numpy": partial(_installed, "numpy"),
    "install-pillow": partial(_installed, "pillow"),
}
