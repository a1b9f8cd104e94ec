"""From what is on disk to a state: the newest good snapshot, and the entries behind it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import structlog

from cloudless.coordinator.wal.log import Log
from cloudless.coordinator.wal.record import LogEntry
from cloudless.coordinator.wal.segment import REMEDY
from cloudless.coordinator.wal.snapshots import Snapshots, StoredSnapshot
from cloudless.errors import Corrupt

log = structlog.get_logger(__name__)

_READ_ENTRIES = 4096


def load_newest(snapshots: Snapshots, load: Callable[[bytes], tuple[int, int]]) -> StoredSnapshot | None:
    """Gives the newest snapshot whose file and content are good to `load` (see `StateHost.load`), and returns it
    without its body; None when there is none."""
    for stored in snapshots.good():
        try:
            load(stored.body)
        except (Corrupt, ValueError) as error:
            log.warning("snapshot.unreadable", directory=str(snapshots.directory), index=stored.index, cause=str(error))
            snapshots.reject(stored.index)
            continue
        return dataclasses.replace(stored, body=b"")
    return None


def check_continuity(start: StoredSnapshot | None, wal: Log, snapshots: Snapshots) -> None:
    """Raises Corrupt when entries are missing between the snapshot (or the very beginning) and the log, or when the two
    are not of the same history."""
    index = start.index if start else 0
    if wal.first_index > index + 1:
        have = f"the newest readable snapshot is of entry {index}" if start else "there is no readable snapshot"
        raise Corrupt(
            f"entries {index + 1} to {wal.first_index - 1} are missing: {have} in {snapshots.directory}, "
            f"and the log begins at entry {wal.first_index}",
            remedy=REMEDY,
        )
    if start and wal.base_index <= index <= wal.last_index and wal.term_at(index) != start.term:
        raise Corrupt(
            f"the snapshot of entry {index} is of term {start.term}, in the log that entry has term "
            f"{wal.term_at(index)}: they are not of the same history",
            remedy=REMEDY,
        )


def replay(wal: Log, apply: Callable[[LogEntry], object], *, after: int, to_index: int) -> None:
    """Gives the entries behind `after`, up to and with `to_index`, to `apply`. Raises Corrupt."""
    while after < to_index:
        entries = wal.entries(after + 1, min(after + 1 + _READ_ENTRIES, to_index + 1))
        if not entries:
            return
        for entry in entries:
            apply(entry)
        after = entries[-1].index
