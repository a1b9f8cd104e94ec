"""Snapshots between members: read and sent piece by piece by the leader, collected and installed by a follower.

Each piece is acknowledged before the next one is sent, and all work on files is done outside the event loop: neither
writes nor heartbeats wait for a snapshot.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog

from cloudless.coordinator.engine import RunBlocking
from cloudless.coordinator.raft.core.effects import SendSnapshot, StoreSnapshot
from cloudless.coordinator.raft.core.events import Event, SnapshotStored, Unreachable
from cloudless.coordinator.raft.core.messages import SnapshotChunk
from cloudless.coordinator.raft.link import Transport
from cloudless.coordinator.raft.metrics import SNAPSHOT_SENT_BYTES, SNAPSHOTS_INSTALLED
from cloudless.coordinator.wal.incoming import Incoming
from cloudless.coordinator.wal.snapshots import StoredSnapshot
from cloudless.coordinator.wal.storage import Storage
from cloudless.errors import CloudlessError, Corrupt, FailedPrecondition

log = structlog.get_logger(__name__)

PIECE_BYTES: Final = 512 * 2**10
HELD_S: Final = 60.0  # a snapshot that is being sent is kept so long after its last piece


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest durable snapshot. `configuration` is the encoded one as of `index`."""

    index: int
    term: int
    configuration: bytes


class Serving:
    """Of the leader. `term` is the current one while this member leads, else 0."""

    def __init__(
        self,
        storage: Storage,
        transport: Transport,
        *,
        run_blocking: RunBlocking,
        seconds: Callable[[], float],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        feed: Callable[[Event], None],
        term: Callable[[], int],
    ) -> None:
        self._storage = storage
        self._transport = transport
        self._run_blocking = run_blocking
        self._seconds = seconds
        self._spawn = spawn
        self._feed = feed
        self._term = term
        self._known: dict[int, Newest] = {}
        self._held: dict[str, tuple[int, float]] = {}  # receiver -> (index, until)

    @property
    def newest(self) -> Newest | None:
        return self._known[max(self._known)] if self._known else None

    def stored(self, snapshot: Newest) -> None:
        """A durable one, saved or received."""
        self._known[snapshot.index] = snapshot
        held = [index for index, _ in self._held.values()]
        for index in sorted(self._known)[:-2]:
            if index not in held:
                del self._known[index]

    def send(self, effect: SendSnapshot) -> None:
        found = self._known.get(effect.index) if effect.index else self.newest
        if found is None:
            log.info("snapshot.not_there", to=effect.to, index=effect.index)
            self._feed(Unreachable(effect.to))
            return
        self._hold(effect.to, found.index)
        self._spawn(self._send(effect, found, self._term()))

    async def _send(self, effect: SendSnapshot, found: Newest, term: int) -> None:
        snapshots = self._storage.snapshots
        try:
            total = snapshots.file_size(found.index)
            data = await self._run_blocking(lambda: snapshots.read_part(found.index, effect.offset, PIECE_BYTES))
        except (KeyError, OSError) as error:
            log.warning("snapshot.not_read", to=effect.to, index=found.index, cause=repr(error))
            self._known.pop(found.index, None)
            self._feed(Unreachable(effect.to))
            return
        if term == 0 or self._term() != term:
            return
        configuration = found.configuration
        chunk = SnapshotChunk(term, found.index, found.term, effect.offset, total, configuration, data, effect.round)
        if not self._transport.send(effect.to, chunk):
            self._feed(Unreachable(effect.to))
            return
        SNAPSHOT_SENT_BYTES.inc(len(data))
        if not effect.offset:
            log.info("snapshot.sending", to=effect.to, index=found.index, bytes=total)

    def sweep(self) -> None:
        """Lets go of what nobody asked for lately; to be called now and then."""
        now_s = self._seconds()
        for receiver in [r for r, (_, until_s) in self._held.items() if until_s <= now_s or not self._term()]:
            self._storage.snapshots.release(self._held.pop(receiver)[0])

    def _hold(self, receiver: str, index: int) -> None:
        before = self._held.get(receiver)
        self._held[receiver] = (index, self._seconds() + HELD_S)
        if before is None or before[0] != index:
            self._storage.snapshots.hold(index)
            if before is not None:
                self._storage.snapshots.release(before[0])


