"""Linearizable reads without log entries: ReadIndex (§6.4)."""

from __future__ import annotations

from cloudless.coordinator.raft.core.draft import Step
from cloudless.coordinator.raft.core.effects import ReadAnswered
from cloudless.coordinator.raft.core.events import Read
from cloudless.coordinator.raft.core.messages import ReadRequest, ReadResponse
from cloudless.coordinator.raft.core.model import NO_READS, ForwardedRead, PendingRead, Reads, Role
from cloudless.coordinator.raft.core.roles import refuse_read
from cloudless.coordinator.raft.core.sending import broadcast
from cloudless.coordinator.raft.core.timing import read_timeout_ms


def read(step: Step, event: Read) -> None:
    if step.role is Role.LEADER:
        _ask(step, "", event.id)
    elif step.leader:
        step.read_serial += 1
        deadline_ms = step.now_ms + read_timeout_ms(step)
        step.forwarded = (*step.forwarded, ForwardedRead(step.read_serial, event.id, deadline_ms))
        step.send(step.leader, ReadRequest(step.term, step.read_serial))
    else:
        step.effects.append(ReadAnswered(event.id, 0))


def read_request(step: Step, sender: str, message: ReadRequest) -> None:
    if step.role is Role.LEADER:
        _ask(step, sender, message.id)
    else:
        step.send(sender, ReadResponse(step.term, message.id, 0))


def read_response(step: Step, sender: str, message: ReadResponse) -> None:
    """Good whatever the terms are now: the answering leader led after the read was asked for."""
    for position, forwarded in enumerate(step.forwarded):
        if forwarded.serial == message.id:
            step.forwarded = step.forwarded[:position] + step.forwarded[position + 1 :]
            step.effects.append(ReadAnswered(forwarded.id, max(message.index, 0)))
            return


def begin_round(step: Step) -> None:
    """All that wait are answered with what is committed now, once a majority has answered a heartbeat sent after it."""
    reads = step.reads
    if step.voters == (step.id,):
        step.reads = NO_READS
        for pending in reads.waiting:
            _answer(step, pending, step.commit_index)
        return
    broadcast(step)
    step.reads = Reads(step.round, step.commit_index, reads.waiting, ())


def confirm(step: Step) -> None:
    """A peer answered: the round may have its majority. Those that came since then join the next round."""
    reads = step.reads
    if not step.majority_of(lambda progress: progress.round >= reads.round):
        return
    for pending in reads.asked:
        _answer(step, pending, reads.index)
    step.reads = Reads(waiting=reads.waiting) if reads.waiting else NO_READS
    if reads.waiting:
        begin_round(step)


def expire(step: Step) -> None:
    """Refuses what nobody could confirm in time."""
    now_ms = step.now_ms
    while step.forwarded and step.forwarded[0].deadline_ms <= now_ms:
        step.effects.append(ReadAnswered(step.forwarded[0].id, 0))
        step.forwarded = step.forwarded[1:]
    reads = step.reads
    late = [read for read in (*reads.asked, *reads.waiting) if read.deadline_ms <= now_ms]
    if late:
        for pending in late:
            refuse_read(step, pending)
        asked = tuple(read for read in reads.asked if read.deadline_ms > now_ms)
        waiting = tuple(read for read in reads.waiting if read.deadline_ms > now_ms)
        step.reads = Reads(reads.round, reads.index, asked, waiting)


def _ask(step: Step, origin: str, read_id: int) -> None:
    reads = step.reads
    pending = PendingRead(origin, read_id, step.now_ms + read_timeout_ms(step))
    step.reads = Reads(reads.round, reads.index, reads.asked, (*reads.waiting, pending))
    # A new leader does not know what is committed before an entry of its own term is (§6.4, step 1).
    if not reads.round and step.commit_index >= step.term_start:
        begin_round(step)


def _answer(step: Step, pending: PendingRead, index: int) -> None:
    if pending.origin:
        step.send(pending.origin, ReadResponse(step.term, pending.id, index))
    else:
        step.effects.append(ReadAnswered(pending.id, index))
