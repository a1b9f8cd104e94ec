"""What came to the disk (§3.8, §10.2.1)."""

from __future__ import annotations

from cloudless.coordinator.raft.core.commit import advance_follower, advance_leader
from cloudless.coordinator.raft.core.draft import Step
from cloudless.coordinator.raft.core.election import vote_durable
from cloudless.coordinator.raft.core.events import Persisted
from cloudless.coordinator.raft.core.model import Role


def persisted(step: Step, event: Persisted) -> None:
    """What was on the disk before the log was cut last says nothing about the log of now, even where index and term are
    the same again: the cut may be on the disk and what came after it not."""
    number = event.number
    if not step.durable < number <= step.written:
        return
    step.durable = number
    if number >= step.cut_by:
        log = step.log
        if number == step.written:
            step.durable_index = log.last_index
        elif event.last_index > step.durable_index and log.term_at(event.last_index) == event.last_term:
            step.durable_index = event.last_index
    if step.role is Role.LEADER:
        if step.durable_index > step.commit_index:
            advance_leader(step)
    else:
        if step.leader_commit > step.commit_index:
            advance_follower(step)
        vote_durable(step)
