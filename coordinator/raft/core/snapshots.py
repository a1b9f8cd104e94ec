"""A peer that needs what was compacted away gets a snapshot instead (§5)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from cloudless.coordinator.raft.core.commit import advance_follower
from cloudless.coordinator.raft.core.draft import Step
from cloudless.coordinator.raft.core.effects import StoreSnapshot
from cloudless.coordinator.raft.core.events import Compacted, SnapshotInstalled, SnapshotStored
from cloudless.coordinator.raft.core.messages import AppendResponse, SnapshotChunk, SnapshotResponse
from cloudless.coordinator.raft.core.model import (
    Configuration,
    LogShape,
    Mode,
    Receiving,
    Role,
    decode_configuration,
)
from cloudless.coordinator.raft.core.roles import follow, heard_from_leader
from cloudless.coordinator.raft.core.sending import probe, replicate, send_snapshot

_RESEND_MS_MIN: Final = 500.0


# The leader's side: one piece, its acknowledgement, the next.


def resend(step: Step) -> None:
    """Asks again for what was not acknowledged in time, with each heartbeat."""
    since_ms = step.now_ms - max(_RESEND_MS_MIN, 2 * step.election_ms)
    for peer, progress in step.progress.items():
        if progress.mode is Mode.SNAPSHOT:
            if progress.snapshot_ms <= since_ms:
                send_snapshot(step, peer, progress, index=progress.snapshot_index, offset=progress.snapshot_offset)
        elif progress.next_index <= step.log.base_index:
            replicate(step, peer, progress)


def snapshot_response(step: Step, sender: str, message: SnapshotResponse) -> None:
    if message.term > step.term:
        follow(step, message.term)
        return
    progress = step.progress.get(sender)
    if message.term < step.term or step.role is not Role.LEADER or progress is None or message.round > step.round:
        return
    progress = progress.answered(message.round, step.now_ms)
    step.put(sender, progress)
    if progress.mode is not Mode.SNAPSHOT or message.index > step.commit_index or message.offset < 0:
        return
    if message.installed:
        # What it has is the peer's word for (`match_index` comes with its AppendResponse); where to go on is known.
        next_index = max(message.index + 1, progress.next_index)
        if next_index > step.log.base_index:
            replicate(step, sender, probe(step, progress, next_index))
        else:
            send_snapshot(step, sender, progress, index=0, offset=0)
    elif progress.snapshot_index not in (0, message.index):
        return
    elif message.offset == 0:
        step.put(sender, progress.transferring(0, 0, step.now_ms))  # begins anew when `resend` is due
    elif message.offset != progress.snapshot_offset:
        send_snapshot(step, sender, progress, index=message.index, offset=message.offset)


def compacted(step: Step, event: Compacted) -> None:
    """The log begins later now. Configurations stay as far as the log may fall back to them."""
    if event.snapshot_index > step.snapshot_index:
        step.snapshot_index = event.snapshot_index
        step.snapshot_term = event.snapshot_term
    base = event.first_index - 1
    if base <= step.log.base_index or base > min(step.commit_index, step.log.last_index):
        return
    step.log = step.log.compacted(base)
    step.durable_index = max(step.durable_index, base)
    _forget_configurations(step, base)


# The follower's side.


def snapshot_chunk(step: Step, sender: str, message: SnapshotChunk) -> None:
    """Hands the pieces to the shell in order. Each is a sign of life of the leader."""
    if message.term < step.term:
        step.send(sender, AppendResponse(step.term, False, round=message.round))
        return
    if not heard_from_leader(step, sender, message.term):
        return
    receiving = step.receiving
    if receiving is not None and receiving.installing:
        return
    index = message.index
    if index <= step.commit_index:
        _answer_installed(step, sender, index, message.total, message.round)
        return
    fresh = Receiving(sender, message.term, index, message.last_term, message.total)
    if receiving is None or receiving.name != fresh.name:
        receiving = fresh
    end = message.offset + len(message.data)
    if message.offset != receiving.end or end > message.total or (end == receiving.end and end != message.total):
        if receiving.stored == receiving.end:
            step.send(sender, SnapshotResponse(step.term, index, receiving.stored, False, message.round))
        step.receiving = receiving
        return
    last = end == message.total
    keep_log = step.log.term_at(index) == message.last_term
    step.receiving = replace(receiving, end=end, round=message.round, installing=last, keep_log=last and keep_log)
    step.effects.append(StoreSnapshot(sender, message, keep_log))


def snapshot_stored(step: Step, event: SnapshotStored) -> None:
    receiving = step.receiving
    if receiving is None or (receiving.leader, receiving.term, receiving.index) != (
        event.leader,
        event.term,
        event.index,
    ):
        return
    if event.offset <= 0:
        step.receiving = None
    elif receiving.stored < event.offset <= receiving.end:
        step.receiving = replace(receiving, stored=event.offset)
        if event.offset == receiving.total:
            return  # the answer follows when it is installed
    if step.leader == event.leader and step.term == event.term:
        offset = max(event.offset, 0)
        step.send(event.leader, SnapshotResponse(step.term, event.index, offset, False, receiving.round))


def snapshot_installed(step: Step, event: SnapshotInstalled) -> None:
    """The snapshot is the state now. What follows it in the log stays if the log held the snapshot's last entry when
    the last piece was handed over; else the log is empty behind it (§5.1)."""
    index = event.index
    receiving = step.receiving
    if receiving is not None and receiving.index == index and receiving.installing:
        keep_log = receiving.keep_log
        step.receiving = None
    else:
        keep_log = step.log.term_at(index) == event.last_term
    if index > step.commit_index:
        if not keep_log:
            step.reset_log(LogShape(index, event.last_term, index))
        step.commit_index = index
        step.installed = index
        _configure(step, index, event.configuration, keep_log)
    step.verified_index = max(step.verified_index, min(index, step.log.last_index))
    if index > step.snapshot_index:
        step.snapshot_index = index
        step.snapshot_term = event.last_term
    advance_follower(step)
    if step.role is Role.FOLLOWER and step.leader == event.leader:
        total = receiving.total if receiving is not None else 0
        _answer_installed(step, event.leader, index, total, receiving.round if receiving is not None else 0)


def replacing_log(step: Step) -> bool:
    """A snapshot is about to take the log's place: until the shell is done the log stays as it is."""
    receiving = step.receiving
    return receiving is not None and receiving.installing and not receiving.keep_log


def _answer_installed(step: Step, leader: str, index: int, total: int, round_: int) -> None:
    after = 0 if step.hard_durable else step.hard_by
    step.send(leader, SnapshotResponse(step.term, index, total, True, round_), after=after)
    match_index = min(step.verified_index, step.durable_index)
    step.send(leader, AppendResponse(step.term, True, match_index, round_), after=after)


def _configure(step: Step, index: int, data: bytes, keep_log: bool) -> None:
    try:
        configuration = decode_configuration(data, index=index)
    except ValueError:
        configuration = next((c for c in reversed(step.configurations) if c.index <= index), Configuration())
    later = tuple(c for c in step.configurations if c.index > index) if keep_log else ()
    step.configure((configuration, *later))


def _forget_configurations(step: Step, base: int) -> None:
    configurations = step.configurations
    while len(configurations) > 1 and configurations[1].index <= base:
        configurations = configurations[1:]
    step.configurations = configurations
