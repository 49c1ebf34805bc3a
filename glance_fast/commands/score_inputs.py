"""Which images `glance-fast score` scores: none that lies in its output folder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from glance_fast.errors import DataError

log = logging.getLogger("glance_fast")


def outside(output: Path, paths: Sequence[Path]) -> list[Path]:
    """Those of `paths` that do not lie below the folder `output`; the log says how many do.

    Raises DataError where all do.
    """
    folder = output.resolve()
    kept = [path for path in paths if not path.resolve().is_relative_to(folder)]
    left_out = len(paths) - len(kept)
    if not kept:
        raise DataError(f"all {left_out} images lie in the output folder {output}; choose another --output")
    if left_out:
        log.warning("%d images in the output folder %s are left out", left_out, output)
    return kept
