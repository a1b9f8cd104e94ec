"""From what is on this member's disk to the state that its core begins with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import structlog

from cloudless.coordinator.engine import EngineParts
from cloudless.coordinator.raft.core.model import (
    CONFIGURATION,
    Configuration,
    LogShape,
    Member,
    State,
    Timing,
    decode_configuration,
    encode_configuration,
)
from cloudless.coordinator.raft.core.start import initial
from cloudless.coordinator.raft.options import RaftOptions
from cloudless.coordinator.wal.record import HardState, LogEntry
from cloudless.coordinator.wal.segment import REMEDY
from cloudless.coordinator.wal.storage import Storage
from cloudless.errors import Corrupt, FailedPrecondition

log = structlog.get_logger(__name__)


def recover(parts: EngineParts, storage: Storage, internal: Sequence[LogEntry], options: RaftOptions) -> State:
    """`internal`: the engine's own entries in the log. A cluster begins here, durably, where there is none yet and the
    options say so. Raises Corrupt, DiskFull, FailedPrecondition (MemberRemoved, NotEmpty)."""
    start = storage.start
    configurations = _configurations(storage, internal)
    if not configurations:
        configurations = _first(parts, storage, options)
    wal = storage.wal
    state = initial(
        parts.member,
        hard_state=wal.hard_state,
        log=LogShape(wal.base_index, wal.base_term, wal.last_index, wal.term_runs()),
        configurations=configurations,
        snapshot_index=start.index if start else 0,
        snapshot_term=start.term if start else 0,
        timing=Timing(heartbeat_ms=parts.config.raft.heartbeat_ms, election_ms=parts.config.raft.election_ms),
        now_ms=parts.clock.monotonic_ms(),
        jitter=parts.random_bits(32) / 2**32,
    )
    if start is not None and parts.member in state.configuration_at(start.index).removed:
        raise removed(parts.member)
    if state.voters == (parts.member,):
        # Nobody else's vote is needed: whatever its log holds, this member will commit.
        state = replace(state, commit_index=state.log.last_index, verified_index=state.log.last_index)
    return state


def removed(member: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"coordinator {member} was removed from the cluster",
        reason="MemberRemoved",
        remedy="a removed coordinator comes back under a new id with `cloudlessctl cluster add`",
    )


def _configurations(storage: Storage, internal: Sequence[LogEntry]) -> list[Configuration]:
    """That of the snapshot, and those behind it in the log."""
    start = storage.start
    known: list[Configuration] = []
    try:
        if start is not None and start.configuration:
            known.append(decode_configuration(start.configuration, index=start.index))
        behind = start.index if known and start is not None else 0
        known += [
            decode_configuration(entry.data, index=entry.index)
            for entry in internal
            if entry.data.startswith(CONFIGURATION) and entry.index > behind
        ]
    except ValueError as error:
        raise Corrupt(f"the log holds {error}", remedy=REMEDY) from None
    return known


def _first(parts: EngineParts, storage: Storage, options: RaftOptions) -> list[Configuration]:
    wal = storage.wal
    if not options.bootstrap:
        if wal.last_index:
            raise FailedPrecondition(
                f"coordinator {parts.member} cannot join: its data directory holds a log of its own",
                reason="NotEmpty",
                remedy="join with an empty data directory, or start this coordinator without a join token",
            )
        return []
    index, term = wal.last_index + 1, max(wal.hard_state.term, wal.last_term, 1)
    member = Member(parts.member, options.address)
    first = Configuration(options.cluster_id, (member,), (), index)
    entry = LogEntry(index, term, encode_configuration(first))
    wal.append([entry], hard_state=HardState(term, parts.member))
    log.info(
        "raft.cluster_begun", cluster=options.cluster_id, member=parts.member, address=options.address, index=index
    )
    return [first]
