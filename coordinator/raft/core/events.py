"""What happens to a member. Times come beside the event (`step(..., now_ms=, jitter=)`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from cloudless.coordinator.raft.core.messages import Message
from cloudless.coordinator.raft.core.model import Member
from cloudless.core.quick import quick_frozen


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed. The shell ticks when `model.State.due_ms` has come; earlier does no harm."""


@quick_frozen
class Received:
    """A message of an authenticated member (or of one that this member does not know yet)."""

    sender: str
    message: Message


@quick_frozen
class Propose:
    """The shell has `count` entries to append; only while `state.role` is LEADER and no transfer is under way (the core
    then answers with one Persist that says from which index on; else with nothing)."""

    count: int


@quick_frozen
class Persisted:
    """Everything up to and with Persist `number` is on the disk. `last_index`, `last_term`: the end of the log as it
    was then; a log that was truncated since is recognised by its term."""

    number: int
    last_index: int
    last_term: int


@dataclass(frozen=True, slots=True)
class AddLearner:
    """§4.2.1: replicate to it, without a vote. `id` names the answer (ChangeAnswered)."""

    id: int
    member: Member


@dataclass(frozen=True, slots=True)
class Promote:
    """§4.2.1: a learner that has caught up becomes a voter."""

    id: int
    member: str


@dataclass(frozen=True, slots=True)
class Remove:
    """§4.2.2: also the leader itself, which goes on until the entry is committed and then stands down."""

    id: int
    member: str


@dataclass(frozen=True, slots=True)
class Transfer:
    """§3.10. `member` "": the voter with the longest log."""

    id: int
    member: str = ""


@dataclass(frozen=True, slots=True)
class Read:
    """§6.4: answered with ReadAnswered of the same id. Any role."""

    id: int


@dataclass(frozen=True, slots=True)
class Compacted:
    """A durable snapshot of (`index`, `term`) exists and the log before `first_index` is gone (or may go)."""

    first_index: int
    snapshot_index: int
    snapshot_term: int


@dataclass(frozen=True, slots=True)
class Unreachable:
    """The connection to a member broke: what was under way to it may be lost (so go back to probing)."""

    member: str


@dataclass(frozen=True, slots=True)
class SnapshotStored:
    """The receiver's shell has `offset` bytes of the leader's snapshot of `index` on its disk; 0: it could not (disk
    full, other snapshot): the leader begins anew later."""

    leader: str
    term: int
    index: int
    offset: int


@dataclass(frozen=True, slots=True)
class SnapshotInstalled:
    """The receiver's shell verified the snapshot, made it durable and made it its state. The log was kept where it
    contains (`index`, `last_term`) and is otherwise empty behind it (§5.1)."""

    leader: str
    index: int
    last_term: int
    configuration: bytes


@dataclass(frozen=True, slots=True)
class Measured:
    """What the shell measured lately, in milliseconds: the slowest usual round trip to a member and the slowest usual
    sync of this disk (a high percentile). Election timeouts grow with them and shrink back (§9.3)."""

    round_trip_ms: float
    sync_ms: float


Event: TypeAlias = (
    Tick
    | Received
    | Propose
    | Persisted
    | AddLearner
    | Promote
    | Remove
    | Transfer
    | Read
    | Compacted
    | Unreachable
    | SnapshotStored
    | SnapshotInstalled
    | Measured
)
