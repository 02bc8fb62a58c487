"""HTML pages in one file, which load nothing else."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from .files import write_text

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<meta name="generator" content="mmdit-probe">
<link rel="icon" href="data:,">
"""


def document(title: str, style: str, body: str) -> str:
    """The whole file: ``title`` is plain text, ``style`` CSS and ``body`` HTML."""
    return f"{_HEAD}<title>{html.escape(title)}</title>\n<style>\n{style}\n</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"


@dataclass(frozen=True, eq=False)
class HtmlPage:
    """A finished page; ``text`` is the HTML."""

    kind: ClassVar[str] = "page"
    text: str

    @property
    def megabytes(self) -> float:
        """Size of the file in MB (10^6 bytes)."""
        return len(self.text.encode()) / 1e6

    def save(self, path: Path | str) -> Path:
        """Write the file atomically."""
        return write_text(Path(path), self.text)

    def _repr_html_(self) -> str:
        """The page in an iframe, as notebooks show it."""
        shown = f'srcdoc="{html.escape(self.text)}" style="width:100%;height:900px;border:0"'
        return f'<iframe {shown} title="mmdit-probe {self.kind}"></iframe>'
