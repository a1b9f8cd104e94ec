"""Whether the next sync is worth a thread.

A thread costs a small group about a third of its latency, and a slow disk must not hold the event loop. How long a sync
takes also says how busy the processors are: one that was interrupted for some milliseconds says nothing about the disk,
and a thread would wait for a processor just as well.
"""

from __future__ import annotations

from typing import Final

# The loop may be held for this long now and then, which is less than a heartbeat; a disk that stalled for longer is not
# trusted until `STALL_FADE` brought that below it again, after some hundreds of syncs for a stall of seconds.
STALL_S: Final = 0.02
STALL_FADE: Final = 0.98
_WEIGHT: Final = 1 / 8
_OUTLIER: Final = 4.0  # times the limit: what one sync can count for


class Pace:
    """`limit_s`: a sync that usually takes no longer is done on the event loop. New ones are not trusted."""

    __slots__ = ("_limit_s", "_slowest_s", "_usual_s")

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._usual_s = 2 * limit_s
        self._slowest_s = 0.0

    def took(self, sync_s: float) -> None:
        """After each sync."""
        self._slowest_s = max(self._slowest_s * STALL_FADE, sync_s)
        self._usual_s += (min(sync_s, _OUTLIER * self._limit_s) - self._usual_s) * _WEIGHT

    @property
    def quick(self) -> bool:
        return self._usual_s <= self._limit_s and self._slowest_s <= STALL_S
