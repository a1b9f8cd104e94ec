"""The network between coordinators, simulated: `coordinator.raft.link.Transport`s under one seed on a virtual clock.

It is worse than the real one may be. Messages of one link keep their order unless `reorder` says otherwise; they are
lost, doubled or late one by one, where TCP would break the connection; and one that was sent before its target
restarted can reach the restarted target. A link is up when both hosts live, no way between them is cut and the target
does not refuse the source. When it goes down its source is told (`on_lost`); it comes up again by itself.

Everything that happens is a function of the seed and of the calls made. Addresses mean nothing here.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cloudless.coordinator.raft.core.messages import AppendEntries, SnapshotChunk
from cloudless.coordinator.raft.link import AnyMessage, Forward, Transport
from cloudless.coordinator.raft.wire import decode, encode

BACKLOG_BYTES_MAX = 64 * 2**20  # as the real transport: what more would wait is dropped


@dataclass(slots=True)
class MemberLinkQuality:
    """Seconds, and chances between 0 and 1 per message. May be changed while the simulation runs."""

    delay_min_s: float = 0.000_2
    delay_max_s: float = 0.002
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0  # it may overtake what was sent before it
    late: float = 0.0  # it takes up to `late_max_s` instead, and others overtake it
    late_max_s: float = 2.0
    bytes_per_s: float = 0.0  # of each link; 0: no limit
    silence_s: float = 2.0  # a cut is noticed after it
    reconnect_s: float = 0.2  # the longest pause before a link that could be up is


class MemberNetwork:
    """`loop`: default the running one. `through_wire`: every message is encoded and decoded (a codec's error is an
    error of the simulation)."""

    def __init__(
        self,
        rng: random.Random,
        quality: MemberLinkQuality | None = None,
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        through_wire: bool = False,
    ) -> None:
        self.quality = quality or MemberLinkQuality()
        self.sent = self.delivered = self.lost = 0
        self._rng = rng
        self._loop = loop
        self._wire: tuple[Callable[[AnyMessage], bytes], Callable[[bytes], AnyMessage]] | None = None
        if through_wire:
            self._wire = encode, decode
        self._live: dict[str, MemberTransport] = {}
        self._cut: dict[tuple[str, str], int] = {}  # directed; the number tells one cut from the next
        self._cuts = 0
        self._slow_s: dict[tuple[str, str], float] = {}

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def transport(self, member: str) -> MemberTransport:
        """A new one for this member; the one before is crashed if it still lives. It takes part from `start` on."""
        self.crash(member)
        return MemberTransport(self, member)

    # faults

    def cut(self, source: str, target: str) -> None:
        """Nothing that `source` sends reaches `target` any more. One-way: cut both ways for a full partition."""
        if (source, target) in self._cut:
            return
        self._cuts += 1
        self._cut[source, target] = number = self._cuts
        self.loop.call_at(self.loop.time() + self.quality.silence_s, self._notice_cut, source, target, number)

    def partition(self, *groups: tuple[str, ...]) -> None:
        """Members of different groups no longer reach each other; other cuts stay."""
        for group in groups:
            for other in groups:
                if group is not other:
                    for source in group:
                        for target in other:
                            self.cut(source, target)

    def heal(self, source: str = "", target: str = "") -> None:
        """Ends this one-way cut; without arguments all of them."""
        ways = [(source, target)] if source else list(self._cut)
        for way in ways:
            self._cut.pop(way, None)
        for way in ways:
            self._redial(*way)
            self._redial(way[1], way[0])

    def slow(self, source: str, target: str, *, delay_s: float) -> None:
        """Every message on this way takes so much longer; 0: no longer."""
        self._slow_s[source, target] = delay_s

    def crash(self, member: str) -> None:
        """Its process ends: its transport is closed, what is under way from it still arrives, the others are told."""
        dead = self._live.pop(member, None)
        if dead is None:
            return
        dead.end()
        for other in list(self._live.values()):
            link = other.links.get(member)
            if link is not None and link.up:
                self._after_delay(other.break_link, member, link.generation)

    def is_cut(self, source: str, target: str) -> bool:
        return (source, target) in self._cut

    # what transports call

    def started(self, transport: MemberTransport) -> None:
        self._live[transport.member] = transport
        for other in list(self._live.values()):
            self._redial(other.member, transport.member)

    def reachable(self, source: str, target: str) -> bool:
        """Whether a connection from one to the other could be made now."""
        there = self._live.get(target)
        if there is None or source in there.refused or source not in self._live:
            return False
        return (source, target) not in self._cut and (target, source) not in self._cut

    def dial(self, transport: MemberTransport, target: str) -> None:
        pause_s = self._rng.uniform(0.0, self.quality.reconnect_s)
        self.loop.call_at(self.loop.time() + pause_s, transport.try_link, target)

    def carry(self, link: Link, source: str, target: str, message: AnyMessage) -> bool:
        quality, rng, now_s = self.quality, self._rng, self.loop.time()
        departs_s = now_s
        if quality.bytes_per_s:
            size = _size_bytes(message)
            departs_s = max(now_s, link.busy_until_s)
            if (departs_s - now_s) * quality.bytes_per_s + size > BACKLOG_BYTES_MAX:
                return False
            departs_s = link.busy_until_s = departs_s + size / quality.bytes_per_s
        self.sent += 1
        cargo: AnyMessage | bytes = self._wire[0](message) if self._wire else message
        if quality.loss and rng.random() < quality.loss:
            self.lost += 1
            return True
        copies = 2 if quality.duplicate and rng.random() < quality.duplicate else 1
        for _ in range(copies):
            at_s = departs_s + rng.uniform(quality.delay_min_s, quality.delay_max_s)
            if self._slow_s:
                at_s += self._slow_s.get((source, target), 0.0)
            if quality.late and rng.random() < quality.late:
                at_s += rng.uniform(0.0, quality.late_max_s)
            elif not (quality.reorder and rng.random() < quality.reorder):
                # A nanosecond between two messages keeps their order in the loop's heap.
                at_s = link.last_arrival_s = max(at_s, link.last_arrival_s + 1e-9)
            self.loop.call_at(at_s, self._arrive, source, target, cargo)
        return True

    # inside

    def _arrive(self, source: str, target: str, cargo: AnyMessage | bytes) -> None:
        there = self._live.get(target)
        if there is None or (source, target) in self._cut or source in there.refused:
            self.lost += 1
            return
        self.delivered += 1
        there.on_message(source, self._wire[1](cargo) if self._wire and isinstance(cargo, bytes) else cargo)  # type: ignore[arg-type]

    def _notice_cut(self, source: str, target: str, number: int) -> None:
        if self._cut.get((source, target)) != number:
            return  # healed in time: nobody noticed
        # A connection lives by what comes back as well: both ends give theirs up.
        for near, far in ((source, target), (target, source)):
            transport = self._live.get(near)
            link = transport.links.get(far) if transport else None
            if transport and link and link.up:
                transport.break_link(far, link.generation)

    def _redial(self, source: str, target: str) -> None:
        """For whichever of the two (or both) wants a connection to the other."""
        for near, far in ((source, target), (target, source)):
            transport = self._live.get(near)
            link = transport.links.get(far) if transport else None
            if transport and link and not link.up:
                self.dial(transport, far)

    def _after_delay(self, callback: Callable[..., None], *arguments: object) -> None:
        delay_s = self._rng.uniform(self.quality.delay_min_s, self.quality.delay_max_s)
        self.loop.call_at(self.loop.time() + delay_s, callback, *arguments)


@dataclass(slots=True)
class Link:
    """One way from a transport to a member. `generation` counts its connections."""

    up: bool = False
    generation: int = 0
    last_arrival_s: float = 0.0
    busy_until_s: float = 0.0


class MemberTransport(Transport):
    """One life of one member on the network. Reads of its parts are for the network and for tests."""

    def __init__(self, network: MemberNetwork, member: str) -> None:
        self.member = member
        self.links: dict[str, Link] = {}
        self.refused: frozenset[str] = frozenset()
        self.on_message: Callable[[str, AnyMessage], None] = _nobody
        self._on_lost: Callable[[str], None] = _nobody_lost
        self._network = network
        self._running = False

    def start(self, on_message: Callable[[str, AnyMessage], None], on_lost: Callable[[str], None]) -> None:
        self.on_message, self._on_lost = on_message, on_lost
        self._running = True
        self._network.started(self)

    def connect(self, members: Mapping[str, str]) -> None:
        wanted = sorted(member for member in members if member != self.member)
        self.links = {member: self.links.get(member) or Link() for member in wanted}
        if self._running:
            for member in wanted:
                if not self.links[member].up:
                    self._network.dial(self, member)

    def refuse(self, members: frozenset[str]) -> None:
        self.refused = members
        if not self._running:
            return
        for member in sorted(members):
            there = self._network._live.get(member)
            link = there.links.get(self.member) if there else None
            if there and link and link.up:
                self._network._after_delay(there.break_link, self.member, link.generation)

    def send(self, to: str, message: AnyMessage) -> bool:
        link = self.links.get(to)
        if link is None or not link.up:
            return False
        return self._network.carry(link, self.member, to, message)

    def flush(self) -> None:
        """What is sent is on its way already."""

    def backlog_bytes(self, to: str) -> int:
        link = self.links.get(to)
        if link is None or not self._network.quality.bytes_per_s:
            return 0
        return int(max(0.0, link.busy_until_s - self._network.loop.time()) * self._network.quality.bytes_per_s)

    async def close(self) -> None:
        if self._network._live.get(self.member) is self:
            self._network.crash(self.member)

    # what the network calls

    def end(self) -> None:
        """No callback is called and nothing is sent any more."""
        self._running = False
        self.links = {}
        self.on_message, self._on_lost = _nobody, _nobody_lost

    def try_link(self, target: str) -> None:
        link = self.links.get(target)
        if link is None or link.up or not self._network.reachable(self.member, target):
            return  # whatever makes it reachable dials again
        link.up = True
        link.generation += 1
        link.busy_until_s = 0.0

    def break_link(self, target: str, generation: int) -> None:
        link = self.links.get(target)
        if link is None or not link.up or link.generation != generation:
            return
        link.up = False
        self._on_lost(target)
        if self._running and self._network.reachable(self.member, target):
            self._network.dial(self, target)


def _size_bytes(message: AnyMessage) -> int:
    """About what it takes on the wire."""
    if isinstance(message, AppendEntries):
        return 64 + sum(len(entry.data) + 4 for entry in message.entries)
    if isinstance(message, SnapshotChunk):
        return 64 + len(message.data) + len(message.configuration)
    if isinstance(message, Forward):
        return 64 + sum(len(entry) + 4 for entry in message.entries)
    return 64


def _nobody(sender: str, message: AnyMessage) -> None:
    """Nobody listens."""


def _nobody_lost(member: str) -> None:
    """Nobody listens."""
