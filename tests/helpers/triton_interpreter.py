"""Triton's interpreter in less time, with the same results.

Half of its time goes into checks of integers for overflow, which sizes as small as the tests' never reach, and into
patching Triton's language anew at every call of a function.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from triton.runtime import interpreter


def shorten_interpretation() -> None:
    """For this process: no checks for overflow, and the language patched once per function."""
    _check_overflow(False)
    interpreter.InterpretedFunction.__call__ = _call_device_function


@contextmanager
def overflow_checked() -> Iterator[None]:
    """Meanwhile an integer of a kernel that leaves its type is an error."""
    _check_overflow(True)
    try:
        yield
    finally:
        _check_overflow(False)


def _check_overflow(check: bool) -> None:
    interpreter.interpreter_builder.options = interpreter.InterpreterOptions(sanitize_overflow=check)


_patch_language = cache(interpreter._patch_lang)


def _call_device_function(function: Any, *args: Any, **kwargs: Any) -> Any:
    """`InterpretedFunction.__call__`, which patches `triton.language` again at every call.

    A launch has patched it for its kernel and restores it at its end. What the functions of Triton's own library use,
    `triton.language.core`, is patched at a function's first call and never restored.
    """
    _patch_language(function.fn)
    try:
        return function.rewrite()(*args, **kwargs)
    except Exception as error:
        raise interpreter.InterpreterError(repr(error)) from error
