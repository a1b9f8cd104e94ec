"""Takes a backup of the running fabric: one immutable state and the identity, as `cloudless.backup` writes them.

Nothing stops meanwhile: the state is a value, and is encoded, hashed and cut into pieces in threads.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import structlog
from opentelemetry import trace
from prometheus_client import Counter, Gauge, Histogram

from cloudless import __version__, backup
from cloudless.backup import BackupInfo
from cloudless.clock import Clock
from cloudless.coordinator.core import snapshot as states
from cloudless.coordinator.core import versions
from cloudless.coordinator.core.state import State
from cloudless.coordinator.store import Snapshot, Store
from cloudless.coordinator.wal import collector
from cloudless.errors import ResourceExhausted

BACKUPS: Final = Counter("cloudless_backup_total", "Backups by result.", ["result"])
BACKUP_SECONDS: Final = Histogram("cloudless_backup_encode_duration_seconds", "Time to encode a backup's state.")
BACKUP_BYTES: Final = Gauge("cloudless_backup_size_bytes", "Size of the newest backup.")

ReadIdentity = Callable[[], Mapping[str, bytes]]
"""Reads the identity's files (ca/root.pem, tokens.key, ...) by path below the data folder. Blocks."""

log = structlog.get_logger(__name__)
tracer = trace.get_tracer("cloudless.backup")


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup in memory, to be read once: `pieces` in order are the file, `total_bytes` long."""

    info: BackupInfo
    total_bytes: int
    pieces: AsyncIterator[bytes]


class Backups:
    """Takes one backup at a time, for each holds the encoded state in memory. Event loop only."""

    def __init__(self, store: Store[State], read_identity: ReadIdentity, clock: Clock) -> None:
        self._store = store
        self._read_identity = read_identity
        self._clock = clock
        self._taking = False

    @asynccontextmanager
    async def take(self) -> AsyncIterator[Backup]:
        """A backup of the newest state here, while the block runs. Raises ResourceExhausted (BackupUnderWay)."""
        if self._taking:
            raise ResourceExhausted(
                "another backup is being taken here",
                reason="BackupUnderWay",
                remedy="wait for it, or ask another coordinator",
            )
        self._taking = True
        try:
            made = await make_backup(self._store, self._read_identity, self._clock)
            log.info("backup.begun", index=made.info.index, term=made.info.term, bytes=made.total_bytes)
            yield made
        except BaseException:
            BACKUPS.labels("failed").inc()
            raise
        finally:
            self._taking = False
        BACKUPS.labels("taken").inc()
        BACKUP_BYTES.set(made.total_bytes)
        log.info("backup.taken", index=made.info.index, bytes=made.total_bytes, state_hash=made.info.state_hash)


async def make_backup(store: Store[State], read_identity: ReadIdentity, clock: Clock) -> Backup:
    """A backup of the newest state that is applied here; what was acknowledged anywhere before is in it only after
    `store.read_barrier`. Raises OSError where the identity cannot be read."""
    taken, engine = store.snapshot, store.status().engine
    with tracer.start_as_current_span("backup.encode") as span, BACKUP_SECONDS.time():
        state, digest, identity = await asyncio.to_thread(_encode, taken, read_identity)
        span.set_attributes({"index": taken.index, "bytes": len(state)})
    info = BackupInfo(
        trust_domain=taken.state.trust_domain,
        index=taken.index,
        term=taken.term,
        state_hash=digest,
        created_at_ms=clock.now_ms(),
        version=__version__,
        schema=versions.schema_of_all(taken.state),
        engine=engine,
    )
    pieces = backup.pieces(info, state, identity)
    return Backup(info, backup.size_bytes(info, state, identity), _in_threads(pieces))


def _encode(taken: Snapshot[State], read_identity: ReadIdentity) -> tuple[bytes, str, Mapping[str, bytes]]:
    """In a thread. The bytes of the state are those that its hash is made of, so that one encoding serves both."""
    with collector.paused():
        state = states.encode(taken.state, index=0, term=0)
    return state, hashlib.sha256(state).hexdigest(), read_identity()


async def _in_threads(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Hashing a piece takes milliseconds, which the event loop has better uses for."""
    while True:
        piece = await asyncio.to_thread(next, pieces, b"")
        if not piece:
            return
        yield piece
