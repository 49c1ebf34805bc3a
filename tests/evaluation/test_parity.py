"""The parity report: every export against PyTorch, and PyTorch against the loop."""

from __future__ import annotations

from pathlib import Path

from glance_fast.backends.openvino_backend import multiplies_bfloat16
from glance_fast.backends.tolerances import tolerance
from glance_fast.data.images import read_image
from glance_fast.evaluation.parity import verify
from tests.helpers.images import save_images


def test_the_parity_report_compares_every_form(exported_folder: Path, tmp_path: Path) -> None:
    paths = save_images(tmp_path, 4, (60, 70))
    rows = {row.name: row for row in verify(exported_folder, paths, loop_images=2, progress=False)}
    forms = ["openvino fp32", "openvino bf16", "openvino fp16", "onnxruntime fp32", "onnxruntime fp16"]
    available = [name for name in forms if name != "openvino bf16" or multiplies_bfloat16()]
    assert list(rows) == ["loop against torch", "torch", *available]
    assert rows["loop against torch"].images == 2 and rows["torch"].largest == 0
    for name in ("loop against torch", "openvino fp32", "onnxruntime fp32"):
        assert max(rows[name].largest, rows[name].score) < rows[name].within == tolerance("trained map", "fp32")
    assert all(row.ms > 0 and row.mean <= row.largest for row in rows.values())
    assert rows["openvino fp32"].rank == 1
    if "openvino bf16" in available:
        assert rows["openvino bf16"].largest > rows["openvino fp16"].largest
    assert read_image(paths[0]).shape == (60, 70, 3)
