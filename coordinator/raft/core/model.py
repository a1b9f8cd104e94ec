"""Members, the shape of the log, each peer's progress, and the whole state of one member."""

from __future__ import annotations

import enum
import json
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

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


@dataclass(frozen=True, slots=True)
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
        if index == self.base_index:
            return self.base_term
        if not self.base_index < index <= self.last_index:
            return None
        return self.runs[bisect_right(self.runs, index, key=lambda run: run[0]) - 1][1]

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


@dataclass(frozen=True, slots=True)
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
