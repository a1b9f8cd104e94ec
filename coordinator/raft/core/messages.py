"""What members say to each other. Every message carries the sender's term; the transport says who sent it (§3).

Indexes count entries from 1; 0 is "before the first". All of these are immutable and made of plain values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from cloudless.coordinator.wal.record import LogEntry
from cloudless.core.quick import quick_frozen


@dataclass(frozen=True, slots=True)
class RequestVote:
    """§3.4, §9.6. `pre`: would you vote for me? Then `term` is the one that the sender would stand in. `transfer`: the
    leader told the sender to stand (§3.10), so that having heard of a leader is no reason to refuse (§4.2.3)."""

    term: int
    last_index: int
    last_term: int
    pre: bool = False
    transfer: bool = False


@dataclass(frozen=True, slots=True)
class VoteResponse:
    """`term` of a granted pre-vote is the term that was asked about; else the sender's own."""

    term: int
    granted: bool
    pre: bool = False


@quick_frozen
class AppendEntries:
    """§3.5. Without entries: a heartbeat, or a probe. `round` counts the leader's broadcasts of one term; the answer
    repeats it, which proves for ReadIndex (§6.4) and CheckQuorum (§6.2) that the sender led after the round began."""

    term: int
    previous_index: int
    previous_term: int
    commit_index: int
    round: int = 0
    entries: tuple[LogEntry, ...] = ()


@quick_frozen
class AppendResponse:
    """`match_index`: on success the newest entry that is known to agree with this leader and is on the sender's disk.
    On refusal (no agreement at `previous_index`): `refused_index` is that index, `hint_index` and `hint_term` are where
    the sender's log may agree (its newest entry of a term not above `previous_term`; §3.5 last paragraph)."""

    term: int
    success: bool
    match_index: int = 0
    round: int = 0
    refused_index: int = 0
    hint_index: int = 0
    hint_term: int = 0


@dataclass(frozen=True, slots=True)
class TimeoutNow:
    """§3.10: stand for election at once."""

    term: int


@dataclass(frozen=True, slots=True)
class SnapshotChunk:
    """§5. One piece of the snapshot of (`index`, `last_term`), `total` bytes long, from `offset` on. `configuration` is
    the encoded configuration (`model.encode_configuration`) as of `index`. The one whose end is `total` is the last."""

    term: int
    index: int
    last_term: int
    offset: int
    total: int
    configuration: bytes = b""
    data: bytes = b""
    round: int = 0


@dataclass(frozen=True, slots=True)
class SnapshotResponse:
    """`offset`: bytes of the snapshot of `index` that are stored, in order; send on from there. 0 also means: begin
    anew. `installed`: the snapshot is the sender's state now (then it also answers with an AppendResponse)."""

    term: int
    index: int
    offset: int
    installed: bool = False
    round: int = 0


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """§6.4, from a follower: up to where do I have to apply before I may answer? `id` is the sender's own."""

    term: int
    id: int


@dataclass(frozen=True, slots=True)
class ReadResponse:
    """`index` 0: refused, the sender does not lead (any more)."""

    term: int
    id: int
    index: int


Message: TypeAlias = (
    RequestVote
    | VoteResponse
    | AppendEntries
    | AppendResponse
    | TimeoutNow
    | SnapshotChunk
    | SnapshotResponse
    | ReadRequest
    | ReadResponse
)
