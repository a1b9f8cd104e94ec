"""When a schedule is due: cron expressions in a time zone, as milliseconds since the epoch.

The expression is Debian's: minute, hour, day of month, month, day of week; `*`, lists, ranges, steps, names; `L` and
`LW` for days of month, `FRI#2` and `5L` for days of week. When neither day field begins with `*`, one of the two has to
match. `@hourly`, `@daily`, `@weekly`, `@monthly` and `@yearly` stand for what they say.

Where clocks change, two rules hold (those of Debian's cron, for gaps and overlaps of any length):

    the minute or the hour begins with `*`   elapsed time: each minute of the day that matches, whichever offset holds;
                                             what is skipped does not run, what is repeated runs again
    neither does                             clock time: a time that is skipped runs once, at the first instant after
                                             the gap; a time that comes twice runs the first time only

The calendar of an expression is the library's (`cronsim`); zones are applied here, from the rules in the `tzdata`
package, never from the machine's: docs/adr/0013-cron.md.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from importlib import resources
from itertools import takewhile
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from cloudless.core.spec import Schedule

EXPRESSION_LENGTH_MAX: Final = 256
FIELDS_REMEDY: Final = "give minute, hour, day of month, month and day of week, as in */5 * * * *"

_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 (what a clock on the wall shows has no zone)
_YEAR_9000_S: Final = 221_845_392_000  # far from where dates end
_DAY_S: Final = 86_400
_FIRST_WINDOW_S: Final = 3_600

_MACROS: Final = {
    "@YEARLY": "0 0 1 1 *",
    "@ANNUALLY": "0 0 1 1 *",
    "@MONTHLY": "0 0 1 * *",
    "@WEEKLY": "0 0 * * 0",
    "@DAILY": "0 0 * * *",
    "@MIDNIGHT": "0 0 * * *",
    "@HOURLY": "0 * * * *",
}
_NUMBERS: Final = r"(\*|\d{1,2}(-\d{1,2})?)(/\d{1,4})?"
_NAMES: Final = r"(\*|[A-Z]{3}(-[A-Z]{3})?|\d{1,2}(-\d{1,2})?)(/\d{1,4})?"
_FIELDS: Final = (
    ("minute", "0-59", re.compile(_NUMBERS)),
    ("hour", "0-23", re.compile(_NUMBERS)),
    ("day of month", "1-31, L or LW", re.compile(_NUMBERS + "|LW?")),
    ("month", "1-12 or JAN-DEC", re.compile(_NAMES)),
    ("day of week", "0-7 (0 and 7 are Sunday) or SUN-SAT", re.compile(_NAMES + r"|[0-7]L|([0-7]|[A-Z]{3})#[1-5]")),
)


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a text is no cron expression, and what to write instead."""

    message: str
    remedy: str


# -- zones ------------------------------------------------------------------------------------------------


@lru_cache(1)
def zone_names() -> frozenset[str]:
    """Every time zone that a schedule may name."""
    return frozenset(resources.files("tzdata").joinpath("zones").read_text("utf-8").split())


@lru_cache(128)
def zone_of(name: str) -> ZoneInfo:
    """The rules of a zone, as the `tzdata` package has them. Raises ValueError for a name that it does not have."""
    if name not in zone_names():
        raise ValueError(f"{name!r} is no time zone")
    with resources.files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, key=name)


def _wall(seconds: int) -> datetime:
    return _EPOCH + timedelta(seconds=seconds)


def _seconds(wall: datetime) -> int:
    return round((wall - _EPOCH).total_seconds())


def _offset_s(zone: ZoneInfo, at_s: int) -> int:
    """Local time minus UTC at an instant."""
    local = _wall(at_s).replace(tzinfo=zone)
    offset = zone.fromutc(local).utcoffset()
    assert offset is not None
    return round(offset.total_seconds())


def _first_change(zone: ZoneInfo, from_s: int, to_s: int) -> int | None:
    """The first instant in (from, to] with another offset than at `from`; None when there is none."""
    offset = _offset_s(zone, from_s)
    before = from_s
    while before < to_s:
        after = min(before + _DAY_S, to_s)
        if _offset_s(zone, after) != offset:
            while after - before > 1:
                middle = (before + after) // 2
                if _offset_s(zone, middle) == offset:
                    before = middle
                else:
                    after = middle
            return after
        before = after
    return None


# -- expressions ------------------------------------------------------------------------------------------


