"""A device in words: what its owner lets the fabric do, how steady it is, and when it is usually online."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from cloudless.core.hours import DAYS
from cloudless.ctl.times import age

DAY_HOURS: Final = 24
WEEK_HOURS: Final = len(DAYS) * DAY_HOURS
USUALLY_PERMILLE: Final = 500
SPANS_MAX: Final = 6  # of days alike; what is more irregular is no habit

Pairs = Iterator[tuple[str, str]]


def accepts(device: Any) -> bool:
    """Whether its owner admits work now. An agent that tells no terms admits all."""
    return not device.HasField("owner") or bool(device.owner.accepting)


def owner(device: Any) -> Pairs:
    """The owner's terms, each a label and its words."""
    if not device.HasField("owner"):
        yield "accepting", "yes; its agent tells no terms"
        return
    terms = device.owner
    if terms.accepting:
        yield "accepting", "yes"
    else:
        leaving = "; what runs there must leave" if terms.evicting else ""
        yield "accepting", f"no: {terms.not_accepting_reason or 'its owner says so'}{leaving}"
    yield "share", f"{terms.share_percent} % of CPU and memory" if terms.share_percent else "not stated"
    yield "hours", ", ".join(terms.hours) + " (its local time)" if terms.hours else "always"
    if terms.battery_floor_percent:
        again = max(terms.battery_resume_percent, terms.battery_floor_percent)
        yield "battery", f"nothing below {terms.battery_floor_percent} %, again from {again} %"
    yield "metered link", "new work, too" if terms.allow_metered else "no new work"
    yield "namespaces", ", ".join(terms.namespaces) or "all"


def percent(permille: int) -> str:
    """`99.5%`, `100%`."""
    return f"{permille / 10:.1f}".removesuffix(".0") + "%"


def reliability(node: Any, now_ms: int) -> str:
    if not node.HasField("reliability"):
        return "nothing is known yet"
    seen = node.reliability
    words = [f"{percent(seen.available_permille)} available"]
    words += [f"{seen.losses_milli / 1000:.1f} losses", f"{seen.failed_starts_milli / 1000:.1f} failed starts"]
    since = f"; first ready {age(seen.first_ready_at_ms, now_ms)} ago" if seen.first_ready_at_ms else ""
    return f"{', '.join(words)} (a week halves what was before){since}"


def presence(node: Any) -> str:
    """`Mon-Fri 08-23, Sat-Sun all day (UTC)`: the hours of the week at which it is online more often than not."""
    hours = list(node.presence.online_permille) if node.HasField("presence") else []
    if len(hours) != WEEK_HOURS or max(hours) < 0:
        return "nothing is known yet"
    seen = sum(permille >= 0 for permille in hours)
    rest = f"; {seen} of {WEEK_HOURS} hours seen so far" if seen < WEEK_HOURS else ""
    if all(permille >= USUALLY_PERMILLE or permille < 0 for permille in hours) and seen == WEEK_HOURS:
        return "always"
    days = [_spans(hours[day * DAY_HOURS : (day + 1) * DAY_HOURS]) for day in range(len(DAYS))]
    alike = list(_days_alike(days))
    if not alike:
        return f"seldom at any hour{rest}"
    if len(alike) > SPANS_MAX:
        average = sum(permille for permille in hours if permille >= 0) // seen
        return f"at no regular hours, {percent(average)} of the time{rest}"
    return ", ".join(alike) + f" (UTC){rest}"


def _spans(hours: Sequence[int]) -> str:
    """Of one day: `08-12 14-23`, `all day`; empty: none."""
    online = [permille >= USUALLY_PERMILLE for permille in hours]
    if all(online):
        return "all day"
    starts = [hour for hour in range(DAY_HOURS) if online[hour] and (hour == 0 or not online[hour - 1])]
    spans = []
    for start in starts:
        end = next((hour for hour in range(start, DAY_HOURS) if not online[hour]), DAY_HOURS)
        spans.append(f"{start:02}-{end:02}")
    return " ".join(spans)


def _days_alike(days: Sequence[str]) -> Iterator[str]:
    """Days in a row with the same words as one: `Mon-Fri 08-23`."""
    first = 0
    for day in range(1, len(days) + 1):
        if day < len(days) and days[day] == days[first]:
            continue
        if days[first]:
            names = DAYS[first] if day - 1 == first else f"{DAYS[first]}-{DAYS[day - 1]}"
            yield f"{names} {days[first]}"
        first = day
