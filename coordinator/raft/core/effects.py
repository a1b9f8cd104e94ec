"""What the shell has to do, in this order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from cloudless.coordinator.raft.core.messages import Message, SnapshotChunk
from cloudless.coordinator.wal.record import HardState, LogEntry
from cloudless.core.quick import quick_frozen


@quick_frozen
class Persist:
    """Write this and sync it, in the order of `number`; then feed `Persisted`. Several may share one sync.

    First the log is cut from `truncate_from` on (0: not), then `hard_state` (None: as it is) and the entries are
    appended: `entries` as they are, or, of a leader, its next `proposals` proposals as entries `first_index`... of
    `term`. Never both."""

    number: int
    hard_state: HardState | None = None
    truncate_from: int = 0
    entries: tuple[LogEntry, ...] = ()
    first_index: int = 0
    term: int = 0
    proposals: int = 0


@quick_frozen
class Send:
    """`after`: hold it back until Persist of this number is on the disk (0: send now): no vote and no acknowledgement
    leaves before what it promises is durable. `fill_to`: of an AppendEntries, the shell puts in the entries from
    `previous_index + 1` up to and with this one (0: none). What is too much for one message goes into further ones
    right behind it (each with its own `previous_index` and `previous_term`); what was left out, or lost, is noticed by
    the next heartbeat and sent again."""

    to: str
    message: Message
    after: int = 0
    fill_to: int = 0


@quick_frozen
class Commit:
    """Entries up to and with `index` are committed: apply them."""

    index: int


@dataclass(frozen=True, slots=True)
class RoleChanged:
    """Role, term or known leader changed. The new ones are in the state."""


@dataclass(frozen=True, slots=True)
class ConfigurationChanged:
    """The configuration in force is another one (appended, §4.1, or truncated away again): connect accordingly."""


@dataclass(frozen=True, slots=True)
class ReadAnswered:
    """`index` 0: no leader could confirm it; the caller may try again."""

    id: int
    index: int


@dataclass(frozen=True, slots=True)
class ChangeAnswered:
    """A change of members is committed, or leadership was transferred (`reason` ""); else why not, as the reasons of
    `coordinator.engine.Membership` say: NotLeader, ChangeUnderWay, UnknownMember, NotCaughtUp, LastVoter,
    TransferFailed."""

    id: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SendSnapshot:
    """Send the piece of the newest durable snapshot that starts at `offset` (the shell knows file and configuration).
    `index` 0: a new transfer, take the newest; else the one of this index. With no such snapshot: feed Unreachable."""

    to: str
    index: int
    offset: int
    round: int = 0


@dataclass(frozen=True, slots=True)
class StoreSnapshot:
    """Keep this piece, then feed SnapshotStored; when it was the last, verify, install and feed SnapshotInstalled.
    `keep_log`, of the last piece: the log contains (`index`, `last_term`), so that what follows it stays (§5.1); else
    nothing is appended until the shell has answered, and the log has to be empty behind the snapshot then.

    Pieces come in order and without gaps; one with `offset` 0 begins a new file."""

    leader: str
    chunk: SnapshotChunk
    keep_log: bool = False


Effect: TypeAlias = (
    Persist
    | Send
    | Commit
    | RoleChanged
    | ConfigurationChanged
    | ReadAnswered
    | ChangeAnswered
    | SendSnapshot
    | StoreSnapshot
)
