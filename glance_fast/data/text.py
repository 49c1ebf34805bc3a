"""Names for people: text that any terminal and any page can show."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with control characters, bidirectional marks and bytes outside Unicode spelled out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
