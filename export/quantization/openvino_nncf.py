"""int8 for OpenVINO, by NNCF: the products of the dense pass's blocks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import nncf
import numpy as np
from numpy.typing import NDArray

from glance_fast.export.graph.dense_pass import BLOCK_SCOPE


def quantize_int8(model: Any, photographs: Sequence[NDArray[np.uint8]]) -> Any:
    """An OpenVINO model with its blocks' products in 8 bits; ranges are of `photographs`, uint8 [H, W, 3].

    The rest stays in float32: whitening would multiply the errors of 8-bit convolutions by large numbers.
    """
    logging.getLogger("nncf").setLevel(logging.WARNING)
    dataset = nncf.Dataset(range(len(photographs)), lambda index: {"image": photographs[index][None]})
    names = [node.get_friendly_name() for node in model.get_ops() if BLOCK_SCOPE not in node.get_friendly_name()]
    ignored = nncf.IgnoredScope(names=names, validate=False)
    return nncf.quantize(model, dataset, subset_size=len(photographs), ignored_scope=ignored)
