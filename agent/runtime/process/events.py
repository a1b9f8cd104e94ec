"""Fan-out of level-triggered runtime events.

A listener holds at most one pending event per container, so that a slow one costs a bounded amount of memory
and still hears of everything that changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from cloudless.agent.runtime.base import RuntimeEvent


class _Listener:
    def __init__(self) -> None:
        self.pending: dict[tuple[str, str, str], RuntimeEvent] = {}
        self.wake = asyncio.Event()
        self.closed = False


class EventHub:
    """Event loop only."""

    def __init__(self) -> None:
        self._listeners: set[_Listener] = set()

    def publish(self, event: RuntimeEvent) -> None:
        for listener in self._listeners:
            listener.pending[event.replica_id, event.container, event.kind] = event
            listener.wake.set()

    def close(self) -> None:
        """Ends every present listener's iteration; later ones may listen again."""
        for listener in self._listeners:
            listener.closed = True
            listener.wake.set()
        self._listeners = set()

    def listen(self) -> AsyncIterator[RuntimeEvent]:
        """Events published from this call on (not from the first `anext`)."""
        listener = _Listener()
        self._listeners.add(listener)
        return self._iterate(listener)

    async def _iterate(self, listener: _Listener) -> AsyncIterator[RuntimeEvent]:
        try:
            while True:
                while listener.pending:
                    yield listener.pending.pop(next(iter(listener.pending)))
                if listener.closed:
                    return
                listener.wake.clear()
                await listener.wake.wait()
        finally:
            self._listeners.discard(listener)
