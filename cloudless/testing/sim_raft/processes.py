"""An event loop whose callbacks belong to simulated processes.

A callback belongs to the process in whose context it was scheduled (`contextvars`; tasks inherit it). So a process can
be killed as `kill -9` does it, without a line of its code running any more, and frozen as SIGSTOP does it: what became
due meanwhile runs when it goes on. Timers follow the process's own clock, which may run fast or slow.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any, TypeVar

from cloudless.testing.simloop import Deadlock, SimClock, SimLoop

T = TypeVar("T")


class Process:
    """One life of a member. Make it outside of any process."""

    __slots__ = ("alive", "clock", "context", "frozen", "life", "name", "parked", "waiters")

    def __init__(self, name: str, life: int, clock: DriftingClock) -> None:
        self.name = name
        self.life = life
        self.clock = clock
        self.alive = True
        self.frozen = False
        self.parked: list[asyncio.Handle] = []  # due while frozen
        self.waiters: dict[asyncio.Future[Any], None] = {}  # calls from outside that this life has not answered
        self.context = contextvars.copy_context()
        self.context.run(PROCESS.set, self)

    def __repr__(self) -> str:
        return f"{self.name}.{self.life}"


PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)


class ProcessLoop(SimLoop):
    """See the module. Nothing here waits for files or sockets."""

    def __init__(self, *, limit_s: float) -> None:
        super().__init__(limit_s=limit_s)
        self.callbacks = 0  # that ran, and when the run ended; what is cleaned up after it does not count
        self.ended_s = 0.0
        self._draining = False  # the run is over: what is left of dead processes may clean up
        self._dropped: list[asyncio.Handle] = []  # due callbacks of dead processes
        self._frozen: dict[Process, None] = {}  # every process that ever had something to do while it was frozen

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        process = PROCESS.get()
        if process is not None:
            delay /= process.clock.rate
        return self.call_at(self._virtual_s + delay, callback, *args, context=context)

    def _run_once(self) -> None:
        """As the base class does it, without polling files, and process by process."""
        ready: Any = self._ready  # type: ignore[attr-defined]
        timers: Any = self._scheduled  # type: ignore[attr-defined]
        while timers and timers[0]._cancelled:
            heapq.heappop(timers)._scheduled = False
        if not ready:
            if not timers:
                raise Deadlock(f"nothing is scheduled at {self._virtual_s:.3f} s")
            self.advance(max(0.0, timers[0]._when - self._virtual_s))
        now_s = self._virtual_s
        while timers and timers[0]._when <= now_s:
            handle = heapq.heappop(timers)
            handle._scheduled = False
            ready.append(handle)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            process = handle._context.get(PROCESS)
            if process is not None and not self._draining:
                if not process.alive:
                    self._dropped.append(handle)
                    continue
                if process.frozen:
                    self._frozen[process] = None
                    process.parked.append(handle)
                    continue
            self.callbacks += not self._draining
            handle._run()

    def enter(self, process: Process, callback: Callable[..., Any], *args: Any) -> None:
        """Calls it as the process, at once or when it is thawed; never once it is dead. From outside only."""
        if not process.alive:
            return
        if process.frozen:
            self._frozen[process] = None
            process.parked.append(asyncio.Handle(callback, args, self, process.context))
        else:
            process.context.run(callback, *args)

    def thaw(self, process: Process) -> None:
        process.frozen = False
        self._ready.extend(process.parked)  # type: ignore[attr-defined]
        process.parked = []

    def kill(self, process: Process) -> None:
        """It ends. Who waits for an answer of it is told that the connection broke."""
        process.alive = False
        self._dropped += process.parked
        process.parked = []
        for waiter in process.waiters:
            self.call_soon(_break, waiter, context=outside)

    async def ask(
        self, process: Process, work: Callable[[], Coroutine[Any, Any, T]], *, timeout_s: float, cancel: bool = True
    ) -> T:
        """Runs the coroutine as the process and returns its result, from outside. Raises ConnectionError when the
        process ends first, TimeoutError after that time; `cancel` then says whether the work is called off."""
        if not process.alive:
            raise ConnectionRefusedError
        answer: asyncio.Future[T] = self.create_future()
        task = self.create_task(work(), context=process.context)
        process.waiters[answer] = None

        def answered(done: asyncio.Task[T]) -> None:
            if answer.done():
                if not done.cancelled():
                    done.exception()
                return
            if done.cancelled():
                answer.set_exception(ConnectionResetError())
            elif (error := done.exception()) is not None:
                answer.set_exception(error)
            else:
                answer.set_result(done.result())

        task.add_done_callback(answered, context=outside)
        timer = self.call_at(self._virtual_s + timeout_s, _time_out, answer, context=outside)
        try:
            return await answer
        except TimeoutError:
            if cancel and process.alive:
                self.enter(process, task.cancel)
            raise
        finally:
            timer.cancel()
            process.waiters.pop(answer, None)

    def run_to_end(self, main: Coroutine[Any, Any, T], *, at_end: Callable[[], None]) -> T:
        """Runs it, calls `at_end`, then lets every other task end by cancellation, and closes."""
        asyncio.set_event_loop(self)
        try:
            return self.run_until_complete(main)
        finally:
            self._draining = True
            self.ended_s = self._virtual_s
            at_end()
            for process in self._frozen:
                self._dropped += process.parked
            self._ready.extend(self._dropped)  # type: ignore[attr-defined]
            self.set_exception_handler(lambda *_: None)
            self._limit_s = float("inf")
            for _ in range(3):
                left = asyncio.all_tasks(self)
                if not left:
                    break
                for task in left:
                    task.cancel()
                self.run_until_complete(asyncio.wait(left, timeout=60))
            asyncio.set_event_loop(None)
            self.close()


outside = contextvars.copy_context()
"""The context of no process."""


def _break(waiter: asyncio.Future[Any]) -> None:
    if not waiter.done():
        waiter.set_exception(ConnectionResetError())


def _time_out(waiter: asyncio.Future[Any]) -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError())


class DriftingClock(SimClock):
    """A device's clocks: `rate` 1.05 gains three seconds a minute on both; the wall clock also jumps (`skew_ms`)."""

    def __init__(self, loop: SimLoop, *, rate: float = 1.0, skew_ms: int = 0, origin_s: float = 0.0) -> None:
        super().__init__(loop, skew_ms=skew_ms)
        self._sim = loop
        self._rate = rate
        self._since_s = loop.time()
        self._local_s = origin_s

    @property
    def rate(self) -> float:
        return self._rate

    @rate.setter
    def rate(self, rate: float) -> None:
        self._local_s = self.seconds()
        self._since_s = self._sim.time()
        self._rate = rate

    def seconds(self) -> float:
        """Monotonic, by this clock."""
        return self._local_s + (self._sim.time() - self._since_s) * self._rate

    def now_ms(self) -> int:
        return self.EPOCH_MS + round(self.seconds() * 1000) + self.skew_ms

    def monotonic_ms(self) -> int:
        return round(self.seconds() * 1000)
