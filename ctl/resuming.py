"""A log that is read on after a break: what came already is left out, what is new is not."""

from __future__ import annotations

import re
from collections import deque
from datetime import UTC, datetime
from typing import Final

LINES_KEPT: Final = 5_000
# The time of a line is that of the file's last change when it is read as it comes, and an index's later.
_SAME_WITHIN_S: Final = 2.0
_STAMP: Final = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3})Z ")


class Tail:
    """Takes lines with their times, and gives them out with or without. Knows the last ones that were shown: after
    `resume` the log is read again from a moment before the break, and the lines that continue what was shown are
    dropped. Lines are the same whose text is the same and whose times are close. Where that cannot be told, lines come
    twice rather than not at all."""

    def __init__(self, *, timestamps: bool) -> None:
        self.begun = False  # something came
        self._timestamps = timestamps
        self._shown: deque[bytes] = deque(maxlen=LINES_KEPT)
        self._rest = b""  # of a line whose end has not come yet
        self._before: list[bytes] = []
        self._places: list[int] = []  # where in `_before` the next line would have to stand
        self._held: list[bytes] = []
        self._matching = False

    def resume(self) -> None:
        """The log is read again."""
        self._rest = b""
        self._held = []
        self._before = list(self._shown)
        self._places = list(range(len(self._before)))
        self._matching = bool(self._before)

    def new(self, data: bytes) -> bytes:
        """What of the data is to be shown: whole lines."""
        self.begun = True
        *lines, self._rest = (self._rest + data).split(b"\n")
        if not self._matching:
            return self._show(lines)
        for number, line in enumerate(lines):
            self._held.append(line)
            self._places = [place + 1 for place in self._places if _same(self._before[place], line)]
            if self._places and self._places[-1] == len(self._before):
                return self._go_on(lines[number + 1 :])
            if not self._places:
                return self._go_on([*self._held, *lines[number + 1 :]])
        return b""

    def end(self) -> bytes:
        """The last line, where it lacks its newline."""
        rest, self._rest = self._rest, b""
        return self._text(rest)

    def _go_on(self, lines: list[bytes]) -> bytes:
        self._matching, self._held, self._before = False, [], []
        return self._show(lines)

    def _show(self, lines: list[bytes]) -> bytes:
        self._shown.extend(lines)
        return b"".join(self._text(line) + b"\n" for line in lines)

    def _text(self, line: bytes) -> bytes:
        return line if self._timestamps else _parts(line)[1]


def _parts(line: bytes) -> tuple[bytes, bytes]:
    found = _STAMP.match(line)
    return (found.group(1), line[found.end() :]) if found else (b"", line)


def _same(one: bytes, other: bytes) -> bool:
    if one == other:
        return True
    (one_at, one_text), (other_at, other_text) = _parts(one), _parts(other)
    if one_text != other_text or not one_at or not other_at:
        return False
    return abs(_seconds(one_at) - _seconds(other_at)) <= _SAME_WITHIN_S


def _seconds(stamp: bytes) -> float:
    try:
        return datetime.fromisoformat(stamp.decode()).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0
