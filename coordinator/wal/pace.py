"""Whether the next sync is worth a thread.

A thread costs a small group about a third of its latency, and a slow disk must not hold the event loop. How long a sync
takes also says how busy the processors are: some that were interrupted for milliseconds say nothing about the disk, and
a thread would have to wait for a processor just as well.
"""

from __future__ import annotations

from typing import Final

# The loop may be held for this long now and then, as it may between two heartbeats. A disk that stalled for longer is
# not trusted again until that has faded below it: after a hundred syncs for half a second.
STALL_S: Final = 0.05
_FADE: Final = 0.98
_REMEMBERED: Final = 16
_SLOW_MAX: Final = _REMEMBERED // 2


class Pace:
    """`limit_s`: while most syncs take no longer, they are done on the event loop. A new disk is not trusted."""

    __slots__ = ("_limit_s", "_slow", "_slowest_s")

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._slow = 2**_REMEMBERED - 1  # one bit for each of the last syncs
        self._slowest_s = 0.0

    def took(self, sync_s: float) -> None:
        """After each sync."""
        self._slow = (self._slow << 1 | (sync_s > self._limit_s)) & (2**_REMEMBERED - 1)
        self._slowest_s = max(self._slowest_s * _FADE, sync_s)

    @property
    def quick(self) -> bool:
        return self._slow.bit_count() <= _SLOW_MAX and self._slowest_s <= STALL_S
