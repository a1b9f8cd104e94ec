"""Timeouts that follow what is measured (§9.3, §9.5), and when the next Tick matters."""

from __future__ import annotations

from typing import Final

from cloudless.coordinator.raft.core.draft import Step
from cloudless.coordinator.raft.core.events import Measured
from cloudless.coordinator.raft.core.model import Role, Timing

# An election takes two round trips (pre-vote, vote) and the sync of a vote on both sides, and the first heartbeat half
# a round trip: an election timeout has to be well above that.
_ROUNDS_PER_ELECTION: Final = 5
_SHRINK: Final = 0.8  # per measurement: one good one among bad ones does not bring the short timeout back
_HEARTBEATS_PER_ELECTION: Final = 5


def measured(step: Step, event: Measured) -> None:
    """The election timeout grows at once and shrinks by and by."""
    timing = step.timing
    needed = _ROUNDS_PER_ELECTION * (max(event.round_trip_ms, 0.0) + max(event.sync_ms, 0.0))
    wanted = min(max(timing.election_ms, needed), timing.election_ms * max(timing.stretch_max, 1.0))
    step.election_ms = max(wanted, step.election_ms * _SHRINK)


def heartbeat_ms(timing: Timing) -> float:
    """Never so long that a few lost ones make an election."""
    return min(timing.heartbeat_ms, timing.election_ms / _HEARTBEATS_PER_ELECTION)


def read_timeout_ms(step: Step) -> float:
    """Long enough for an election in between."""
    return 2 * step.election_ms


def restart_election_timer(step: Step) -> None:
    """Drawn evenly from one to two election timeouts (§3.4)."""
    step.election_due_ms = step.now_ms + step.election_ms * (1.0 + step.jitter)


def schedule(step: Step) -> None:
    """Says when the next Tick matters."""
    due = step.heartbeat_due_ms if step.role is Role.LEADER else step.election_due_ms
    if step.forwarded:
        due = min(due, step.forwarded[0].deadline_ms)
    if step.hand_over is not None:
        due = min(due, step.hand_over.deadline_ms)
    step.due_ms = due
