"""Unary calls end in time: a call without a deadline gets the default, a longer one is cut at the maximum."""

from __future__ import annotations

import asyncio
from collections import deque
from contextvars import Context
from typing import Any

from cloudless.coordinator.rpc.call import Call
from cloudless.coordinator.rpc.pipeline import Proceed
from cloudless.errors import DeadlineExceeded


class Deadlines:
    """A caller's own shorter deadline is enforced by gRPC, which cancels the handler. Streams have no limit:
    they end with their peer, with the caller's own deadline, or with its right to call."""

    def __init__(self, *, default_ms: int = 30_000, max_ms: int = 120_000) -> None:
        self._default = _Limit(default_ms / 1000)
        self._max = _Limit(max_ms / 1000)

    async def __call__(self, call: Call, request: Any, proceed: Proceed) -> Any:
        if call.streaming:
            return await proceed(call, request)
        remaining = call.context.time_remaining()
        if remaining is not None and remaining <= self._max.seconds:
            return await proceed(call, request)
        limit = self._default if remaining is None else self._max
        running = limit.begin()
        try:
            return await proceed(call, request)
        except asyncio.CancelledError:
            if not running.expired or not running.is_last_reason():
                raise
            raise DeadlineExceeded(
                f"the call took longer than {limit.seconds:g} s",
                remedy="for a write the outcome is unknown: repeat it with the same request id",
            ) from None
        finally:
            limit.end(running)


class _Running:
    """A call under way. `expired`: its task was cancelled because its time was over."""

    __slots__ = ("_cancelling", "_counted", "expired", "task", "until")

    def __init__(self, task: asyncio.Task[Any], until: float) -> None:
        self.task: asyncio.Task[Any] | None = task  # None: it has ended; kept, it would be a cycle through its frame
        self.until = until
        self.expired = self._counted = False
        self._cancelling = task.cancelling()

    def is_last_reason(self) -> bool:
        """Takes the cancellation back; whether there is no other one (as `asyncio.timeout` does)."""
        assert self.task is not None
        self._counted = True
        return self.task.uncancel() <= self._cancelling

    def end(self) -> None:
        task, self.task = self.task, None
        if self.expired and not self._counted and task is not None:  # the handler ended all the same
            task.uncancel()


class _Limit:
    """Calls that may all take the same time, so that they stand in the order of their ends: one timer for all of them,
    where a timer for each call would cost as much as its authentication."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._running: deque[_Running] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> _Running:
        task = asyncio.current_task()  # gRPC serves each call in a task of its own
        assert task is not None
        loop = task.get_loop()
        running = _Running(task, loop.time() + self.seconds)
        self._running.append(running)
        if self._timer is None:
            self._set_timer(running.until, loop)
        return running

    def end(self, running: _Running) -> None:
        running.end()
        while self._running and self._running[0].task is None:
            self._running.popleft()

    def _set_timer(self, at: float, loop: asyncio.AbstractEventLoop) -> None:
        # In a context of its own: that of a call would keep the call.
        self._timer = loop.call_at(at, self._expire, loop, context=Context())

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        while self._running:
            first = self._running[0]
            if first.task is not None:
                if first.until > now:
                    self._set_timer(first.until, loop)
                    return
                first.expired = True
                first.task.cancel()
            self._running.popleft()
