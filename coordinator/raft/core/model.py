"""Members, the shape of the log, each peer's progress, and the whole state of one member."""

from __future__ import annotations

import enum
import json
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from cloudless.core.quick import quick_frozen

CONFIGURATION: Final = b"\x00c"  # how an entry that changes the members begins (see `coordinator.engine.INTERNAL`)
NO_OP: Final = b"\x00n"  # the first entry of a term (§6.4)


class Role(enum.StrEnum):
    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


@dataclass(frozen=True, slots=True)
class Member:
    """`address`: host:port of its member listener."""

    id: str
    address: str
    voter: bool = True


@dataclass(frozen=True, slots=True)
class Configuration:
    """Who takes part (§4). `cluster_id` keeps two clusters apart that share an authority (one restored from a backup of
    the other). `index`: the entry that it stands in; 0: it was given, not replicated. `removed`: ids that were members
    once; none of them may come back."""

    cluster_id: str = ""
    members: tuple[Member, ...] = ()  # by id
    removed: tuple[str, ...] = ()
    index: int = 0

    @property
    def voters(self) -> tuple[str, ...]:
        return tuple(member.id for member in self.members if member.voter)

    def get(self, member_id: str) -> Member | None:
        return next((member for member in self.members if member.id == member_id), None)


def encode_configuration(configuration: Configuration) -> bytes:
    """As an entry's data; `index` is where it stands and is not part of it."""
    document = {
        "cluster": configuration.cluster_id,
        "members": [[m.id, m.address, m.voter] for m in configuration.members],
        "removed": list(configuration.removed),
    }
    return CONFIGURATION + json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


def decode_configuration(data: bytes, *, index: int) -> Configuration:
    """Raises ValueError for what `encode_configuration` did not make."""
    if not data.startswith(CONFIGURATION):
        raise ValueError("no configuration")
    try:
        document = json.loads(data[len(CONFIGURATION) :])
        members = tuple(Member(str(i), str(address), bool(voter)) for i, address, voter in document["members"])
        removed = tuple(str(i) for i in document["removed"])
        return Configuration(str(document["cluster"]), tuple(sorted(members, key=lambda m: m.id)), removed, index)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"a configuration that cannot be read: {error}") from None


@quick_frozen
class LogShape:
    """Which indexes the log has and which term each carries: runs of equal terms, so that its size is the number of
    elections since the last compaction. `base_*`: the entry before the first."""

    base_index: int = 0
    base_term: int = 0
    last_index: int = 0
    runs: tuple[tuple[int, int], ...] = ()  # (first index, term), ascending in both

    @property
    def last_term(self) -> int:
        return self.runs[-1][1] if self.runs else self.base_term

    def term_at(self, index: int) -> int | None:
        """None: compacted away, or not there."""
        runs = self.runs
        if runs and index >= runs[-1][0]:
            return runs[-1][1] if index <= self.last_index else None
        if index == self.base_index:
            return self.base_term
        if not self.base_index < index <= self.last_index:
            return None
        return runs[bisect_right(runs, index, key=lambda run: run[0]) - 1][1]

    def appended(self, first_index: int, term: int, count: int = 1) -> LogShape:
        """With `count` more entries of `term`, which continue it."""
        assert first_index == self.last_index + 1, (self, first_index, term)
        assert term >= self.last_term, (self, first_index, term)
        runs = self.runs if self.runs and self.runs[-1][1] == term else (*self.runs, (first_index, term))
        return LogShape(self.base_index, self.base_term, self.last_index + count, runs)

    def truncated(self, from_index: int) -> LogShape:
        """Without the entries from this one on."""
        assert self.base_index < from_index <= self.last_index + 1, (self, from_index)
        runs = tuple(run for run in self.runs if run[0] < from_index)
        return LogShape(self.base_index, self.base_term, from_index - 1, runs)

    def compacted(self, to_index: int) -> LogShape:
        """Without the entries up to and with this one, which is there."""
        if to_index <= self.base_index:
            return self
        term = self.term_at(to_index)
        assert term is not None, (self, to_index)
        later = [run for run in self.runs if run[0] > to_index + 1]
        if to_index < self.last_index:
            next_term = self.term_at(to_index + 1)
            assert next_term is not None
            later.insert(0, (to_index + 1, next_term))
        return LogShape(to_index, term, self.last_index, tuple(later))

    def newest_at_most(self, index: int, term: int) -> int:
        """The newest index, not above `index`, whose entry's term is not above `term`; at least the base (§3.5)."""
        at = min(index, self.last_index)
        for first, run_term in reversed(self.runs):
            if at >= first and run_term <= term:
                return at
            at = min(at, first - 1)
        return max(at, self.base_index)

    @classmethod
    def of(cls, base_index: int, base_term: int, terms: Iterable[int]) -> LogShape:
        """From the terms of all entries behind the base."""
        shape = cls(base_index, base_term, base_index)
        for term in terms:
            shape = shape.appended(shape.last_index + 1, term)
        return shape


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds. An election timeout is drawn evenly from `election_ms` to twice that; `election_ms` is stretched to
    what the measured round trips and syncs need, up to `stretch_max` times."""

    heartbeat_ms: int = 50
    election_ms: int = 250
    stretch_max: float = 20.0


class Mode(enum.Enum):
    """How a leader sends to a peer (§10.2.1). PROBE: it is not known where the logs agree, or what was sent may be
    lost: one batch at a time. REPLICATE: several are under way. SNAPSHOT: what the peer needs was compacted away."""

    PROBE = enum.auto()
    REPLICATE = enum.auto()
    SNAPSHOT = enum.auto()


@quick_frozen
class Progress:
    """A leader's view of one peer.

    `match_index`: up to there it agrees and is on the peer's disk; never goes back. `next_index`: the next to send,
    ahead of what was answered. `in_flight`: the last index of each batch that is under way. `round`: the newest that
    the peer answered, `contact_ms` when it answered last. `probe_round`: answers to older rounds say nothing about the
    probe. `sent_commit`: the commit index that it was told. `snapshot_*`: the transfer under way: of which snapshot (0:
    not known yet), what is acknowledged, when the last piece was asked for."""

    match_index: int = 0
    next_index: int = 1
    mode: Mode = Mode.PROBE
    in_flight: tuple[int, ...] = ()
    round: int = 0
    contact_ms: float = 0.0
    probe_round: int = 0
    sent_commit: int = 0
    snapshot_index: int = 0
    snapshot_offset: int = 0
    snapshot_ms: float = 0.0

    def answered(self, round_: int, now_ms: float) -> Progress:
        """The peer answered, at least to this round."""
        return replace(self, round=max(round_, self.round), contact_ms=now_ms)

    def told(self, commit_index: int) -> Progress:
        """The peer was told this commit index."""
        return Progress(  # written out: `replace` costs three times as much, and this is done for each commit
            self.match_index,
            self.next_index,
            self.mode,
            self.in_flight,
            self.round,
            self.contact_ms,
            self.probe_round,
            commit_index,
            self.snapshot_index,
            self.snapshot_offset,
            self.snapshot_ms,
        )

    def transferring(self, index: int, offset: int, now_ms: float) -> Progress:
        """The snapshot's piece at `offset` was asked for."""
        return replace(
            self,
            mode=Mode.SNAPSHOT,
            in_flight=(),
            snapshot_index=index,
            snapshot_offset=offset,
            snapshot_ms=now_ms,
        )


