"""Tables of settings, written from the pydantic models where a page says `<!-- settings: ModelConfig -->`."""

from __future__ import annotations

import re
from html import escape
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from glance_fast.config import ModelConfig, TrainConfig
from glance_fast.presets import PRESETS

MARK = re.compile(r"<!-- settings: (\w+) -->")
MODELS: dict[str, tuple[type[BaseModel], str]] = {
    "ModelConfig": (ModelConfig, "model"),
    "TrainConfig": (TrainConfig, "train"),
}
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put a table in the place of each mark."""
    return MARK.sub(lambda match: rows_of(match.group(1)), markdown)


def rows_of(name: str) -> str:
    """One row per setting: legal values, default, the presets' values where they differ, description."""
    model, group = MODELS[name]
    presets = {preset: tables[group] for preset, tables in PRESETS.items() if tables[group]}
    head = ["setting", "legal values", "default", *(f"`{preset}`" for preset in presets), "what it is"]
    rows = [head, ["---"] * len(head)]
    for setting, field in model.model_fields.items():
        default = field.get_default()
        changed = [table.get(setting, default) for table in presets.values()]
        values = ["" if value == default else code(value) for value in changed]
        rows.append([code(setting), legal(field), code(default), *values, escape(field.description or "", quote=False)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def legal(field: FieldInfo) -> str:
    """The legal values of a setting: its choices, or its type and bounds."""
    kind = field.annotation
    if type(None) in get_args(kind) and "Literal" in str(kind):
        return ", ".join(code(value) for value in get_args(get_args(kind)[0])) + ", or not set"
    if getattr(kind, "__name__", "") == "Literal" or "Literal" in str(kind):
        return ", ".join(code(value) for value in get_args(kind))
    bounds = [
        f"{sign} {getattr(rule, word)}"
        for rule in field.metadata
        for word, sign in BOUNDS.items()
        if hasattr(rule, word)
    ]
    return " ".join([kind_name(kind), ", ".join(bounds)]).strip()


def kind_name(kind: Any) -> str:
    """A type in words."""
    if isinstance(kind, type) and not get_args(kind):
        return {"int": "integer", "float": "number", "bool": "true, false"}.get(kind.__name__, kind.__name__)
    text = str(kind)
    if "tuple[int, int]" in text:
        return "two integers"
    return "integer or list of integers" if text.startswith("int |") or "Annotated" in text else "list of integers"


def code(value: Any) -> str:
    """A value as `--set` takes it."""
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(value, float):
        return f"`{value!r}`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"
