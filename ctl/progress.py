"""Progress of long work: one line that changes on a terminal, nothing elsewhere; results are printed by the caller."""

from __future__ import annotations

import sys
from types import TracebackType

from cloudless.ctl.app import App

_CLEAR = "\r\033[K"


class Progress:
    """A status line on stderr. Off a terminal it stays silent."""

    def __init__(self, app: App) -> None:
        self._live = sys.stderr.isatty() and app.environment.get("TERM") != "dumb"
        self._shown = ""

    def show(self, text: str) -> None:
        if not self._live or text == self._shown:
            return
        import shutil

        columns = shutil.get_terminal_size().columns
        sys.stderr.write(_CLEAR + text[: max(columns - 1, 1)])
        sys.stderr.flush()
        self._shown = text

    def clear(self) -> None:
        if self._shown:
            sys.stderr.write(_CLEAR)
            sys.stderr.flush()
            self._shown = ""

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()
