"""A member's state when its process starts."""

from __future__ import annotations

from collections.abc import Sequence

from cloudless.coordinator.raft.core.model import Configuration, LogShape, State, Timing
from cloudless.coordinator.wal.record import HardState


def initial(
    member: str,
    *,
    hard_state: HardState,
    log: LogShape,
    configurations: Sequence[Configuration],
    snapshot_index: int = 0,
    snapshot_term: int = 0,
    timing: Timing,
    now_ms: float,
    jitter: float,
) -> State:
    """From what is on the disk, all of which has to be synced: term and vote, the log, and every configuration that may
    come into force again: the newest snapshot's (or the one that was given) and then those in the log, by index. What
    the snapshot holds is committed; the rest waits for a leader to say so (§3.8).

    `jitter` (0 to 1) also keeps the numbers of this start's reads apart from those of the start before."""
    known = tuple(sorted(configurations, key=lambda c: c.index)) or (Configuration(),)
    while len(known) > 1 and known[1].index <= log.base_index:
        known = known[1:]
    voters = known[-1].voters
    alone = voters == (member,)
    due_ms = now_ms if alone else now_ms + timing.election_ms * (1.0 + jitter)
    commit_index = max(snapshot_index, log.base_index)
    return State(
        id=member,
        term=max(hard_state.term, log.last_term),
        vote=hard_state.vote if hard_state.term >= log.last_term else "",
        log=log,
        configuration=known[-1],
        timing=timing,
        commit_index=commit_index,
        due_ms=due_ms,
        durable_index=log.last_index,
        snapshot_index=snapshot_index,
        snapshot_term=snapshot_term,
        configurations=known,
        voters=voters,
        election_ms=float(timing.election_ms),
        election_due_ms=due_ms,
        contact_ms=now_ms,
        verified_index=commit_index,
        read_serial=int(jitter * 2**30) << 32,
    )