@dataclass(frozen=True, slots=True)
class PendingRead:
    """`origin`: the follower that asked, "" for this member's own. It is refused when `deadline_ms` has come."""

    origin: str
    id: int
    deadline_ms: float


@dataclass(frozen=True, slots=True)
class Reads:
    """A leader's reads (§6.4). `asked` are answered with `index` once a majority answered `round` (0: none is under
    way); `waiting` join the next round."""

    round: int = 0
    index: int = 0
    asked: tuple[PendingRead, ...] = ()
    waiting: tuple[PendingRead, ...] = ()


@dataclass(frozen=True, slots=True)
class ForwardedRead:
    """A read that this follower asked its leader about, under the number `serial`."""

    serial: int
    id: int
    deadline_ms: float


@dataclass(frozen=True, slots=True)
class PendingChange:
    """A change of members, in the entry `index`, is answered when that is committed."""

    id: int
    index: int


@dataclass(frozen=True, slots=True)
class HandOver:
    """A transfer of leadership under way (§3.10). `any`: the target was this member's choice."""

    id: int
    target: str
    any: bool
    deadline_ms: float


@dataclass(frozen=True, slots=True)
class Receiving:
    """A snapshot that comes in. `end`: bytes handed to the shell, `stored`: bytes that it has. `installing`: all of it
    is with the shell; until the shell has answered the log stays as it is, unless `keep_log`."""

    leader: str
    term: int
    index: int
    last_term: int
    total: int
    end: int = 0
    stored: int = 0
    round: int = 0
    installing: bool = False
    keep_log: bool = False

    @property
    def name(self) -> tuple[str, int, int, int, int]:
        """Tells two transfers apart."""
        return self.leader, self.term, self.index, self.last_term, self.total


NO_READS: Final = Reads()


@quick_frozen
class State:
    """One member. `leader`: whom it follows in this term, itself when it leads, or "". `due_ms`: when it wants the next
    Tick. What the log holds and what is on the disk differ by the Persists under way: `written` is the number of the
    newest one, `durable` of the newest that came back."""

    id: str
    term: int
    vote: str
    log: LogShape
    configuration: Configuration
    timing: Timing
    role: Role = Role.FOLLOWER
    leader: str = ""
    commit_index: int = 0
    written: int = 0
    durable: int = 0
    due_ms: float = 0.0
    # The disk. `durable_index`: the log up to there is on it. `cut_by`: the newest Persist that cut the log; `hard_by`:
    # the newest that carries term and vote.
    durable_index: int = 0
    cut_by: int = 0
    hard_by: int = 0
    snapshot_index: int = 0
    snapshot_term: int = 0
    # All configurations that the log may fall back to: the newest one at or below the log's base, and those in the log,
    # by index. `configuration` is the last, `voters` are its.
    configurations: tuple[Configuration, ...] = ()
    voters: tuple[str, ...] = ()
    # Time. `election_ms`: the timeout as stretched by what was measured (§9.3).
    election_ms: float = 0.0
    election_due_ms: float = 0.0
    contact_ms: float = 0.0  # when the leader was heard from last
    # A follower. `verified_index`: up to there the log is known to agree with the leader's.
    verified_index: int = 0
    leader_commit: int = 0
    forwarded: tuple[ForwardedRead, ...] = ()
    read_serial: int = 0
    receiving: Receiving | None = None
    # A candidate.
    votes: tuple[str, ...] = ()
    # A leader. `progress`: by member, in the order of their ids; also a removed one until its removal is committed.
    # `term_start`: the index of its term's first entry.
    progress: Mapping[str, Progress] = field(default_factory=dict)
    round: int = 0
    heartbeat_due_ms: float = 0.0
    term_start: int = 0
    reads: Reads = NO_READS
    changes: tuple[PendingChange, ...] = ()
    hand_over: HandOver | None = None  # also of a former leader, until another leads

    def configuration_at(self, index: int) -> Configuration:
        """The one that a snapshot of `index` has to hold: the newest at or below it. `index` is not below the base."""
        return next((c for c in reversed(self.configurations) if c.index <= index), self.configurations[0])
