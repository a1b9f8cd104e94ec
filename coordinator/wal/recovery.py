"""From what is on disk to a state: the newest good snapshot, and the entries behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic

import structlog

from cloudless.coordinator.wal.log import Log
from cloudless.coordinator.wal.machine import Applied, Machine, S
from cloudless.coordinator.wal.segment import REMEDY
from cloudless.coordinator.wal.snapshots import Snapshots
from cloudless.errors import Corrupt

log = structlog.get_logger(__name__)

_READ_ENTRIES = 4096


@dataclass(frozen=True, slots=True)
class Recovered(Generic[S]):
    """`snapshot_index`: of the snapshot that it started from; 0 when it replayed the log from its first entry."""

    state: S
    index: int
    term: int
    snapshot_index: int


def load_snapshot(snapshots: Snapshots, machine: Machine[S]) -> Recovered[S] | None:
    """The newest snapshot whose file and content are good; None when there is none."""
    for stored in snapshots.good():
        try:
            state, index, term = machine.decode(stored.body)
        except (Corrupt, ValueError) as error:
            log.warning("snapshot.unreadable", directory=str(snapshots.directory), index=stored.index, cause=str(error))
            snapshots.reject(stored.index)
            continue
        return Recovered(state, index, term, index)
    return None


def check_continuity(recovered: Recovered[S] | None, wal: Log, snapshots: Snapshots) -> None:
    """Raises Corrupt when entries are missing between the snapshot (or the very beginning) and the log."""
    start = recovered.index if recovered else 0
    if wal.first_index > start + 1:
        have = f"the newest readable snapshot is of entry {start}" if recovered else "there is no readable snapshot"
        raise Corrupt(
            f"entries {start + 1} to {wal.first_index - 1} are missing: {have} in {snapshots.directory}, "
            f"and the log begins at entry {wal.first_index}",
            remedy=REMEDY,
        )
    if recovered and wal.first_index - 1 <= start <= wal.last_index and wal.term_at(start) != recovered.term:
        raise Corrupt(
            f"the snapshot of entry {start} is of term {recovered.term}, in the log that entry has term "
            f"{wal.term_at(start)}: they are not of the same history",
            remedy=REMEDY,
        )


def replay(
    start: Recovered[S],
    wal: Log,
    machine: Machine[S],
    *,
    to_index: int,
    on_applied: Callable[[int, Applied[S]], None] | None = None,
) -> Recovered[S]:
    """Applies the entries behind `start` up to and with `to_index`."""
    state, index, term = start.state, start.index, start.term
    while index < to_index:
        entries = wal.entries(index + 1, min(index + 1 + _READ_ENTRIES, to_index + 1))
        if not entries:
            break
        for entry in entries:
            applied = machine.apply(state, entry.data, index=entry.index, term=entry.term)
            state, index, term = applied.state, entry.index, entry.term
            if on_applied is not None:
                on_applied(index, applied)
    return Recovered(state, index, term, start.snapshot_index)
