"""The command line, run in this process as a shell would run it."""

from __future__ import annotations

import sys

import pytest

from glance_fast import cli


def run_command(*arguments: object, status: int = 0) -> None:
    """Run `glance-fast` with these arguments; its exit status must be `status`."""
    before = sys.argv
    sys.argv = ["glance-fast", *(str(argument) for argument in arguments)]
    try:
        with pytest.raises(SystemExit) as left:
            cli.main()
    finally:
        sys.argv = before
    assert (left.value.code or 0) == status
