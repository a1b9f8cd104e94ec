"""What a leader sends to its peers (§3.5, §10.2.1).

Batches are pipelined: `next_index` runs ahead of the answers, up to `BATCHES_IN_FLIGHT` of them. A heartbeat's
`previous_index` is that of the last entry sent, so that a peer which lost a batch refuses the first heartbeat behind
it; the leader then goes back to where the peer says that its log ends, within one heartbeat and one round trip.
"""

from __future__ import annotations

from typing import Final

from cloudless.coordinator.raft.core.draft import Step
from cloudless.coordinator.raft.core.effects import SendSnapshot
from cloudless.coordinator.raft.core.messages import AppendEntries
from cloudless.coordinator.raft.core.model import Mode, Progress
from cloudless.coordinator.raft.core.timing import heartbeat_ms

BATCH_ENTRIES: Final = 1024
BATCHES_IN_FLIGHT: Final = 8


def replicate(step: Step, peer: str, progress: Progress) -> bool:
    """Sends the next batch to it, if there is one and the window is open; stores its progress in either case. True: it
    was told the commit index by this."""
    log = step.log
    previous = progress.next_index - 1
    if progress.mode is Mode.SNAPSHOT:
        step.put(peer, progress)
        return False
    if previous < log.base_index:
        send_snapshot(step, peer, progress, index=0, offset=0)
        return False
    last = log.last_index
    in_flight = progress.in_flight
    if previous >= last or len(in_flight) >= (BATCHES_IN_FLIGHT if progress.mode is Mode.REPLICATE else 1):
        step.put(peer, progress)
        return False
    previous_term = log.term_at(previous)
    assert previous_term is not None, (log, progress)
    end = min(last, previous + BATCH_ENTRIES)
    step.send(
        peer,
        AppendEntries(step.term, previous, previous_term, step.commit_index, step.round),
        fill_to=end,
    )
    step.put(
        peer,
        Progress(
            progress.match_index,
            end + 1,
            progress.mode,
            (*in_flight, end),
            progress.round,
            progress.contact_ms,
            progress.probe_round,
            step.commit_index,
        ),
    )
    return True


def replicate_to_all(step: Step) -> None:
    for peer, progress in step.progress.items():
        if progress.next_index <= step.log.last_index:
            replicate(step, peer, progress)


def probe(step: Step, progress: Progress, next_index: int) -> Progress:
    """Goes back to `next_index`, one batch at a time until it is answered. Sends nothing and stores nothing."""
    step.round += 1
    return Progress(
        progress.match_index,
        max(next_index, progress.match_index + 1),
        Mode.PROBE,
        (),
        progress.round,
        progress.contact_ms,
        step.round,
        progress.sent_commit,
    )


def heartbeat(step: Step, peer: str, progress: Progress) -> None:
    """An AppendEntries without entries, which says what is committed."""
    log = step.log
    previous = progress.next_index - 1
    previous_term = log.term_at(previous)
    if progress.mode is Mode.SNAPSHOT or previous_term is None:
        # Where the logs meet is not known: this agrees with every log, and proves contact and nothing else.
        previous = previous_term = 0
    step.send(peer, AppendEntries(step.term, previous, previous_term, step.commit_index, step.round))
    if progress.sent_commit != step.commit_index:
        step.put(peer, progress.told(step.commit_index))


def broadcast(step: Step) -> None:
    """Begins a round: a heartbeat to every peer."""
    step.round += 1
    step.heartbeat_due_ms = step.now_ms + heartbeat_ms(step.timing)
    for peer, progress in step.progress.items():
        heartbeat(step, peer, progress)


def tell_commit(step: Step) -> None:
    """Tells those who wait for nothing else; whoever has a batch under way learns it after answering that."""
    commit = step.commit_index
    for peer, progress in step.progress.items():
        if progress.sent_commit < commit and progress.mode is Mode.REPLICATE and not progress.in_flight:
            heartbeat(step, peer, progress)


def send_snapshot(step: Step, peer: str, progress: Progress, *, index: int, offset: int) -> None:
    """Asks the shell for the piece at `offset`."""
    step.effects.append(SendSnapshot(peer, index, offset, step.round))
    step.put(peer, progress.transferring(index, offset, step.now_ms))
