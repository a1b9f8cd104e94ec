"""A state being changed: mutable within one step, frozen at its end, so that a step builds the state once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Final

from cloudless.coordinator.raft.core.effects import Commit, ConfigurationChanged, Effect, Persist, RoleChanged, Send
from cloudless.coordinator.raft.core.messages import Message
from cloudless.coordinator.raft.core.model import (
    Configuration,
    ForwardedRead,
    HandOver,
    LogShape,
    PendingChange,
    Progress,
    Reads,
    Receiving,
    Role,
    State,
    Timing,
)
from cloudless.coordinator.wal.record import HardState, LogEntry


@dataclass(slots=True)
class Draft:
    """The fields of `State`, in its order; what they mean is said there."""

    id: str
    term: int
    vote: str
    log: LogShape
    configuration: Configuration
    timing: Timing
    role: Role
    leader: str
    commit_index: int
    written: int
    durable: int
    due_ms: float
    durable_index: int
    cut_by: int
    hard_by: int
    snapshot_index: int
    snapshot_term: int
    configurations: tuple[Configuration, ...]
    voters: tuple[str, ...]
    election_ms: float
    election_due_ms: float
    contact_ms: float
    verified_index: int
    leader_commit: int
    forwarded: tuple[ForwardedRead, ...]
    read_serial: int
    receiving: Receiving | None
    votes: tuple[str, ...]
    progress: Mapping[str, Progress]
    round: int
    heartbeat_due_ms: float
    term_start: int
    reads: Reads
    changes: tuple[PendingChange, ...]
    hand_over: HandOver | None


class Step(Draft):
    """One step: the draft, the time, and what the shell will have to do."""

    __slots__ = (
        "_copied",
        "_count",
        "_entries",
        "_first",
        "_hard",
        "_persisting",
        "_truncate",
        "before",
        "effects",
        "installed",
        "jitter",
        "now_ms",
    )

    def __init__(self, state: State, now_ms: float, jitter: float) -> None:
        Draft.__init__(self, *_values(state))
        self.before = state
        self.now_ms = now_ms
        self.jitter = jitter
        self.effects: list[Effect] = []
        self.installed = 0  # the index of a snapshot that became the shell's state in this step
        self._copied = False
        self._persisting = False
        self._hard = False
        self._truncate = 0
        self._entries: tuple[LogEntry, ...] = ()
        self._first = 0
        self._count = 0

    def send(self, to: str, message: Message, *, after: int = 0, fill_to: int = 0) -> None:
        self.effects.append(Send(to, message, after, fill_to))

    def put(self, peer: str, progress: Progress) -> None:
        if not self._copied:
            self.progress = dict(self.progress)
            self._copied = True
        self.progress[peer] = progress  # type: ignore[index]

    def replace_progress(self, progress: dict[str, Progress]) -> None:
        self.progress = progress
        self._copied = True

    def remember(self, term: int, vote: str) -> None:
        """Term and vote become these, and durable with this step's Persist."""
        self.term = term
        self.vote = vote
        self._hard = True
        self.hard_by = self._persist()

    def truncate(self, from_index: int) -> None:
        """Cuts the log, which holds that entry."""
        self.log = self.log.truncated(from_index)
        self._truncate = from_index
        self.cut_by = self._persist()
        self.durable_index = min(self.durable_index, from_index - 1)
        if self.configuration.index >= from_index:
            self.configure(tuple(c for c in self.configurations if c.index < from_index))

    def reset_log(self, log: LogShape) -> None:
        """The shell put a snapshot, durably, in the log's place."""
        self.log = log
        self.durable_index = log.last_index
        self.cut_by = self.written + 1  # what is under way belongs to the old one

    def append(self, entries: tuple[LogEntry, ...], log: LogShape) -> None:
        """Puts these behind the log, which becomes `log`."""
        self.log = log
        self._entries = entries
        self._persist()

    def append_proposals(self, count: int) -> None:
        self._first = self.log.last_index + 1
        self._count = count
        self.log = self.log.appended(self._first, self.term, count)
        self._persist()

    def configure(self, configurations: tuple[Configuration, ...]) -> None:
        """The last of these is in force (§4.1)."""
        self.configurations = configurations
        self.configuration = configurations[-1]
        self.voters = self.configuration.voters

    @property
    def hard_durable(self) -> bool:
        """Term and vote are on the disk."""
        return self.hard_by <= self.durable

    def majority(self, count: int) -> bool:
        return count > len(self.voters) // 2

    def majority_of(self, test: Callable[[Progress], bool]) -> bool:
        """Whether a majority of the voters passes; a leader itself does where it is one."""
        count = 0
        for voter in self.voters:
            progress = self.progress.get(voter)
            if voter == self.id or (progress is not None and test(progress)):
                count += 1
        return self.majority(count)

    def _persist(self) -> int:
        if not self._persisting:
            self._persisting = True
            self.written += 1
        return self.written

    def finish(self) -> tuple[State, tuple[Effect, ...]]:
        before = self.before
        first: list[Effect] = []
        if self._persisting:
            hard = HardState(self.term, self.vote) if self._hard else None
            term = self.term if self._count else 0
            persist = Persist(self.written, hard, self._truncate, self._entries, self._first, term, self._count)
            first.append(persist)
        if self.commit_index > before.commit_index and self.commit_index > self.installed:
            first.append(Commit(self.commit_index))
        if self.role is not before.role or self.term != before.term or self.leader != before.leader:
            first.append(RoleChanged())
        if self.configuration is not before.configuration:
            first.append(ConfigurationChanged())
        return State(*_values(self)), (*first, *self.effects)


_NAMES: Final = tuple(field.name for field in fields(State))
_values: Final = attrgetter(*_NAMES)
assert tuple(field.name for field in fields(Draft)) == _NAMES, "a Draft has the fields of a State, in its order"
