"""The state machine as the log sees it, and the fabric's own one.

The log, recovery and the store are written against `Machine` and know nothing of nodes or workloads.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, TypeVar

from cloudless.coordinator.core import commands, machine, snapshot, versions
from cloudless.coordinator.core.outcome import ApplyResult, Change
from cloudless.coordinator.core.state import State
from cloudless.core.model import Event

S = TypeVar("S")
S_co = TypeVar("S_co", covariant=True)


class Applied(Protocol[S_co]):
    """What one entry led to."""

    @property
    def state(self) -> S_co: ...
    @property
    def result(self) -> ApplyResult: ...
    @property
    def changes(self) -> tuple[Change, ...]: ...
    @property
    def events(self) -> tuple[Event, ...]: ...


class Machine(Protocol[S]):
    """Pure functions over an immutable state. `encode` runs in a thread while the state moves on."""

    def empty(self) -> S: ...

    def entry(self, command: Any, *, state: S, actor: str, request_id: str, issued_at_ms: int) -> bytes:
        """The bytes that go into the log. `state` is the newest one here. Raises ValueError for a command that cannot
        be written, CloudlessError for one that must not be proposed now."""
        ...

    def apply(self, state: S, data: bytes, *, index: int, term: int) -> Applied[S]:
        """Total and deterministic. Raises CloudlessError only where this member must not go on at all."""
        ...

    def encode(self, state: S, *, index: int, term: int) -> bytes: ...

    def decode(self, data: bytes) -> tuple[S, int, int]:
        """State, index and term. Raises Corrupt or ValueError; any other CloudlessError as `apply` does."""
        ...

    def state_hash(self, state: S) -> str: ...

    def events(self, state: S) -> Iterable[Event]:
        """The events that a state remembers, the newest first."""
        ...


class FabricMachine:
    """The machine of `coordinator.core`. `trust_domain` is that of a new fabric; a stored one keeps its own. `member`:
    the coordinator whose machine it is. `schema` is the newest of log entries that it understands, writes and announces
    (`core.versions`).

    `apply` and `decode` raise FailedPrecondition (CoordinatorTooOld) as soon as the fabric uses what this machine does
    not understand, as it happens to a version that is older than the one before it: to pass over an entry that the
    others applied would leave another state than theirs, in snapshots, too, where a newer version would find it."""

    def __init__(self, trust_domain: str, *, member: str = "", schema: int = commands.SCHEMA) -> None:
        self._trust_domain = trust_domain
        self._member = member
        self.schema = schema
        self._coordinators: object = None  # of the newest state that was asked about, and what they understand
        self._understood = 0

    def empty(self) -> State:
        return State.empty(self._trust_domain)

    def entry(self, command: Any, *, state: State, actor: str, request_id: str, issued_at_ms: int) -> bytes:
        """Raises FailedPrecondition (UpgradeNotFinished) for a command that a member does not understand yet."""
        if state.coordinators is not self._coordinators:
            self._coordinators = state.coordinators
            self._understood = versions.schema_of_all(state, known=self.schema)
        if commands.schema_of(command) > self._understood and (
            refusal := versions.refusal(command, state, known=self.schema)
        ):
            raise refusal
        return commands.encode(commands.Entry(commands.SCHEMA, request_id, issued_at_ms, actor, command))

    def apply(self, state: State, data: bytes, *, index: int, term: int) -> machine.Applied:
        applied = machine.apply(state, data, index=index, term=term, known=self.schema)
        if applied.state.coordinators is not state.coordinators:
            self._check_understood(applied.state)
        return applied

    def encode(self, state: State, *, index: int, term: int) -> bytes:
        return snapshot.encode(state, index=index, term=term)

    def decode(self, data: bytes) -> tuple[State, int, int]:
        decoded = snapshot.decode(data)
        self._check_understood(decoded[0])
        return decoded

    def state_hash(self, state: State) -> str:
        return snapshot.state_hash(state)

    def events(self, state: State) -> Iterable[Event]:
        return state.events.newest_first()

    def _check_understood(self, state: State) -> None:
        """Whoever proposes a newer command has seen every coordinator say that it understands it. So what they say
        stands in the log before the first entry that this machine would have to pass over."""
        own = state.coordinators.get(self._member)
        if own is not None and own.removed:
            return  # it ends for another reason
        if (behind := versions.too_old(state, self._member, schema=self.schema)) is not None:
            raise behind