class Receiver(Protocol):
    """What installs a snapshot: the engine."""

    async def install(self, snapshot: StoredSnapshot, chunk: SnapshotChunk, leader: str) -> None:
        """It is durable: makes it the state. Raises Corrupt, ValueError."""
        ...


class Receiving:
    """Of a follower: one snapshot at a time, its pieces in order."""

    def __init__(
        self,
        storage: Storage,
        *,
        run_blocking: RunBlocking,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        feed: Callable[[Event], None],
        install: Callable[[StoredSnapshot, SnapshotChunk, str], Awaitable[None]],
    ) -> None:
        self._storage = storage
        self._run_blocking = run_blocking
        self._spawn = spawn
        self._feed = feed
        self._install = install
        self._pieces: deque[StoreSnapshot] = deque()
        self._incoming: Incoming | None = None
        self._of: tuple[str, int, int] = ("", 0, 0)  # leader, term, index
        self._working = False
        self._stopped = False
        self._idle: asyncio.Event = asyncio.Event()
        self._idle.set()

    def store(self, effect: StoreSnapshot) -> None:
        self._pieces.append(effect)
        if not self._working:
            self._working = True
            self._idle.clear()
            self._spawn(self._work())

    async def close(self) -> None:
        """Finishes the piece under way; what arrived of a snapshot is thrown away."""
        self._stopped = True
        await self._idle.wait()
        if self._incoming is not None:
            incoming, self._incoming = self._incoming, None
            await self._run_blocking(incoming.discard)

    async def _work(self) -> None:
        try:
            while self._pieces and not self._stopped:
                effect = self._pieces.popleft()
                try:
                    offset = await self._store(effect)
                except FailedPrecondition:
                    raise  # this member must not go on: see `StateHost.install`
                except (CloudlessError, OSError, ValueError) as error:
                    log.warning("snapshot.not_stored", leader=effect.leader, index=effect.chunk.index, cause=str(error))
                    await self._discard()
                    offset = 0
                if offset is not None:
                    self._feed(SnapshotStored(effect.leader, effect.chunk.term, effect.chunk.index, offset))
        finally:
            self._working = False
            self._idle.set()

    async def _store(self, effect: StoreSnapshot) -> int | None:
        """Bytes that are here now; None when it was the last piece and the snapshot is installed."""
        chunk = effect.chunk
        of = (effect.leader, chunk.term, chunk.index)
        if self._incoming is None or of != self._of:
            if chunk.offset:
                return 0
            await self._discard()
            self._of = of
            self._incoming = await self._run_blocking(lambda: self._storage.incoming(chunk.index, chunk.total))
            log.info("snapshot.receiving", leader=effect.leader, index=chunk.index, bytes=chunk.total)
        incoming = self._incoming
        assert incoming is not None
        if chunk.offset != incoming.offset or chunk.total != incoming.total_bytes:
            return incoming.offset  # a repeated one
        if not chunk.data:
            raise Corrupt(f"an empty piece of snapshot {chunk.index}")
        await self._run_blocking(lambda: incoming.append(chunk.data))
        if incoming.offset < incoming.total_bytes:
            return incoming.offset
        self._incoming = None
        try:
            snapshot = await self._run_blocking(incoming.finish)
            if snapshot.term != chunk.last_term:
                raise Corrupt(f"snapshot {chunk.index} is of term {snapshot.term}, not {chunk.last_term}")
            await self._install(snapshot, chunk, effect.leader)
        except (Corrupt, ValueError):
            self._storage.snapshots.reject(chunk.index)
            raise
        SNAPSHOTS_INSTALLED.inc()
        return None

    async def _discard(self) -> None:
        if self._incoming is not None:
            incoming, self._incoming = self._incoming, None
            await self._run_blocking(incoming.discard)
