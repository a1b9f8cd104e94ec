"""Unary calls end in time: a call without a deadline gets the default, a longer one is cut at the maximum."""

from __future__ import annotations

import asyncio
from typing import Any

from cloudless.coordinator.rpc.call import Call
from cloudless.coordinator.rpc.pipeline import Proceed
from cloudless.errors import DeadlineExceeded


class Deadlines:
    """A caller's own shorter deadline is enforced by gRPC, which cancels the handler. Streams have no limit:
    they end with their peer, with the caller's own deadline, or with its right to call."""

    def __init__(self, *, default_ms: int = 30_000, max_ms: int = 120_000) -> None:
        self._default_s = default_ms / 1000
        self._max_s = max_ms / 1000

    async def __call__(self, call: Call, request: Any, proceed: Proceed) -> Any:
        if call.streaming:
            return await proceed(call, request)
        remaining = call.context.time_remaining()
        if remaining is not None and remaining <= self._max_s:
            return await proceed(call, request)
        limit_s = self._default_s if remaining is None else self._max_s
        timer = asyncio.timeout(limit_s)
        try:
            async with timer:
                return await proceed(call, request)
        except TimeoutError:
            if not timer.expired():
                raise
            raise DeadlineExceeded(
                f"the call took longer than {limit_s:g} s",
                remedy="for a write the outcome is unknown: repeat it with the same request id",
            ) from None
