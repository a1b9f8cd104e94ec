"""Hours of the week as people write them: `22:00-06:00`, `Mon-Fri 18:00-23:00`, `Sat 00:00-24:00`.

A window is a span of civil time, so whoever asks gives the weekday and the minute that the clock on the wall shows.
That makes it right across daylight saving by itself: a window that the clock skips does not happen that day, one that
the clock shows twice lasts longer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
DAY_MINUTES: Final = 24 * 60
WEEK_MINUTES: Final = 7 * DAY_MINUTES

_TEXT: Final = re.compile(r"(?:([A-Za-z]{3})(?:-([A-Za-z]{3}))? +)?(\d\d):(\d\d)-(\d\d):(\d\d)", re.ASCII)
_EXPECTED: Final = "hours such as 22:00-06:00 or Mon-Fri 18:00-23:00"


@dataclass(frozen=True, slots=True)
class Window:
    """`starts`: minutes of the week (Monday 00:00 is 0) at which it begins; it lasts `minutes`, 1 to 24 hours."""

    starts: tuple[int, ...]
    minutes: int

    def holds(self, minute_of_week: int) -> bool:
        return any((minute_of_week - start) % WEEK_MINUTES < self.minutes for start in self.starts)


def parse(text: str) -> Window:
    """The window of `[DAY[-DAY] ]HH:MM-HH:MM`. An end before the start is that of the next day; the days are those on
    which it begins. Raises ValueError."""
    found = _TEXT.fullmatch(text.strip()) if len(text) <= 40 else None
    if found is None:
        raise ValueError(f"{text[:40]!r} is not {_EXPECTED}")
    first, last, *numbers = found.groups()
    start_hour, start_minute, end_hour, end_minute = map(int, numbers)
    start, end = start_hour * 60 + start_minute, end_hour * 60 + end_minute
    if start >= DAY_MINUTES or end > DAY_MINUTES or start_minute > 59 or end_minute > 59:
        raise ValueError(f"{text!r} names a time that no clock shows (00:00 to 24:00)")
    if start == end:
        raise ValueError(f"{text!r} is empty; all day is 00:00-24:00")
    minutes = end - start if end > start else end - start + DAY_MINUTES
    return Window(tuple(day * DAY_MINUTES + start for day in _days(first, last, text)), minutes)


def inside(windows: Sequence[Window], *, weekday: int, minute: int) -> bool:
    """Whether one of them holds on that weekday (0: Monday) at that minute of the day. None at all: always."""
    return not windows or any(window.holds(weekday * DAY_MINUTES + minute) for window in windows)


def next_change(windows: Sequence[Window], *, weekday: int, minute: int) -> tuple[int, int] | None:
    """The next weekday and minute of the day at which `inside` answers otherwise; None: it never does."""
    now = weekday * DAY_MINUTES + minute
    here = inside(windows, weekday=weekday, minute=minute)
    edges = {
        (start + more) % WEEK_MINUTES for window in windows for start in window.starts for more in (0, window.minutes)
    }
    for edge in sorted(edges, key=lambda edge: (edge - now - 1) % WEEK_MINUTES):
        at = divmod(edge, DAY_MINUTES)
        if inside(windows, weekday=at[0], minute=at[1]) != here:
            return at
    return None


def show(weekday: int, minute: int) -> str:
    """`Mon 22:00`."""
    return f"{DAYS[weekday]} {minute // 60:02}:{minute % 60:02}"


def _days(first: str | None, last: str | None, text: str) -> list[int]:
    if first is None:
        return list(range(7))
    try:
        begin = DAYS.index(first.capitalize())
        end = begin if last is None else DAYS.index(last.capitalize())
    except ValueError:
        raise ValueError(f"{text!r} names a day that is none of {', '.join(DAYS)}") from None
    return [(begin + more) % 7 for more in range((end - begin) % 7 + 1)]
