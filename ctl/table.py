"""Tables: plain aligned columns everywhere, colours by rich on a terminal."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Sequence
from typing import Final

from cloudless.ctl.app import App

_GAP: Final = "   "
_STYLES: Final = {
    "Ready": "green", "Available": "green", "active": "green", "Succeeded": "green",
    "Progressing": "yellow", "Pending": "yellow", "Starting": "yellow", "Preparing": "yellow", "Stopping": "yellow",
    "Unknown": "yellow",
    "Unreachable": "yellow", "warning": "yellow", "Degraded": "yellow", "Terminating": "yellow", "Draining": "yellow",
    "Failed": "red", "Lost": "red", "error": "red", "CrashLoopBackOff": "red", "expired": "red", "revoked": "red",
}  # fmt: skip


def width(text: str) -> int:
    """Columns that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def safe(text: object) -> str:
    """One line without control characters: what comes from elsewhere may not steer the terminal."""
    line = str(text)
    return line if line.isprintable() else "".join(c if c.isprintable() else " " for c in line)


def columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    """How wide each column must be."""
    return [max(width(line[at]) for line in (header, *rows)) for at in range(len(header))]


def row(cells: Sequence[str], widths: list[int]) -> str:
    """One line of a table; the last column is not padded. `widths` grows where a cell needs it."""
    clean = [safe(cell) for cell in cells]
    for at, cell in enumerate(clean):
        widths[at] = max(widths[at], width(cell))
    return _GAP.join(cell + " " * (widths[at] - width(cell)) for at, cell in enumerate(clean)).rstrip()


def layout(header: Sequence[str], rows: Sequence[Sequence[str]], *, show_header: bool = True) -> list[str]:
    """The lines of a table."""
    lines = [header, *rows] if show_header else list(rows)
    widths = columns(lines[0], lines[1:]) if lines else []
    return [row(line, widths) for line in lines]


def show(app: App, header: Sequence[str], rows: Sequence[Sequence[object]], *, show_header: bool = True) -> None:
    """Prints a table to stdout."""
    cells = [[safe(cell) for cell in line] for line in rows]
    if app.colour(sys.stdout):
        _show_rich(header, cells, show_header)
        return
    for line in layout(header, cells, show_header=show_header):
        app.print(line)


def _show_rich(header: Sequence[str], rows: Sequence[Sequence[str]], show_header: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=show_header, header_style="bold", pad_edge=False, padding=(0, 3, 0, 0))
    for name in header:
        table.add_column(name, no_wrap=True, overflow="ignore")
    for line in rows:
        table.add_row(*(Text(cell, style=_STYLES.get(cell.split(",")[0].split(" ")[0], "")) for cell in line))
    # Lines are not folded: what is too wide for the terminal wraps there, and copies whole.
    wide = max((width(text) for text in layout(header, rows)), default=0) + 4 * len(header)
    Console(highlight=False, width=max(wide, os.get_terminal_size().columns if sys.stdout.isatty() else 80)).print(
        table, soft_wrap=True
    )
