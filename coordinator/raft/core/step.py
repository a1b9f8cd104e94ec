"""The transition function: what happens to a member, to the module that knows what follows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from cloudless.coordinator.raft.core import (
    disk,
    election,
    events,
    following,
    hand_over,
    membership,
    messages,
    reads,
    replication,
    snapshots,
    timing,
)
from cloudless.coordinator.raft.core.draft import Step
from cloudless.coordinator.raft.core.effects import Effect
from cloudless.coordinator.raft.core.events import Event, Received
from cloudless.coordinator.raft.core.model import State
from cloudless.coordinator.raft.core.roles import refuse_forwarded_reads


def step(state: State, event: Event, *, now_ms: float, jitter: float) -> tuple[State, tuple[Effect, ...]]:
    """The next state, and what has to be done, in that order. `now_ms`: a clock that never goes back; `jitter`: evenly
    drawn from 0 to 1, anew for each step. Any message in any order is taken; none raises."""
    draft = Step(state, now_ms, jitter)
    if type(event) is Received:
        _receive(draft, event)
    else:
        _EVENTS[type(event)](draft, event)
    if draft.forwarded and draft.leader != state.leader:
        refuse_forwarded_reads(draft)
    timing.schedule(draft)
    return draft.finish()


def _receive(draft: Step, event: Received) -> None:
    sender = event.sender
    message = event.message
    if sender == draft.id:
        return
    if draft.configuration.removed and type(message) in _OF_MEMBERS and _was_removed(draft, sender):
        return
    _MESSAGES[type(message)](draft, sender, message)


def _was_removed(draft: Step, sender: str) -> bool:
    """By a configuration that is committed: one that is not may be undone, and then the sender's vote is needed."""
    for configuration in reversed(draft.configurations):
        if configuration.index <= draft.commit_index:
            return sender in configuration.removed
    return False


def _tick(draft: Step, event: events.Tick) -> None:
    election.tick(draft)


_EVENTS: Final[dict[type, Callable[[Step, Any], None]]] = {
    events.Tick: _tick,
    events.Propose: replication.propose,
    events.Persisted: disk.persisted,
    events.AddLearner: membership.add_learner,
    events.Promote: membership.promote,
    events.Remove: membership.remove,
    events.Transfer: hand_over.transfer,
    events.Read: reads.read,
    events.Compacted: snapshots.compacted,
    events.Unreachable: replication.unreachable,
    events.SnapshotStored: snapshots.snapshot_stored,
    events.SnapshotInstalled: snapshots.snapshot_installed,
    events.Measured: timing.measured,
}
_MESSAGES: Final[dict[type, Callable[[Step, str, Any], None]]] = {
    messages.RequestVote: election.request_vote,
    messages.VoteResponse: election.vote_response,
    messages.AppendEntries: following.append_entries,
    messages.AppendResponse: replication.append_response,
    messages.TimeoutNow: election.timeout_now,
    messages.SnapshotChunk: snapshots.snapshot_chunk,
    messages.SnapshotResponse: snapshots.snapshot_response,
    messages.ReadRequest: reads.read_request,
    messages.ReadResponse: reads.read_response,
}
# A removed member is not asked and not counted. That of a leader is heard: it may still have to say what is committed.
_OF_MEMBERS: Final = frozenset(_MESSAGES) - {messages.AppendEntries, messages.SnapshotChunk}
