"""What the store and an engine are to each other. An engine decides when an entry is committed; the store applies it.

Three engines implement `Engine`: `wal.single` (one member), `raft` (one, three or five) and `etcd`. One conformance
and fault suite runs against all of them (`test/conformance/test_engine.py`). Nothing above the store knows which one
is in use; only `main` imports them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

from cloudless.clock import Clock
from cloudless.config import StoreConfig
from cloudless.coordinator.wal.files import Filesystem
from cloudless.coordinator.wal.record import LogEntry
from cloudless.coordinator.wal.snapshots import StoredSnapshot
from cloudless.core.quick import quick_frozen
from cloudless.errors import CloudlessError, FailedPrecondition

RunBlocking = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs a function that may block, outside the event loop, and returns its result."""

# Entries of an engine's own (a term's first entry, a change of members) begin with this byte, which no command does:
# no protobuf message begins with a zero. They move the applied index and nothing else.
INTERNAL: Final = b"\x00"


def is_internal(data: bytes) -> bool:
    return data[:1] == INTERNAL


@quick_frozen
class Committed:
    """Where an entry stands in the log, and what applying it on this member returned."""

    index: int
    term: int
    outcome: Any


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """One coordinator, as the engine of the asked one sees it. `address` is that of its member listener (host:port),
    `match_index` the newest entry known to be on its disk; -1 where only the leader knows. `contact_age_ms` is the
    time since its last answer, -1 where unknown."""

    id: str
    address: str = ""
    voter: bool = True
    leader: bool = False
    match_index: int = -1
    contact_age_ms: int = -1


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """`role`: leader, follower, candidate, learner or removed. `leader`: the id of the one it knows, or ""."""

    engine: str
    member: str
    role: str
    leader: str
    term: int
    commit_index: int
    applied_index: int
    first_index: int
    last_index: int
    members: tuple[MemberStatus, ...]


class StateHost(Protocol):
    """The state that an engine feeds; `store.Store` is one. All methods belong to the event loop."""

    @property
    def applied_index(self) -> int: ...

    @property
    def applied_term(self) -> int: ...

    def apply(self, entry: LogEntry) -> Any:
        """Applies the entry behind `applied_index`; returns its outcome (None for an internal entry). Never raises for
        bad data; a CloudlessError says that this member must not go on, any other exception is a bug: the engine has
        to fail."""
        ...

    def load(self, body: bytes) -> tuple[int, int]:
        """While opening: makes a snapshot's body the state; returns its index and term. Raises Corrupt, ValueError,
        and then nothing changed; any other CloudlessError as `apply` does."""
        ...

    async def install(self, body: bytes) -> tuple[int, int]:
        """As `load`, on a running store: decodes in a thread, then replaces the state. Watchers get Compacted."""
        ...


@dataclass(frozen=True, slots=True)
class EngineParts:
    """What an engine is made of. `directory` is the store's own and locked; `seconds` is a monotonic timer;
    `on_failure` has to be called once when the engine can never commit again."""

    directory: Path
    member: str
    config: StoreConfig
    filesystem: Filesystem
    run_blocking: RunBlocking
    clock: Clock
    seconds: Callable[[], float]
    random_bits: Callable[[int], int]
    on_failure: Callable[[CloudlessError], None]


class Engine(Protocol):
    """Puts entries into the replicated log, and feeds committed ones to the StateHost in the order of the log, each
    exactly once per process, on the event loop."""

    async def propose(self, data: bytes, *, term: int | None = None) -> Committed:
        """Returns when the entry is committed and applied on this member. On a follower it is forwarded to the leader.

        `term`: the leader's own work, planned while it led in this term; it is committed only if this member still
        leads in it, else FailedPrecondition (LeadershipLost) and it will never be committed.

        Raises ResourceExhausted and DiskFull (not accepted; a repeat may succeed), InvalidArgument (too large),
        Unavailable (NoLeader: not accepted; otherwise the outcome is unknown: repeat with the same request id). A
        cancelled call has an unknown outcome too.
        """
        ...

    async def read_index(self) -> int:
        """An index that is at least as new as everything acknowledged before the call, anywhere. Once this member has
        applied it (which it has on return), a read of its state is linearizable. Raises Unavailable (NoLeader)."""
        ...

    @property
    def term(self) -> int: ...

    @property
    def leading(self) -> bool: ...

    @property
    def failure(self) -> CloudlessError | None:
        """Why this engine can never commit again (a failed disk, removed from the cluster), or None."""
        ...

    def on_leadership(self, listener: Callable[[bool], None]) -> None:
        """Calls the listener at once and at every change, on the event loop, before anything else happens in the new
        role. A term in which it leads begins with True and ends with False, also where two follow each other."""
        ...

    def status(self) -> EngineStatus: ...

    async def save_snapshot(self, snapshot: StoredSnapshot) -> tuple[int, int]:
        """Stores a snapshot durably and lets go of the log that it makes superfluous. Returns its size in bytes and the
        number of segments (or keys) removed. Raises DiskFull, OSError, Unavailable: what was there is unchanged."""
        ...

    async def close(self) -> None:
        """Takes no more proposals, finishes those it can, hands leadership over if it has it, releases everything."""
        ...


@runtime_checkable
class Membership(Protocol):
    """Changes of who is a member. Any member takes them and forwards them to the leader. An engine without members of
    its own (single, etcd) raises FailedPrecondition (NotReplicated). Each may be repeated: what is already so is fine.

    Raises FailedPrecondition: ChangeUnderWay, UnknownMember, NotCaughtUp, LastVoter, MemberIdUsed; Unavailable.
    """

    async def add_learner(self, member: str, address: str) -> None: ...
    async def promote(self, member: str) -> None: ...
    async def remove(self, member: str) -> None: ...
    async def transfer(self, member: str = "") -> str:
        """Hands leadership to this member, or to the most up to date one; returns who leads then."""
        ...


class NotReplicated:
    """The `Membership` of an engine that has no members of its own."""

    def __init__(self, engine: str) -> None:
        self._engine = engine

    async def add_learner(self, member: str, address: str) -> None:
        raise self._refusal()

    async def promote(self, member: str) -> None:
        raise self._refusal()

    async def remove(self, member: str) -> None:
        raise self._refusal()

    async def transfer(self, member: str = "") -> str:
        raise self._refusal()

    def _refusal(self) -> FailedPrecondition:
        return FailedPrecondition(
            f"the store's engine is {self._engine}, which has no members to change",
            reason="NotReplicated",
            remedy="only a fabric whose coordinators have store.engine raft can have several",
        )


OpenEngine = Callable[[EngineParts, StateHost], Awaitable[Engine]]
"""Recovers the host to what is stored and returns an engine that takes proposals. Raises Corrupt, DiskFull,
FailedPrecondition, Unavailable; everything is undone then."""
