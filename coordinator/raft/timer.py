"""When the core wants its next Tick."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cloudless.clock import Clock


class Timer:
    """`on_due` is called when the clock's monotonic time has come, perhaps a little early: the caller looks. A due time
    that moves away costs nothing: the timer that was set stays and is set anew when it ends."""

    def __init__(self, clock: Clock, *, on_due: Callable[[], None]) -> None:
        self._clock = clock
        self._on_due = on_due
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None
        self._due_ms = 0.0
        self._stopped = False

    def set(self, due_ms: float) -> None:
        if self._handle is not None:
            if due_ms >= self._due_ms:
                return
            self._handle.cancel()
        if self._stopped:
            return
        self._due_ms = due_ms
        wait_ms = max(due_ms - self._clock.monotonic_ms(), 1.0)
        self._handle = self._loop.call_at(self._loop.time() + wait_ms / 1000, self._fire)

    def stop(self) -> None:
        self._stopped = True
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _fire(self) -> None:
        self._handle = None
        if not self._stopped:
            self._on_due()