def problem(expression: str) -> Problem | None:
    """What is wrong with a cron expression and where; None when it is well formed and comes again."""
    text = _MACROS.get(expression.strip().upper(), expression)
    if len(text) > EXPRESSION_LENGTH_MAX:
        return Problem(f"the expression has {len(text)} characters", f"use at most {EXPRESSION_LENGTH_MAX}")
    parts = text.upper().split()
    if parts and parts[0].startswith("@"):
        return Problem(
            f"{parts[0].lower()!r} is not known", "use @hourly, @daily, @weekly, @monthly, @yearly or 5 fields"
        )
    if parts and parts[0].startswith(("TZ=", "CRON_TZ=")):
        return Problem("a time zone is not part of the expression", "write it as timeZone")
    if len(parts) != len(_FIELDS):
        remedy = "leave the seconds out" if len(parts) == len(_FIELDS) + 1 else FIELDS_REMEDY
        return Problem(f"{text[:80]!r} has {len(parts)} fields, not {len(_FIELDS)}", remedy)
    for number, (part, (name, range_, pattern)) in enumerate(zip(parts, _FIELDS, strict=True), 1):
        for term in part.split(","):
            if not pattern.fullmatch(term) or not _accepted(term, number):
                return Problem(
                    f"{term[:40]!r} is no {name} (field {number})",
                    f"use *, {range_}, a rising range as in 1-5, a step as in */2, or a list of these",
                )
    try:
        never = next(CronSim(" ".join(parts), _EPOCH), None) is None
    except CronSimError:
        never = True
    if never:
        return Problem(f"{text[:80]!r} never comes: no such month has such a day", "change fields 3 to 5")
    return None


def _accepted(term: str, number: int) -> bool:
    fields = ["*"] * len(_FIELDS)
    fields[number - 1] = term
    try:
        CronSim(" ".join(fields), _EPOCH)
    except CronSimError:
        return False
    return True


# -- due times --------------------------------------------------------------------------------------------


def next_due(schedule: Schedule, after_ms: int) -> int | None:
    """The first due time after `after_ms`; None when there is none within fifty years.

    Raises ValueError for a schedule that does not validate. Takes no notice of `suspend`.
    """
    return _next_due(schedule.cron, schedule.time_zone, after_ms // 1000)


@lru_cache(4096)
def _next_due(cron: str, time_zone: str, after_s: int) -> int | None:
    found = next(_dues(cron, time_zone, after_s), None)
    return None if found is None else found * 1000


def in_words(schedule: Schedule, at_ms: int) -> str:
    """A time as a clock of the schedule's zone shows it: `2026-03-29 03:00 Europe/Berlin`."""
    name = schedule.time_zone or "UTC"
    at_s = at_ms // 1000
    return f"{_wall(at_s + _offset_s(zone_of(name), at_s)):%Y-%m-%d %H:%M} {name}"


def due_between(schedule: Schedule, after_ms: int, until_ms: int, limit: int) -> tuple[int, ...]:
    """The due times after `after_ms`, up to and with `until_ms`, in order: the newest `limit` of them.

    The cost is that of `limit`, however long the time between. Raises ValueError as `next_due`.
    """
    after_s, until_s = after_ms // 1000, until_ms // 1000
    window_s = _FIRST_WINDOW_S
    while True:
        from_s = max(after_s, until_s - window_s)
        dues = takewhile(lambda due_s: due_s <= until_s, _dues(schedule.cron, schedule.time_zone, from_s))
        newest = deque(dues, maxlen=limit)
        if len(newest) == limit or from_s == after_s or until_s <= after_s:
            return tuple(due_s * 1000 for due_s in newest)
        window_s *= 4


def _dues(cron: str, time_zone: str, after_s: int) -> Iterator[int]:
    """Due times after an instant, in seconds, in order."""
    zone = zone_of(time_zone or "UTC")
    expression = _MACROS.get(cron.strip().upper(), cron)
    if not 0 <= after_s < _YEAR_9000_S:
        return iter(())
    try:
        minute, hour = expression.split()[:2]
        elapsed = minute.startswith("*") or hour.startswith("*")
        return (_by_elapsed_time if elapsed else _by_clock_time)(expression, zone, after_s)
    except CronSimError as error:
        raise ValueError(f"{cron!r} is no cron expression: {error}") from None


def _by_clock_time(expression: str, zone: ZoneInfo, after_s: int) -> Iterator[int]:
    last_s = after_s
    for wall in CronSim(expression, _wall(after_s + _offset_s(zone, after_s))):
        at_s = _first_instant(zone, wall)
        if at_s > last_s:  # two times of one gap are one, and the second pass of an hour is none
            yield at_s
            last_s = at_s


def _first_instant(zone: ZoneInfo, wall: datetime) -> int:
    """When a clock on the wall first shows this time, or when it first shows a later one."""
    before, after = (wall.replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1))
    assert before is not None
    assert after is not None
    at_s = _seconds(wall - before)
    if before >= after:
        return at_s  # it exists; of two, the first
    change_s = _first_change(zone, _seconds(wall - after), at_s)
    assert change_s is not None
    return change_s


def _by_elapsed_time(expression: str, zone: ZoneInfo, after_s: int) -> Iterator[int]:
    start_s = after_s + 1
    while True:  # once for each stretch of one offset
        offset_s = _offset_s(zone, start_s)
        for wall in CronSim(expression, _wall(start_s + offset_s - 1)):
            at_s = _seconds(wall) - offset_s
            change_s = _first_change(zone, start_s, at_s)
            if change_s is not None:
                start_s = change_s
                break
            yield at_s
            start_s = at_s + 1
            if _offset_s(zone, start_s) != offset_s:
                break
        else:
            return
