"""Reused memory for the tables of a run, so that no run waits for the operating system's pages."""

from __future__ import annotations

import torch
from torch import Tensor


class Workspace:
    """Named buffers that grow to the largest size requested; for one run at a time."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def buffer(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """The buffer `name` as a tensor of `shape`, dtype and device of `like`. Its contents are undefined.

        It is valid until the next call with this name.
        """
        needed = torch.Size(shape).numel()
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < needed or buffer.dtype != like.dtype:
            # A tensor made in inference mode could never be written outside it again.
            with torch.inference_mode(False):
                buffer = self._buffers[name] = torch.empty(needed, dtype=like.dtype, device=like.device)
        return buffer[:needed].view(shape)
