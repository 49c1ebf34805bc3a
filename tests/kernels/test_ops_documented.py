"""The page on the Triton kernels names the PyTorch operators that exist, and no others."""

from __future__ import annotations

import re
from pathlib import Path

from glance_fast.kernels.gpu import ops

ROOT = Path(__file__).resolve().parents[2]
REGISTERED = re.compile(r'custom_op\("glance_fast::(\w+)"')
LISTED = re.compile(r"`torch\.ops\.glance_fast\.(\w+)`((?:,\s*`\w+`)*(?:,?\s*and\s+`\w+`)?)")


def test_the_documented_operators_are_those_that_are_registered() -> None:
    registered = set(REGISTERED.findall(Path(ops.__file__).read_text(encoding="utf-8")))
    lists = LISTED.findall((ROOT / "docs" / "kernels.md").read_text(encoding="utf-8"))
    assert lists, "docs/kernels.md has no list `torch.ops.glance_fast.…`, `…` and `…`"
    documented = {name for first, others in lists for name in (first, *re.findall(r"`(\w+)`", others))}
    assert documented == registered
