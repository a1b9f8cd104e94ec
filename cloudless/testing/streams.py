"""Message streams in memory, for tests of what is written against `cloudless.streams`."""

from __future__ import annotations

import asyncio
from typing import Any

from cloudless.errors import Unavailable

_CLOSED = object()


class MemoryStream:
    """One end of a pair; a `cloudless.streams.MessageStream`. Holds at most `capacity` messages per direction: a
    sender then waits, as it would for a transport."""

    peer: MemoryStream

    def __init__(self, capacity: int) -> None:
        self._inbox: asyncio.Queue[Any] = asyncio.Queue(capacity)
        self._broken = asyncio.Event()
        self.closed = asyncio.Event()  # by this end

    async def send(self, message: Any) -> None:
        if self.closed.is_set() or self.peer.closed.is_set():
            raise Unavailable("the stream is closed", reason="StreamClosed")
        await self._or_break(self.peer._inbox.put(message))

    async def receive(self) -> Any:
        if not self._broken.is_set() and self.peer.closed.is_set() and self._inbox.empty():
            return None
        message = await self._or_break(self._inbox.get())
        return None if message is _CLOSED else message

    async def close(self) -> None:
        if not self.closed.is_set():
            self.closed.set()
            if not self._broken.is_set() and not self.peer._inbox.full():
                self.peer._inbox.put_nowait(_CLOSED)

    def break_off(self) -> None:
        """Both ends fail from now on, in calls that wait as well; messages under way are gone."""
        self._broken.set()
        self.peer._broken.set()

    async def _or_break(self, work: Any) -> Any:
        task = asyncio.ensure_future(work)
        broken = asyncio.ensure_future(self._broken.wait())
        try:
            await asyncio.wait((task, broken), return_when=asyncio.FIRST_COMPLETED)
            if self._broken.is_set():
                raise Unavailable("the stream broke", reason="StreamBroken")
            return task.result()
        finally:
            task.cancel()
            broken.cancel()


def pair(capacity: int = 64) -> tuple[MemoryStream, MemoryStream]:
    """The two ends of a new stream."""
    near, far = MemoryStream(capacity), MemoryStream(capacity)
    near.peer, far.peer = far, near
    return near, far
