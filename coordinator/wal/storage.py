"""What engines with a disk of their own (single, raft) share: log and snapshots below one directory."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from cloudless.coordinator.engine import EngineParts, StateHost
from cloudless.coordinator.wal.incoming import Incoming
from cloudless.coordinator.wal.log import Log
from cloudless.coordinator.wal.record import LogEntry
from cloudless.coordinator.wal.recovery import check_continuity, load_newest, replay
from cloudless.coordinator.wal.snapshots import Snapshots, StoredSnapshot

log = structlog.get_logger(__name__)


class Storage:
    """The log and the snapshots of one member, and the state that they lead to. Made by `Storage.open`."""

    def __init__(self, wal: Log, snapshots: Snapshots, start: StoredSnapshot | None) -> None:
        self.wal = wal
        self.snapshots = snapshots
        self.start = start  # the snapshot that the host was given, without its body; None: there was none

    @classmethod
    def open(
        cls,
        parts: EngineParts,
        host: StateHost,
        *,
        notice: Callable[[LogEntry], None] | None = None,
        installs: bool = False,
    ) -> Storage:
        """Opens both, and loads the newest good snapshot into the host; replays nothing.

        `notice`: called in order for each entry left in the log that is an engine's own. `installs`: snapshots may come
        from other members. A crash after such a file got its name, and before the log was made to follow it, leaves a
        log that does not contain its last entry; that log is then emptied. Raises Corrupt (nothing was changed),
        DiskFull; everything is closed then.
        """
        noticed: list[LogEntry] = []
        wal = Log.open(
            parts.filesystem,
            parts.directory / "wal",
            segment_bytes=parts.config.segment_bytes,
            salt=lambda: parts.random_bits(32),
            seconds=parts.seconds,
            notice=noticed.append,
        )
        try:
            snapshots = Snapshots(parts.filesystem, parts.directory / "snapshots")
            snapshots.remove_leftovers()
            start = load_newest(snapshots, host.load)
            if start is not None and _is_behind(wal, start, installs=installs):
                log.warning("store.log_behind_snapshot", last_index=wal.last_index, snapshot_index=start.index)
                wal.reset(start.index, start.term)
                noticed.clear()
            check_continuity(start, wal, snapshots)
        except BaseException:
            wal.close()
            raise
        if notice is not None:
            for entry in noticed:
                notice(entry)
        return cls(wal, snapshots, start)

    def replay(self, host: StateHost, *, to_index: int) -> None:
        """Applies the entries that the host does not have yet, up to and with `to_index`. Raises Corrupt."""
        replay(self.wal, host.apply, after=host.applied_index, to_index=to_index)

    def save_snapshot(self, snapshot: StoredSnapshot) -> tuple[int, int]:
        """Writes a snapshot of this member's own state, and removes the segments of the log that nobody needs any
        more. Blocks; may run beside the log's writer. Returns its size in bytes and the number of segments removed.
        Raises DiskFull, OSError: what was there is unchanged."""
        size = self.snapshots.save(snapshot)
        return size, self.wal.compact(self.snapshots.compactable_index())

    def incoming(self, index: int, total_bytes: int) -> Incoming:
        """To receive a snapshot from another member. Raises DiskFull, OSError."""
        return Incoming(self.snapshots, index, total_bytes)

    def follow(self, index: int, term: int) -> bool:
        """Makes the log follow a snapshot that arrived and is durable; see `Log.follow`. For the log's writer. Returns
        whether what the log contained behind it was kept."""
        kept = self.wal.follow(index, term)
        self.wal.compact(self.snapshots.compactable_index())
        return kept

    def close(self) -> None:
        """Closes the log; safe to repeat. Raises Unavailable (DiskFailed) when the last sync failed."""
        self.wal.close()


def _is_behind(wal: Log, start: StoredSnapshot, *, installs: bool) -> bool:
    """Whether the log says nothing of what follows this snapshot. Where another leader's entry is in its place, that
    one is of an earlier term: whoever led later had the one of the snapshot."""
    if start.index > wal.last_index:
        return True
    return installs and start.index >= wal.base_index and wal.term_at(start.index) < start.term
