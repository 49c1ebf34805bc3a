"""Tables of times, memory and throughput."""

from __future__ import annotations

from statistics import mean, median

from bench.harness.cases import OPENVINO_PLUGINS
from bench.harness.roofline import CONVOLUTION, PRODUCT
from bench.peers.networks import PEER_NETWORKS
from bench.tables.rows import (
    BenchmarkRun,
    Lines,
    Row,
    Table,
    code,
    gigabytes,
    gmac,
    last_run,
    read_rows,
    run_of,
    runs,
    seconds,
)
from glance_fast.presets import PRESETS

RUNTIMES = "runtimes.jsonl"
PEERS = (
    "PaDiM ResNet-18", "STFPM ResNet-18", "PatchCore ResNet-18", "EfficientAD-S", "PatchCore Wide ResNet-50",
    "EfficientAD-M",
)  # fmt: skip
assert set(PEERS) == set(PEER_NETWORKS)
LOOP = "loop, PyTorch"
# Runs that a table describes by their dates.
FASTER_MACHINE = {"first run, disturbed": "2026-11-25T14:17", "second run": "2026-11-25T14:21",
                  "third run": "2026-11-25T14:43"}  # fmt: skip
PLUGINS_DAY = {"first run, disturbed": "2026-11-28T03:21", "second run, most disturbed": "2026-11-28T03:42",
               "third run": "2026-11-28T04:02"}  # fmt: skip
WAYS = {
    "engine alone, decoded images": "`Engine.score`, decoded images, one by one",
    "Engine.stream of paths": "`Engine.stream` of paths",
    "Engine.stream, streams=None": "the same, `Engine.load(…, streams=2)`",
    "score without pictures": "`score --overlays none`, two streams",
    "score with pictures of anomalous images": "`score --overlays anomalous`, most images anomalous",
    "score with pictures of all": "`score`, pictures of all",
    "the same with --streams 1": "`score --streams 1`, pictures of all",
}


def _name(method: str) -> str:
    return code(method) if method in PRESETS else method


def _shares(run: BenchmarkRun, method: str, runtime: str = "OpenVINO") -> str:
    shares = [run.row(method, runtime, precision)["roofline_share"] for precision in ("fp32", "bf16")]
    return ", ".join(f"{share:.0%}" for share in shares)


def _loop(run: BenchmarkRun, method: str) -> str:
    return seconds(run.row(method, LOOP)["ms"]) if method in PRESETS else ""


def runtimes() -> Lines:
    """The last run: every method in every runtime."""
    run = last_run(RUNTIMES)
    lines: Lines = [
        ["", "GMAC", "OpenVINO float32", "bfloat16", "ONNX Runtime", "PyTorch", "per-patch loop",
         "loop over OpenVINO float32", "of the roofline, float32 and bfloat16", "memory, OpenVINO float32"],
    ]  # fmt: skip
    for method in (*PRESETS, *PEERS):
        row = run.row(method)
        speedup = f"{row['loop_speedup']:.0f}×" if method in PRESETS else ""
        times = [run.ms(method, "OpenVINO", "bf16"), run.ms(method, "ONNX Runtime"), run.ms(method, "PyTorch")]
        costs = [speedup, _shares(run, method), f"{row['memory_mb']} MB"]
        lines.append([_name(method), gmac(row["gmac"]), run.ms(method), *times, _loop(run, method), *costs])
    return lines


def faster_machine() -> Lines:
    """The third run of 25 November."""
    run = run_of(RUNTIMES, FASTER_MACHINE["third run"])
    lines: Lines = [
        ["", "OpenVINO float32", "bfloat16", "ONNX Runtime", "PyTorch", "per-patch loop",
         "of the roofline, float32 and bfloat16"],
    ]  # fmt: skip
    for method in (*PRESETS, *PEERS):
        times = [run.ms(method), run.ms(method, "OpenVINO", "bf16"), run.ms(method, "ONNX Runtime")]
        lines.append([_name(method), *times, run.ms(method, "PyTorch"), _loop(run, method), _shares(run, method)])
    return lines


