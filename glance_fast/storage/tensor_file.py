"""The header of a safetensors file, read before any tensor is made: eight bytes of its length, then JSON."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from glance_fast.storage.checked_files import faults
from glance_fast.storage.strict_json import parse_object

# Ten times the header of the largest model.
MAX_HEADER_BYTES = 2**20
METADATA = "__metadata__"


class _Entry(BaseModel):
    """What the header says of a tensor."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    dtype: str
    shape: list[int]
    data_offsets: list[int]


_ENTRIES, _METADATA = TypeAdapter(dict[str, _Entry]), TypeAdapter(dict[str, str])


@dataclass(frozen=True)
class TensorHeader:
    """The metadata of a safetensors file, and the shape of each tensor by its name."""

    metadata: dict[str, str]
    shapes: dict[str, tuple[int, ...]]


def read_header(data: bytes) -> TensorHeader:
    """The header of the safetensors file whose bytes are `data`; ValueError says what is wrong with it."""
    length = int.from_bytes(data[:8], "little")
    if not 8 + length <= len(data):
        raise ValueError(f"its header of {length:,} bytes goes beyond its end")
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"its header has {length:,} bytes, and at most {MAX_HEADER_BYTES:,} are read")
    entries = parse_object(data[8 : 8 + length])
    try:
        metadata = _METADATA.validate_python(entries.pop(METADATA, {}))
        tensors = _ENTRIES.validate_python(entries)
    except ValidationError as error:
        raise ValueError(f"its header is of another kind: {faults(error)[:500]}") from None
    return TensorHeader(metadata, {name: tuple(entry.shape) for name, entry in tensors.items()})
