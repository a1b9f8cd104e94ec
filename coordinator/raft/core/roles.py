"""Terms, and ceasing to lead (§3.3)."""

from __future__ import annotations

from cloudless.coordinator.raft.core.draft import Step
from cloudless.coordinator.raft.core.effects import ChangeAnswered, ReadAnswered
from cloudless.coordinator.raft.core.messages import ReadResponse
from cloudless.coordinator.raft.core.model import NO_READS, PendingRead, Role
from cloudless.coordinator.raft.core.timing import restart_election_timer


def follow(step: Step, term: int, leader: str = "") -> None:
    """Becomes a follower in `term`, which is not below the own one (§3.3). `leader`: "" while it is unknown."""
    if term > step.term:
        step.remember(term, "")
        step.verified_index = step.commit_index
    if step.role is not Role.FOLLOWER:
        if step.role is Role.LEADER:
            _abandon(step)
            step.verified_index = step.commit_index
        step.role = Role.FOLLOWER
        step.votes = ()
        restart_election_timer(step)
    step.leader = leader


def heard_from_leader(step: Step, sender: str, term: int) -> bool:
    """Follows the one that leads in `term`, not below the own one. False: there cannot be such a leader."""
    if term > step.term or step.role is not Role.FOLLOWER or not step.leader:
        if term == step.term and step.role is Role.LEADER:
            return False
        follow(step, term, sender)
        end_hand_over(step, sender)
    elif sender != step.leader:
        return False
    step.contact_ms = step.now_ms
    restart_election_timer(step)
    return True


def end_hand_over(step: Step, leader: str) -> None:
    """Another one leads now, or this one again."""
    hand_over = step.hand_over
    if hand_over is not None:
        step.hand_over = None
        done = leader == hand_over.target or (hand_over.any and leader != step.id)
        step.effects.append(ChangeAnswered(hand_over.id, "" if done else "TransferFailed"))


def refuse_read(step: Step, read: PendingRead) -> None:
    if read.origin:
        step.send(read.origin, ReadResponse(step.term, read.id, 0))
    else:
        step.effects.append(ReadAnswered(read.id, 0))


def refuse_forwarded_reads(step: Step) -> None:
    """The leader that was asked leads no more, as far as this follower knows."""
    for read in step.forwarded:
        step.effects.append(ReadAnswered(read.id, 0))
    step.forwarded = ()


def _abandon(step: Step) -> None:
    for read in (*step.reads.asked, *step.reads.waiting):
        refuse_read(step, read)
    for change in step.changes:
        step.effects.append(ChangeAnswered(change.id, "NotLeader"))
    step.reads = NO_READS
    step.changes = ()
    step.replace_progress({})
    step.term_start = 0
    step.round = 0
