"""Leadership is handed to another member on purpose (§3.10)."""

from __future__ import annotations

from cloudless.coordinator.raft.core.draft import Step
from cloudless.coordinator.raft.core.effects import ChangeAnswered
from cloudless.coordinator.raft.core.events import Transfer
from cloudless.coordinator.raft.core.messages import TimeoutNow
from cloudless.coordinator.raft.core.model import HandOver, Role


def transfer(step: Step, event: Transfer) -> None:
    """Takes no more proposals, waits until the target has the whole log, then tells it to stand. When no other leads
    within an election timeout, goes on as before."""
    reason = _refusal(step, event)
    if reason is not None:
        step.effects.append(ChangeAnswered(event.id, reason))
        return
    target = event.member or _best(step)
    if not target:
        step.effects.append(ChangeAnswered(event.id, "TransferFailed"))
        return
    step.hand_over = HandOver(event.id, target, not event.member, step.now_ms + step.election_ms)
    caught_up(step)


def caught_up(step: Step) -> None:
    """Tells the target to stand, if it has everything."""
    hand_over = step.hand_over
    if hand_over is None or step.role is not Role.LEADER:
        return
    progress = step.progress.get(hand_over.target)
    if progress is not None and progress.match_index == step.log.last_index:
        step.send(hand_over.target, TimeoutNow(step.term))


def expire(step: Step) -> None:
    hand_over = step.hand_over
    if hand_over is not None and hand_over.deadline_ms <= step.now_ms:
        step.hand_over = None
        step.effects.append(ChangeAnswered(hand_over.id, "TransferFailed"))


def _refusal(step: Step, event: Transfer) -> str | None:
    if step.role is not Role.LEADER:
        return "NotLeader"
    if step.hand_over is not None:
        return "ChangeUnderWay"
    if event.member == step.id:
        return ""
    if not event.member:
        return None
    member = step.configuration.get(event.member)
    if member is None:
        return "UnknownMember"
    return None if member.voter else "NotCaughtUp"


def _best(step: Step) -> str:
    """The voter with the longest log among those that answered lately."""
    best, best_match = "", -1
    for voter in step.voters:
        progress = step.progress.get(voter)
        if progress is None or step.now_ms - progress.contact_ms >= step.election_ms:
            continue
        if progress.match_index > best_match:
            best, best_match = voter, progress.match_index
    return best
