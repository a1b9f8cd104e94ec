"""An asyncio event loop on virtual time: sleeping costs nothing, and a run is a function of its seed.

When nothing is ready, time jumps to the next timer. Work for a thread pool runs inline, so that there is one
thread and one order of events. No sockets, no subprocesses: what needs them does not belong into a simulation.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Deadlock(RuntimeError):
    """Every task waits and no timer is set: nothing can ever happen again."""


class TimeLimit(RuntimeError):
    """The simulation went past its limit of virtual time."""


class _VirtualSelector(selectors.SelectSelector):
    """Instead of waiting for I/O, moves the loop's clock."""

    loop: SimLoop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Deadlock(f"nothing is scheduled at {self.loop.time():.3f} s")
        if timeout > 0:
            self.loop.advance(timeout)
        return []


class SimLoop(asyncio.SelectorEventLoop):
    """`limit_s`: the virtual time at which a run that does not end is stopped."""

    def __init__(self, *, limit_s: float = 36_000.0) -> None:
        selector = _VirtualSelector()
        self._virtual_s = 0.0
        self._limit_s = limit_s
        super().__init__(selector)
        selector.loop = self

    def time(self) -> float:
        return self._virtual_s

    def advance(self, seconds: float) -> None:
        self._virtual_s += seconds
        if self._virtual_s > self._limit_s:
            raise TimeLimit(f"no end after {self._limit_s:.0f} s of virtual time")

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except BaseException as error:
            if isinstance(error, (StopIteration, KeyboardInterrupt)):
                raise
            future.set_exception(error)
        return future


class SimClock:
    """A clock on the running SimLoop. `skew_ms` shifts the wall clock only, and may be changed: a clock jump."""

    EPOCH_MS = 1_800_000_000_000

    def __init__(self, loop: asyncio.AbstractEventLoop, *, skew_ms: int = 0) -> None:
        self._loop = loop
        self.skew_ms = skew_ms

    def now_ms(self) -> int:
        return self.EPOCH_MS + round(self._loop.time() * 1000) + self.skew_ms

    def monotonic_ms(self) -> int:
        return round(self._loop.time() * 1000)


def run(main: Callable[[SimLoop], Coroutine[Any, Any, T]], *, limit_s: float = 36_000.0) -> T:
    """Runs one simulation to its end on a fresh loop, and closes whatever it left."""
    loop = SimLoop(limit_s=limit_s)
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(main(loop))
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        pending = asyncio.all_tasks(loop)
        if pending:
            loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        asyncio.set_event_loop(None)
        loop.close()
