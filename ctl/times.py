"""Times for people: ages as in `3m20s`, instants in UTC."""

from __future__ import annotations

import itertools
from typing import Final

_UNITS: Final = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000))


def age(since_ms: int, now_ms: int) -> str:
    """How long ago, in at most two units: `5s`, `3m20s`, `4h`, `12d`; `-` where it is not known."""
    return span(now_ms - since_ms) if since_ms else "-"


def span(ms: int) -> str:
    """A duration, rounded down to at most two units; the second one only while it matters."""
    if ms < 1000:
        return "0s"
    for (unit, size), (finer, finer_size) in itertools.pairwise(_UNITS):
        count, rest = divmod(ms, size)
        if count:
            second = rest // finer_size
            return f"{count}{unit}{second}{finer}" if second and count < 10 else f"{count}{unit}"
    return f"{ms // 1000}s"


def instant(ms: int) -> str:
    """`2026-01-31T12:00:00Z`, or `-` where it is not known."""
    if not ms:
        return "-"
    from datetime import UTC, datetime

    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
