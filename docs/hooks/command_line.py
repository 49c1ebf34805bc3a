"""The command line's page, written from the typer commands where the page says `<!-- commands -->`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperArgument, TyperOption

from glance_fast.cli import app

MARK = "<!-- commands -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put a section per command in the place of the mark."""
    return markdown.replace(MARK, "\n".join(sections())) if MARK in markdown else markdown


def sections() -> Iterator[str]:
    """A heading, the usage, the help and a table of arguments and options per command."""
    group = typer.main.get_group(app)
    for name, command in group.commands.items():
        context = command.make_context(name, [], resilient_parsing=True)
        usage = " ".join(command.collect_usage_pieces(context))
        yield f"## {name}\n\n{command.help}\n\n```text\nglance-fast {name} {usage}\n```\n"
        yield "| | default | |\n|---|---|---|"
        for parameter in command.params:
            if isinstance(parameter, TyperArgument | TyperOption):
                yield f"| {title(parameter)} | {default(parameter)} | {cell(parameter.help or '')} |"
        yield ""


def title(parameter: TyperArgument | TyperOption) -> str:
    """The names of a parameter, with the kind of its value where it takes one."""
    if isinstance(parameter, TyperArgument):
        return f"`{(parameter.name or '').upper()}`"
    names = " ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    return names if parameter.is_flag else f"{names} {parameter.type.name}"


def default(parameter: TyperArgument | TyperOption) -> str:
    """The default, or that there is none."""
    if parameter.required:
        return "required"
    value = parameter.default
    return "" if value is None or value is False or callable(value) else f"`{value}`"


def cell(text: str) -> str:
    """A text in a cell of a table."""
    return " ".join(text.replace("|", "\\|").split())
