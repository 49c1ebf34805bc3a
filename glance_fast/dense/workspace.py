"""Reused memory for the tables of a run, so that no run waits for the operating system's pages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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


class Workspaces:
    """A pool of workspaces: as many as there ever were runs at the same time."""

    def __init__(self) -> None:
        self._free: list[Workspace] = []

    @contextmanager
    def lend(self) -> Iterator[Workspace]:
        """Lend a workspace to a run, on any thread."""
        try:
            space = self._free.pop()
        except IndexError:
            space = Workspace()
        try:
            yield space
        finally:
            self._free.append(space)
