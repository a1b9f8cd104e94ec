"""A seeded network for simulations: ordered streams with delay, stalls, one-way partitions and breaks.

A stream behaves as gRPC over TCP does. What was sent arrives in order or not at all; loss shows as delay; a
cut shows as silence first and as a broken stream once the keepalive gives up; messages that were under way when
it broke may or may not have arrived.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from typing import Any

from cloudless.errors import CloudlessError, Unavailable

_CLOSED = object()
_BROKEN = object()


@dataclass(frozen=True, slots=True)
class _Failed:
    """The listener ended the call with this error."""

    error: CloudlessError


@dataclass
class LinkQuality:
    """Seconds, and chances between 0 and 1 per message."""

    delay_min_s: float = 0.001
    delay_max_s: float = 0.020
    loss: float = 0.0  # a lost packet is sent again: +200 ms, doubling
    keepalive_s: float = 10.0  # silence after which a cut stream is given up


class SimNetwork:
    """`context`: of the network's own timers, where callbacks belong to processes that may end before what they sent
    arrives."""

    def __init__(
        self, rng: random.Random, *, quality: LinkQuality | None = None, context: Context | None = None
    ) -> None:
        self._rng = rng
        self.quality = quality or LinkQuality()
        self._context = context
        self._cut: set[tuple[str, str]] = set()  # directed: (from, to)
        self._streams: dict[SimStream, None] = {}
        self._orphans: dict[str, list[SimStream]] = {}  # ends whose other end lost its power, by its host

    # faults

    def cut(self, source: str, target: str) -> None:
        """Nothing that `source` sends reaches `target` any more. One-way: cut both for a full partition."""
        self._cut.add((source, target))

    def heal(self, source: str = "", target: str = "") -> None:
        """Ends this one-way cut; without arguments all of them."""
        if source:
            self._cut.discard((source, target))
        else:
            self._cut.clear()

    def is_cut(self, source: str, target: str) -> bool:
        return (source, target) in self._cut

    def crash(self, host: str) -> None:
        """Every stream of the host breaks at once, as when its process is killed."""
        for stream in list(self._streams):
            if host in (stream.local, stream.remote):
                stream.break_off()

    def vanish(self, host: str) -> None:
        """The host lost its power: nobody is told. The others notice by their keepalive, or once it is back."""
        for stream in list(self._streams):
            if stream.local == host:
                stream.dead()
                self.call_later(self.quality.keepalive_s, stream.peer.give_up)
                self._orphans.setdefault(host, []).append(stream.peer)

    def returned(self, host: str) -> None:
        """The host is back, and knows nothing of its connections."""
        for stream in self._orphans.pop(host, []):
            self.call_later(self._delay(), stream.give_up)

    # streams

    async def connect(self, source: str, target: str) -> tuple[SimStream, SimStream]:
        """A pair of ends: (the dialler's, the listener's). Raises Unavailable where a way is cut."""
        await asyncio.sleep(self._delay())
        if self.is_cut(source, target) or self.is_cut(target, source):
            await asyncio.sleep(1.0)
            raise Unavailable(f"{target} does not answer")
        near, far = SimStream(self, source, target), SimStream(self, target, source)
        near.peer, far.peer = far, near
        self._streams[near] = self._streams[far] = None
        return near, far

    def forget(self, stream: SimStream) -> None:
        self._streams.pop(stream, None)

    def call_later(self, delay_s: float, callback: Callable[..., None], *arguments: Any) -> None:
        self.call_at(asyncio.get_running_loop().time() + delay_s, callback, *arguments)

    def call_at(self, when_s: float, callback: Callable[..., None], *arguments: Any) -> None:
        asyncio.get_running_loop().call_at(when_s, callback, *arguments, context=self._context)

    def _delay(self) -> float:
        delay = self._rng.uniform(self.quality.delay_min_s, self.quality.delay_max_s)
        again = 0.2
        while self._rng.random() < self.quality.loss and again < 10:
            delay += again
            again *= 2
        return delay


class SimStream:
    """One end of a stream; a `cloudless.streams.MessageStream`."""

    peer: SimStream

    def __init__(self, network: SimNetwork, local: str, remote: str) -> None:
        self._network = network
        self.local = local
        self.remote = remote
        self._inbox: asyncio.Queue[Any] = asyncio.Queue()
        self._broken = False
        self._closed = False
        self._free_at_s = 0.0  # when the last message under way arrives: keeps the order

    async def send(self, message: Any) -> None:
        if self._broken or self._closed:
            raise Unavailable(f"the stream to {self.remote} is broken")
        self._transmit(message)

    async def receive(self) -> Any:
        if self._broken and self._inbox.empty():
            raise Unavailable(f"the stream to {self.remote} is broken")
        message = await self._inbox.get()
        if message is _BROKEN:
            raise Unavailable(f"the stream to {self.remote} is broken")
        if isinstance(message, _Failed):
            self.break_off()
            raise message.error
        return None if message is _CLOSED else message

    async def close(self) -> None:
        if not self._closed and not self._broken:
            self._transmit(_CLOSED)
        self._closed = True
        self._network.forget(self)

    def fail(self, error: CloudlessError) -> None:
        """Ends the stream with an error, which the other end gets behind what was sent."""
        if not self._closed and not self._broken:
            self._transmit(_Failed(error))
        self._closed = True
        self._network.forget(self)

    def break_off(self) -> None:
        for end in (self, self.peer):
            end.give_up()

    def give_up(self) -> None:
        """This end takes the stream for broken."""
        if not self._broken:
            self._broken = True
            self._inbox.put_nowait(_BROKEN)
            self._network.forget(self)

    def dead(self) -> None:
        """Whoever held this end is gone."""
        self._broken = True
        self._network.forget(self)

    def _transmit(self, message: Any) -> None:
        loop = asyncio.get_running_loop()
        # One millisecond between two messages keeps their order under equal delays.
        self._free_at_s = max(self._free_at_s + 1e-6, loop.time() + self._network._delay())
        self._network.call_at(self._free_at_s, self._arrive, message, loop.time())

    def _arrive(self, message: Any, sent_at_s: float) -> None:
        if self._broken:
            return
        if self._network.is_cut(self.local, self.remote):
            loop = asyncio.get_running_loop()
            if loop.time() - sent_at_s > self._network.quality.keepalive_s:
                self.break_off()
            else:
                self._free_at_s = max(self._free_at_s, loop.time() + 0.2)
                self._network.call_at(self._free_at_s, self._arrive, message, sent_at_s)
            return
        self.peer._inbox.put_nowait(message)
