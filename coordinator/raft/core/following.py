"""A follower's log (§3.5)."""

from __future__ import annotations

from cloudless.coordinator.raft.core.commit import advance_follower
from cloudless.coordinator.raft.core.draft import Step
from cloudless.coordinator.raft.core.messages import AppendEntries, AppendResponse
from cloudless.coordinator.raft.core.model import CONFIGURATION, Configuration, decode_configuration
from cloudless.coordinator.raft.core.roles import heard_from_leader
from cloudless.coordinator.raft.core.snapshots import replacing_log
from cloudless.coordinator.wal.record import LogEntry


def append_entries(step: Step, sender: str, message: AppendEntries) -> None:
    """Appends what is new. What is there already stays: the log is cut only at an entry of another term, and never at a
    committed one. `verified_index` is how far the log agrees with this leader's, and nothing behind it is acknowledged
    or committed: an old tail may differ there.

    Heartbeats are answered at once with what is on the disk already; entries when they are on the disk, which the
    shell sees to (`Send.after`)."""
    previous = message.previous_index
    if message.term < step.term:
        step.send(sender, AppendResponse(step.term, False, 0, message.round, previous))
        return
    if not heard_from_leader(step, sender, message.term):
        return
    log = step.log
    if previous > log.base_index and log.term_at(previous) != message.previous_term:
        _refuse(step, sender, message)
        return
    if previous < 0 or (previous == log.base_index and log.base_term != message.previous_term):
        return  # never so: what is compacted is committed
    entries = message.entries
    if entries and not replacing_log(step):
        if not _append(step, message):
            return
        verified = previous + len(entries)
    else:
        verified = previous
    if verified > step.verified_index:
        step.verified_index = verified
    if message.commit_index > step.leader_commit:
        step.leader_commit = message.commit_index
    if step.leader_commit > step.commit_index:
        advance_follower(step)
    verified = step.verified_index
    if entries and verified > step.durable_index:
        step.send(sender, AppendResponse(step.term, True, verified, message.round), after=step.written)
    elif step.hard_by <= step.durable:
        step.send(sender, AppendResponse(step.term, True, min(verified, step.durable_index), message.round))
    else:
        # The term is not on the disk yet: after a crash this member might follow an older leader again, so that it can
        # answer, but promise nothing.
        step.send(sender, AppendResponse(step.term, True, 0, message.round))


def _append(step: Step, message: AppendEntries) -> bool:
    """False: no leader sends such entries; nothing was done."""
    entries = message.entries
    previous = message.previous_index
    term = message.previous_term
    index = previous
    changes: list[Configuration] = []
    runs: list[tuple[int, int]] = []
    for entry in entries:
        index += 1
        if entry.index != index:
            return False
        if entry.term != term:
            if not term < entry.term <= message.term:
                return False
            term = entry.term
            runs.append((index, term))
        if entry.data.startswith(CONFIGURATION):
            try:
                changes.append(decode_configuration(entry.data, index=index))
            except ValueError:
                return False
    skip = _present(step, entries) if previous < step.log.last_index else 0
    if skip == len(entries):
        return True
    first = previous + skip + 1
    if first <= step.commit_index:
        return False
    new = entries[skip:] if skip else entries
    if new[0].term < (step.log.term_at(first - 1) or 0):
        return False
    if first <= step.log.last_index:
        step.truncate(first)
    log = step.log.appended(first, new[0].term, 1)
    for run_first, run_term in runs:
        if run_first > first:
            log = log.appended(log.last_index + 1, log.last_term, run_first - log.last_index - 1)
            log = log.appended(run_first, run_term, 1)
    if log.last_index < index:
        log = log.appended(log.last_index + 1, log.last_term, index - log.last_index)
    step.append(new, log)
    if changes and (added := tuple(c for c in changes if c.index >= first)):
        step.configure((*step.configurations, *added))
    return True


def _present(step: Step, entries: tuple[LogEntry, ...]) -> int:
    """How many of these the log has already."""
    log = step.log
    count = 0
    for entry in entries:
        if entry.index > log.last_index or (entry.index > log.base_index and log.term_at(entry.index) != entry.term):
            break
        count += 1
    return count


def _refuse(step: Step, sender: str, message: AppendEntries) -> None:
    log = step.log
    hint = max(log.newest_at_most(message.previous_index - 1, message.previous_term), step.commit_index)
    hint = min(hint, log.last_index)
    hint_term = log.term_at(hint)
    assert hint_term is not None, (log, hint)
    step.send(
        sender,
        AppendResponse(
            step.term,
            False,
            round=message.round,
            refused_index=message.previous_index,
            hint_index=hint,
            hint_term=hint_term,
        ),
    )
