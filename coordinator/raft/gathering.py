"""Proposals that come one by one, made into groups.

A group costs a turn, a write, a sync and an answer of each member, however small it is. On a busy event loop those who
call come one at a time: a gRPC server takes in the next call only when the loop has heard of the one before, by way of
another thread. So a group waits for as long as the loop finds something else to do and more keep coming, but not for
long. On an idle loop it waits for one round; where the last group was a large one, for somewhat longer: the others are
on their way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

WAIT_S_MAX: Final = 0.010
QUIET_S: Final = 0.002  # without another proposal: what the loop does is something else
BUSY_S: Final = 0.00003  # a round of the loop in which anything was done takes longer
# Idle rounds that a group waits for, for each proposal but one of the group before, and at most: a fifth of a
# millisecond.
PATIENCE: Final = 4
PATIENCE_MAX: Final = 40


class Gathering:
    """`ready` is called on the event loop, some rounds after the first `begin` since the last time."""

    def __init__(self, *, seconds: Callable[[], float], ready: Callable[[], None]) -> None:
        self._seconds = seconds
        self._ready = ready
        self._loop = asyncio.get_running_loop()
        self._count = 0  # of this group
        self._counted = 0  # of them, at the last look
        self._looked_s = 0.0
        self._quiet_s = 0.0  # it is ready then, if no other proposal comes before
        self._until_s = 0.0  # it is ready then, whatever comes
        self._idle = 0  # rounds, one after the other
        self._patience = 0  # it is ready after so many, and one
        self.under_way = False

    def begin(self) -> None:
        """For each proposal."""
        self._count += 1
        if not self.under_way:
            self.under_way = True
            self._idle = 0
            self._looked_s = self._seconds()
            self._until_s = self._looked_s + WAIT_S_MAX
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        now_s = self._seconds()
        self._idle = self._idle + 1 if now_s - self._looked_s <= BUSY_S else 0
        self._looked_s = now_s
        if self._count > self._counted:
            self._counted = self._count
            self._quiet_s = min(now_s + QUIET_S, self._until_s)
        if self._idle <= self._patience and now_s < self._quiet_s:
            self._loop.call_soon(self._look)
            return
        self._patience = min((self._count - 1) * PATIENCE, PATIENCE_MAX)
        self._count = self._counted = 0
        self.under_way = False
        self._ready()
