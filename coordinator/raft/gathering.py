"""Proposals that come one by one, made into groups.

A group costs a turn, a write, a sync and an answer of each member, however small it is. On a busy event loop those who
call come one at a time (a gRPC server handles one event in each round of the loop), so a group waits for as long as
the loop finds something else to do, but not for long. On an idle one it waits for one round.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

WAIT_S_MAX: Final = 0.002
BUSY_S: Final = 0.00003  # a round of the loop in which anything was done takes longer


class Gathering:
    """`ready` is called on the event loop, some rounds after the first `begin` since the last time."""

    def __init__(self, *, seconds: Callable[[], float], ready: Callable[[], None]) -> None:
        self._seconds = seconds
        self._ready = ready
        self._loop = asyncio.get_running_loop()
        self._began_s = 0.0
        self._looked_s = 0.0
        self.under_way = False

    def begin(self) -> None:
        if not self.under_way:
            self.under_way = True
            self._began_s = self._looked_s = self._seconds()
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        now_s = self._seconds()
        busy = now_s - self._looked_s > BUSY_S
        self._looked_s = now_s
        if busy and now_s - self._began_s < WAIT_S_MAX:
            self._loop.call_soon(self._look)
            return
        self.under_way = False
        self._ready()