def three_runs() -> Lines:
    """Ratios of the three runs of 25 November."""
    lines: Lines = [
        ["", "PaDiM over `fast`, float32 and bfloat16", "STFPM over `fast`", "EfficientAD-S over `accurate`",
         "loop over `fast`, `accurate`, `paper`", "bfloat16 over float32, the same"],
    ]  # fmt: skip
    for label, date in FASTER_MACHINE.items():
        run = run_of(RUNTIMES, date)
        pairs = (("PaDiM ResNet-18", "fast", 2), ("STFPM ResNet-18", "fast", 2), ("EfficientAD-S", "accurate", 1))
        cells = [", ".join(f"{peer_ratio(run, peer, preset, precision):.{digits}f}" for precision in ("fp32", "bf16"))
                 for peer, preset, digits in pairs]  # fmt: skip
        cells.append(", ".join(f"{run.row(preset)['loop_speedup']:.0f}" for preset in PRESETS))
        cells.append(", ".join(f"{bfloat16_gain(run, preset):.2f}" for preset in PRESETS))
        lines.append([label, *cells])
    return lines


def peer_ratio(run: BenchmarkRun, peer: str, preset: str, precision: str, runtime: str = "OpenVINO") -> float:
    """Time of a peer in OpenVINO over that of a preset, by turns."""
    return run.ratio((peer, "OpenVINO", precision), (preset, runtime, precision))


def bfloat16_gain(run: BenchmarkRun, preset: str, runtime: str = "OpenVINO") -> float:
    """Time in float32 over time in bfloat16, by turns."""
    return run.ratio((preset, runtime, "fp32"), (preset, runtime, "bf16"))


def limit(run: BenchmarkRun, precision: str) -> float:
    """GFLOP/s of the faster limit of the machine, the median over the turns."""
    limits = [run.row(method, "OpenVINO", precision) for method in (PRODUCT, CONVOLUTION)]
    turns = zip(*([2 * row["gmac"] / ms * 1e3 for ms in row["turns_ms"]] for row in limits), strict=True)
    return float(median(max(turn) for turn in turns))


def plugins() -> Lines:
    """The plain graph and our kernels, in the last run."""
    run, precisions = last_run(RUNTIMES), ("fp32", "bf16")
    lines: Lines = [
        ["", "plain, float32 and bfloat16", "with our kernels", "plain over ours, by turns",
         "loop over ours, float32 and bfloat16", "of the roofline", "memory, float32: plain, ours"],
    ]  # fmt: skip
    for preset in PRESETS:
        times = [
            ", ".join(f"{run.row(preset, runtime, precision)['ms']:.1f}" for precision in precisions) + " ms"
            for runtime in ("OpenVINO", OPENVINO_PLUGINS)
        ]
        keys = [((preset, "OpenVINO", precision), (preset, OPENVINO_PLUGINS, precision)) for precision in precisions]
        gains = ", ".join(f"{run.ratio(plain, ours):.2f}" for plain, ours in keys)
        loops = ", ".join(f"{run.row(*ours)['loop_speedup']:.0f}×" for _, ours in keys)
        memory = ", ".join(str(run.row(*key)["memory_mb"]) for key in keys[0]) + " MB"
        lines.append([code(preset), *times, gains, loops, _shares(run, preset, OPENVINO_PLUGINS), memory])
    return lines


def plugins_day() -> Lines:
    """Ratios of all runs of 28 November."""
    lines: Lines = [["", "`paper`, plain", "with our kernels", "`fast` in bfloat16, plain", "with our kernels"]]
    for label, date in PLUGINS_DAY.items():
        run, runtimes_ = run_of(RUNTIMES, date), ("OpenVINO", OPENVINO_PLUGINS)
        loops = [f"{run.row('paper', runtime)['loop_speedup']:.0f}×" for runtime in runtimes_]
        lines.append([label, *loops, *(f"{bfloat16_gain(run, 'fast', runtime):.2f}" for runtime in runtimes_)])
    return lines


def points() -> Lines:
    """`fast` at several sizes, strides and batches."""
    lines: Lines = [
        ["size", "stride", "batch", "GMAC", "OpenVINO float32", "bfloat16", "ONNX Runtime", "PyTorch",
         "p50, p95, p99, OpenVINO float32", "images per second", "loop over OpenVINO"],
    ]  # fmt: skip
    for size, stride, batch in ((s, t, b) for s in (256, 512) for t in (8, 16) for b in (1, 4)):
        (run,) = runs("points.jsonl", size, stride, batch).values()
        row = run.row("fast")
        times = [run.ms("fast"), run.ms("fast", "OpenVINO", "bf16"), run.ms("fast", "ONNX Runtime")]
        latencies = ", ".join(f"{row[name]:.0f}" for name in ("p50_ms", "p95_ms", "p99_ms")) + " ms"
        rates = [f"{row['images_per_second']:.0f}", f"{row['loop_speedup']:.0f}×"]
        cells = [f"{size}×{size}", str(stride), str(batch), gmac(row["gmac"]), *times, run.ms("fast", "PyTorch")]
        lines.append([*cells, latencies, *rates])
    return lines


