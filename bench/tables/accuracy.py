"""Tables of accuracy, from the rows of `bench.accuracy`."""

from __future__ import annotations

from statistics import mean
from typing import Any

from bench.tables.rows import Lines, Row, Table, code, read_rows, with_deviation

ROWS, FEATURE_BLOCK_2 = "mt.json", "mt-feature-block-2.json"
PEER_NAMES = {"patchcore": "PatchCore", "padim": "PaDiM"}
HEADS = ("IAD", "DAD")
DEFECTS = ("blowhole", "break", "crack", "fray", "uneven")


def rows_of(name: str, method: str) -> list[Row]:
    """All seeds of one method in one file."""
    return [row for row in read_rows(name) if row["method"] == method]


def values(name: str, method: str, metric: str, part: str | None = None) -> list[float]:
    """A metric of all seeds, on all test images or on a part of them."""
    return [(row["parts"][part] if part else row)[metric] for row in rows_of(name, method)]


def _label(method: str) -> str:
    preset, comma, head = method.partition(", ")
    return PEER_NAMES.get(method, code(preset) + comma + head)


def reported_part() -> Lines:
    """The part of the test images that no setting was chosen by."""
    lines: Lines = [["", "seeds", "image AUROC", "AUPRO 0.3", *DEFECTS, "GMAC"]]
    presets = [f"{preset}{alone}" for preset in ("fast", "accurate") for alone in ("", *_alone())]
    lines += [_reported(ROWS, method, _label(method)) for method in (*presets, *PEER_NAMES)]
    block_2 = [(method, f"{code(method)} with `feature_block = 2`") for method in ("fast", "accurate")]
    return [*lines, *(_reported(FEATURE_BLOCK_2, *pair) for pair in block_2)]


def _alone() -> list[str]:
    return [f", {head} alone" for head in HEADS]


def _reported(name: str, method: str, label: str) -> list[str]:
    rows = rows_of(name, method)
    parts: list[dict[str, Any]] = [row["parts"]["reporting"] for row in rows]
    metrics = [with_deviation([part[metric] for part in parts]) for metric in ("image_auroc", "aupro")]
    defects = [f"{mean(part['defects'][defect] for part in parts):.3f}" for defect in DEFECTS]
    return [label, str(len(rows)), *metrics, *defects, rows[0]["gmac"]]


def _with_heads(name: str, method: str, label: str, heads: bool) -> list[str]:
    """Image AUROC and AUPRO of a method on all images, and of its heads alone."""
    cells = []
    for metric in ("image_auroc", "aupro"):
        cells.append(with_deviation(values(name, method, metric)))
        alone = [values(name, f"{method}{head}", metric) for head in _alone()] if heads else []
        cells += [f"{mean(of_head):.3f}" for of_head in alone] or ["", ""]
    return [label, *cells]


def _head(first: str) -> list[str]:
    return [first, "image AUROC", "IAD alone", "DAD alone", "AUPRO 0.3", "IAD alone", "DAD alone"]


def all_images() -> Lines:
    """All test images."""
    lines = [_head("three seeds")]
    lines += [_with_heads(ROWS, preset, code(preset), True) for preset in ("fast", "accurate")]
    lines += [_with_heads(ROWS, peer, label, False) for peer, label in PEER_NAMES.items()]
    block_2 = [(method, f"{code(method)} with `feature_block = 2`") for method in ("fast", "accurate")]
    return [*lines, *(_with_heads(FEATURE_BLOCK_2, *pair, False) for pair in block_2)]


def new_tiles() -> Lines:
    """The split in which no training image shows a tile of the normal test images."""
    name = "mt-new-tiles.json"
    lines = [_head("new tiles")]
    lines += [_with_heads(name, preset, code(preset), True) for preset in ("fast", "accurate")]
    return [*lines, *(_with_heads(name, peer, label, False) for peer, label in PEER_NAMES.items())]


TABLES: dict[str, Table] = {"reported-part": reported_part, "all-images": all_images, "new-tiles": new_tiles}
