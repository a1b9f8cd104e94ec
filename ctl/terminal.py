"""The local end of an interactive program: raw mode, the terminal's size, and reading keys without getting stuck."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

CHUNK_BYTES: Final = 64 * 1024


def size() -> tuple[int, int]:
    """(columns, rows) of the terminal on stdout, or 80 x 24."""
    try:
        found = os.get_terminal_size(sys.stdout.fileno())
    except (OSError, ValueError):
        return 80, 24
    return found.columns or 80, found.lines or 24


@contextmanager
def raw(descriptor: int) -> Iterator[None]:
    """Every key goes to the program, Ctrl-C too; the terminal is as before afterwards."""
    import termios
    import tty

    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@contextmanager
def on_resize(report: Callable[[int, int], None]) -> Iterator[None]:
    """Calls `report(columns, rows)` whenever the terminal changes its size. Only in the main thread."""

    def handle(_number: int, _frame: object) -> None:
        report(*size())

    before = signal.signal(signal.SIGWINCH, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)


def chunks(descriptor: int, stopped: Callable[[], bool], *, poll_s: float = 0.2) -> Iterator[bytes]:
    """What is read from a descriptor until its end, or until `stopped`."""
    while not stopped():
        try:
            ready, _, _ = select.select([descriptor], [], [], poll_s)
        except (OSError, ValueError):
            ready = [descriptor]  # a plain file on some systems
        if not ready:
            continue
        data = os.read(descriptor, CHUNK_BYTES)
        if not data:
            return
        yield data
