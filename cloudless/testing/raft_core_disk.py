"""What a simulated member of a Raft cluster has: its core's state, its log, and a disk that survives crashes."""

from __future__ import annotations

from dataclasses import dataclass, field

from cloudless.coordinator.raft.core import effects as fx
from cloudless.coordinator.raft.core.model import Configuration, State
from cloudless.coordinator.wal.record import HardState, LogEntry


@dataclass(frozen=True, slots=True)
class Snapshot:
    index: int
    term: int
    configuration: bytes


@dataclass(slots=True)
class Log:
    """Entries behind (`base_index`, `base_term`)."""

    base_index: int = 0
    base_term: int = 0
    entries: list[LogEntry] = field(default_factory=list)

    @property
    def last_index(self) -> int:
        return self.base_index + len(self.entries)

    @property
    def last_term(self) -> int:
        return self.entries[-1].term if self.entries else self.base_term

    def at(self, index: int) -> LogEntry:
        return self.entries[index - self.base_index - 1]

    def term_at(self, index: int) -> int | None:
        if index == self.base_index:
            return self.base_term
        return self.at(index).term if self.base_index < index <= self.last_index else None

    def slice(self, first: int, last: int) -> tuple[LogEntry, ...]:
        return tuple(self.entries[first - self.base_index - 1 : last - self.base_index])

    def truncate(self, from_index: int) -> None:
        del self.entries[from_index - self.base_index - 1 :]

    def compact(self, to_index: int) -> None:
        term = self.term_at(to_index)
        if to_index > self.base_index and term is not None:
            del self.entries[: to_index - self.base_index]
            self.base_index, self.base_term = to_index, term

    def copy(self) -> Log:
        return Log(self.base_index, self.base_term, list(self.entries))


@dataclass(slots=True)
class Write:
    """A Persist that is not on the disk yet, with the entries filled in, and where the log ended then."""

    number: int
    hard_state: HardState | None
    truncate_from: int
    entries: tuple[LogEntry, ...]
    last_index: int
    last_term: int


@dataclass(slots=True)
class Disk:
    """What is there after a crash."""

    hard_state: HardState = HardState()
    log: Log = field(default_factory=Log)
    snapshot: Snapshot | None = None

    def write(self, write: Write) -> None:
        if write.truncate_from and write.truncate_from <= self.log.last_index:
            self.log.truncate(write.truncate_from)
        if write.hard_state is not None:
            self.hard_state = write.hard_state
        self.log.entries.extend(write.entries)


@dataclass(slots=True)
class Node:
    id: str
    disk: Disk
    first: Configuration
    state: State | None = None  # None: down
    log: Log = field(default_factory=Log)
    applied: int = 0
    writes: list[Write] = field(default_factory=list)
    held: list[fx.Send] = field(default_factory=list)
    snapshots: dict[int, Snapshot] = field(default_factory=dict)
    incoming: dict[tuple[str, int, int], int] = field(default_factory=dict)
    life: int = 0  # how often it was started
    syncing: bool = False
    stopped_disk_until: float = 0.0
    rate: float = 1.0  # of its clock
    ahead_ms: float = 0.0  # its clock, of time
