"""The command line's page, written from the typer commands where the page says `<!-- commands -->`.

The commands are read from their functions' signatures, not from typer's parsed parameters, which differ by version.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from html import escape
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from typer.models import ArgumentInfo

from glance_fast.cli import app

MARK = "<!-- commands -->"
KINDS = {"str": "TEXT", "int": "INTEGER", "float": "NUMBER", "Path": "PATH"}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put a section per command in the place of the mark."""
    return markdown.replace(MARK, "\n".join(sections())) if MARK in markdown else markdown


def sections() -> Iterator[str]:
    """A heading, the help and a table of arguments and options per command."""
    for command in app.registered_commands:
        function = command.callback
        assert function is not None
        name = command.name or function.__name__
        rows = list(parameters(function))
        arguments = " ".join(
            title if default == "required" else f"[{title}]" for title, default, _, positional in rows if positional
        )
        yield f"## {name}\n\n{inspect.getdoc(function)}\n\n```text\nglance-fast {name} [OPTIONS] {arguments}\n```\n"
        yield "| | default | |\n|---|---|---|"
        yield from (f"| `{title}` | {default} | {text} |" for title, default, text, _ in rows)
        yield ""


def parameters(function: Callable[..., Any]) -> Iterator[tuple[str, str, str, bool]]:
    """Per parameter its name with the kind of its value, its default, its help, and whether it is positional."""
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        annotation, info = get_args(hints[name])[:2]
        positional = isinstance(info, ArgumentInfo)
        kind = kind_of(annotation)
        if positional:
            title = f"{name.upper()}{'...' if 'list' in str(annotation) else ''}"
        else:
            # In Annotated[..., Option("--model", "-m")] typer takes the first name for a default.
            first = [info.default] if isinstance(info.default, str) else []
            names = ", ".join([*first, *(info.param_decls or ())] or [f"--{name.replace('_', '-')}"])
            title = names if kind is bool else f"{names} {KINDS[kind.__name__]}"
        if parameter.default is parameter.empty:
            default = "required"
        else:
            default = "" if parameter.default in (None, False) else f"`{parameter.default}`"
        yield title, default, cell(info.help or ""), positional


def cell(text: str) -> str:
    """A text in a cell of a table."""
    return " ".join(escape(text, quote=False).replace("|", "\\|").split())


def kind_of(annotation: Any) -> type:
    """The type of one value: that of `X` in `X | None` and in `list[X]`."""
    while get_origin(annotation) in (Union, UnionType, list):
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    kind: type = annotation
    return kind
