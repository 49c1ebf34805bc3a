"""Triton kernels compiled ahead of time: code for a GPU that need not be there, for programs that hold no Triton."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

WARP = 32
OPTIONS = ("num_warps", "num_stages")


@dataclass(frozen=True)
class Code:
    """A compiled kernel: PTX whose entry `name` takes the kernel's arguments, those that are no constants, in order.

    Every program has `threads` threads and takes `shared` bytes of shared memory.
    """

    name: str
    ptx: str
    threads: int
    shared: int


def compile_ahead(kernel: Any, types: Mapping[str, str], settings: Mapping[str, Any], target: int) -> Code:
    """Compile a kernel for compute capability `target` (90 is 9.0).

    `types` names the arguments, "*fp16" or "i32"; what pointers point to lies at multiples of 16 bytes. `settings` are
    the values of all others, and Triton's options, as a launch takes them by name.
    """
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, name in enumerate(kernel.arg_names) if signature[name].startswith("*")
    }
    mine = {name: settings[name] for name in kernel.arg_names if name not in types}
    source = ASTSource(kernel, signature, constexprs=mine, attrs=aligned)
    options = {name: settings[name] for name in OPTIONS if name in settings}
    made = triton.compile(source, target=GPUTarget("cuda", target, WARP), options=options)
    ptx = _of_parameters(made.asm["ptx"], made.metadata.name, len(kernel.arg_names) - len(mine))
    return Code(made.metadata.name, ptx, made.metadata.num_warps * WARP, made.metadata.shared)


def _of_parameters(ptx: str, name: str, count: int) -> str:
    """The same PTX with the entry's first `count` parameters alone.

    Behind them Triton puts its own, for scratch memory, which these kernels never read and nobody else would pass.
    """
    entry = re.search(rf"\.entry {name}\((.*?)\)", ptx, re.DOTALL)
    assert entry is not None
    parameters = entry[1].split(",")
    body = ptx[entry.end() :]
    assert not any(f"{name}_param_{i}]" in body for i in range(count, len(parameters))), "scratch memory is read"
    return ptx[: entry.start(1)] + ",".join(parameters[:count]) + "\n" + ptx[entry.end(1) :]
