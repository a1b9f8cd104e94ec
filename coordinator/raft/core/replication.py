"""A leader's log and its peers (§3.5)."""

from __future__ import annotations

from cloudless.coordinator.raft.core import commit, hand_over, reads
from cloudless.coordinator.raft.core.draft import Step
from cloudless.coordinator.raft.core.events import Propose, Unreachable
from cloudless.coordinator.raft.core.messages import AppendResponse
from cloudless.coordinator.raft.core.model import Mode, Progress, Role
from cloudless.coordinator.raft.core.roles import follow
from cloudless.coordinator.raft.core.sending import heartbeat, probe, replicate, replicate_to_all


def propose(step: Step, event: Propose) -> None:
    """The entries leave for the peers before they are on the leader's own disk (§10.2.1)."""
    if step.role is Role.LEADER and step.hand_over is None and event.count > 0:
        step.append_proposals(event.count)
        replicate_to_all(step)


def append_response(step: Step, sender: str, message: AppendResponse) -> None:
    if message.term > step.term:
        follow(step, message.term)
        return
    if message.term < step.term or step.role is not Role.LEADER:
        return
    progress = step.progress.get(sender)
    if progress is None or message.round > step.round or message.match_index > step.log.last_index:
        return
    if message.success:
        _agreed(step, sender, progress, message)
    else:
        _refused(step, sender, progress, message)
    if step.reads.round and message.round >= step.reads.round and step.role is Role.LEADER:
        reads.confirm(step)


def unreachable(step: Step, event: Unreachable) -> None:
    """What was under way may be lost. The next heartbeat probes."""
    progress = step.progress.get(event.member)
    if step.role is Role.LEADER and progress is not None:
        step.put(event.member, probe(step, progress, progress.match_index + 1))


def _agreed(step: Step, sender: str, progress: Progress, message: AppendResponse) -> None:
    """Nothing goes back on a success, whatever order the answers come in."""
    match_index = progress.match_index
    in_flight = progress.in_flight
    next_index = progress.next_index
    mode = progress.mode
    advanced = message.match_index > match_index
    if advanced:
        match_index = message.match_index
        if match_index >= next_index:
            next_index = match_index + 1
        if in_flight and in_flight[0] <= match_index:
            in_flight = tuple([end for end in in_flight if end > match_index])
    if mode is Mode.SNAPSHOT:
        if match_index >= step.log.base_index:  # it needs no snapshot (any more)
            mode = Mode.PROBE
            next_index = match_index + 1
    elif message.round >= progress.probe_round:
        mode = Mode.REPLICATE
    progress = Progress(
        match_index,
        next_index,
        mode,
        in_flight,
        message.round if message.round > progress.round else progress.round,
        step.now_ms,
        progress.probe_round,
        progress.sent_commit,
        progress.snapshot_index,
        progress.snapshot_offset,
        progress.snapshot_ms,
    )
    step.put(sender, progress)
    if advanced and match_index > step.commit_index:
        commit.advance_leader(step)
        if step.role is not Role.LEADER:
            return
        if sender not in step.progress:
            return
        progress = step.progress[sender]
    told = next_index <= step.log.last_index and replicate(step, sender, progress)
    if not told and not in_flight and progress.sent_commit < step.commit_index:
        heartbeat(step, sender, step.progress[sender])
    if step.hand_over is not None:
        hand_over.caught_up(step)


def _refused(step: Step, sender: str, progress: Progress, message: AppendResponse) -> None:
    """Goes back to where the logs may agree, whole terms at a time: to this leader's newest entry that is neither newer
    nor of a newer term than the peer's hint (§3.5, last paragraph). Old refusals count as contact only."""
    rejected = message.refused_index
    stale = (
        message.round < progress.probe_round
        or not progress.match_index < rejected < progress.next_index
        or progress.mode is Mode.SNAPSHOT
    )
    progress = progress.answered(message.round, step.now_ms)
    if stale:
        step.put(sender, progress)
        return
    log = step.log
    hint = max(min(message.hint_index, rejected - 1), 0)
    if hint >= log.base_index:
        agrees = log.newest_at_most(hint, message.hint_term)
        # At the base the search ends without an answer: the entry may be of a newer term than the hint.
        next_index = agrees + 1 if agrees > log.base_index or log.base_term <= message.hint_term else agrees
    else:
        next_index = hint + 1
    replicate(step, sender, probe(step, progress, max(next_index, 1)))