def strips() -> Lines:
    """Large images in PyTorch; the additional multiply-adds where the rows have the whole plan's."""
    lines: Lines = [["image", "locations", "strips", "tables without strips", "peak memory", "time"]]
    for row in scaling("PyTorch", "side"):
        if row["strips"] > 1:
            cells = [f"{row['side']}×{row['side']}", f"{row['locations']:,}", str(row["strips"])]
            memory = [gigabytes(row["whole_peak"]), gigabytes(row["memory"])]
            time = f"{row['ms'] / 1e3:.1f} s" if row["ms"] < 10_000 else f"{row['ms'] / 1e3:.0f} s"
            lines.append([*cells, *memory, time])
    return lines


def scaling(runtime: str, sweep: str) -> list[Row]:
    """The rows of one sweep of `bench.scaling`."""
    return [row for row in read_rows("scaling.jsonl") if (row["runtime"], row["sweep"]) == (runtime, sweep)]


def throughput() -> Lines:
    """Images per second of each way, and its share of the engine alone; the last run at each precision."""
    cells: dict[str, dict[str, str]] = {}
    for row in read_rows("throughput.jsonl"):
        share = f"{row['images_per_second']:.0f}, {row['of_engine']:.0%}"
        cells.setdefault(row.get("precision", "fp32"), {})[row["way"]] = share
    lines: Lines = [["", "float32", "bfloat16"]]
    return [*lines, *([label, cells["fp32"][way], cells["bf16"][way]] for way, label in WAYS.items())]


def avx2() -> Lines:
    """The last run on a CPU without AVX-512; milliseconds without their unit."""
    run = last_run("runtimes-avx2.jsonl")
    lines: Lines = [["", "OpenVINO float32", "range", "ONNX Runtime", "PyTorch", "loop over OpenVINO"]]
    for method in (*PRESETS, "PaDiM ResNet-18", "STFPM ResNet-18", "EfficientAD-S"):
        row = run.row(method)
        bounds = " to ".join(_plain(row[name]) for name in ("low", "high"))
        speedup = f"{row['loop_speedup']:.0f}×" if method in PRESETS else ""
        others = [_plain(run.row(method, runtime)["ms"]) for runtime in ("ONNX Runtime", "PyTorch")]
        lines.append([_name(method), _plain(row["ms"]), bounds, *others, speedup])
    return lines


def _plain(ms: float) -> str:
    return f"{ms:.0f}" if ms >= 100 else f"{ms:.1f}"


def dense_and_loop() -> Lines:
    """The last rows of `bench.speed`, one per stride."""
    lines: Lines = [["", "locations", "per-patch loop", "dense pass", "faster", "fewer multiply-adds"]]
    rows = {row["stride"]: row for row in read_rows("speed.jsonl")}
    for stride, row in sorted(rows.items(), reverse=True):
        times = [f"{row['loop_ms'] / 1e3:.1f} s", f"{row['dense_ms']:.0f} ms"]
        ratios = [f"{row['speedup']:.0f}×", f"{row['fewer_macs']:.1f}×"]
        lines.append([f"stride {stride}", f"{row['locations']}", *times, *ratios])
    return lines


def headline() -> Lines:
    """README's table: the last run of `bench.runtimes`, and mean accuracies on all test images."""
    run, accuracy = last_run(RUNTIMES), read_rows("mt.json")
    lines: Lines = [["", "OpenVINO, float32", "bfloat16", "per-patch loop", "image AUROC", "AUPRO"]]
    networks = {
        **{preset: preset for preset in PRESETS},
        "PaDiM": "PaDiM ResNet-18",
        "PatchCore": "PatchCore ResNet-18",
    }
    for name, network in networks.items():
        rows = [row for row in accuracy if row["method"] == name.lower()]
        measured = [f"{mean(row[metric] for row in rows):.3f}" if rows else "" for metric in ("image_auroc", "aupro")]
        times = [run.ms(network), run.ms(network, "OpenVINO", "bf16")]
        lines.append([_name(name), *times, _loop(run, network), *measured])
    return lines


TABLES: dict[str, Table] = {
    "headline": headline,
    "runtimes": runtimes,
    "plugins": plugins,
    "plugins-of-the-day": plugins_day,
    "points": points,
    "strips": strips,
    "throughput": throughput,
    "runtimes-faster-machine": faster_machine,
    "three-runs": three_runs,
    "runtimes-avx2": avx2,
    "dense-and-loop": dense_and_loop,
}
