"""Links from the pages to files of the repository: the site carries a copy of each linked text file.

In the repository such a link is relative (`../kernels/gpu/score.py`); the site has no such folder. A linked file is
copied to `source/<path>.txt`, which a browser shows; a link to a folder becomes its text.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Rewrite the links of a page that lead out of docs/."""
    docs = Path(config.docs_dir)
    root = docs.parent

    def replace(match: re.Match[str]) -> str:
        text, target = match.groups()
        if "://" in target or target.startswith("#"):
            return match.group(0)
        path = Path(os.path.normpath(docs / posixpath.dirname(page.file.src_uri) / target.partition("#")[0]))
        if path.is_relative_to(docs) or not path.exists():
            return match.group(0)  # a missing file stays, and mkdocs warns of it
        if path.is_dir():
            return text
        uri = f"source/{path.relative_to(root).as_posix()}.txt"
        if files.get_file_from_path(uri) is None:
            files.append(File.generated(config, uri, content=path.read_text(encoding="utf-8")))
        return f"[{text}]({posixpath.relpath(uri, posixpath.dirname(page.file.src_uri) or '.')})"

    return LINK.sub(replace, markdown)
