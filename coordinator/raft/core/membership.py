"""Who takes part (§4): one member more, less or promoted at a time, in force as soon as it stands in the log."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from cloudless.coordinator.raft.core.draft import Step
from cloudless.coordinator.raft.core.effects import ChangeAnswered
from cloudless.coordinator.raft.core.events import AddLearner, Promote, Remove
from cloudless.coordinator.raft.core.model import (
    Configuration,
    Member,
    Mode,
    PendingChange,
    Progress,
    Role,
    encode_configuration,
)
from cloudless.coordinator.raft.core.sending import replicate_to_all
from cloudless.coordinator.wal.record import LogEntry

# How far behind the log's end a learner may be to become a voter (§4.2.1): about what is under way under load.
PROMOTION_LAG_MAX: Final = 4096


def add_learner(step: Step, event: AddLearner) -> None:
    """A member that is there gets the new address, if it is another one; whether it votes stays."""
    if _not_leading(step, event.id):
        return
    configuration = step.configuration
    there = configuration.get(event.member.id)
    if event.member.id in configuration.removed:
        _refuse(step, event.id, "MemberIdUsed")
    elif there is not None and there.address == event.member.address:
        _done(step, event.id)
    elif _free(step, event.id):
        member = Member(event.member.id, event.member.address, there is not None and there.voter)
        others = tuple(m for m in configuration.members if m.id != member.id)
        _change(step, event.id, (*others, member), configuration.removed)


def promote(step: Step, event: Promote) -> None:
    if _not_leading(step, event.id):
        return
    configuration = step.configuration
    there = configuration.get(event.member)
    if there is None:
        _refuse(step, event.id, "UnknownMember")
    elif there.voter:
        _done(step, event.id)
    elif not _caught_up(step, event.member):
        _refuse(step, event.id, "NotCaughtUp")
    elif _free(step, event.id):
        members = tuple(replace(m, voter=True) if m.id == event.member else m for m in configuration.members)
        _change(step, event.id, members, configuration.removed)


def remove(step: Step, event: Remove) -> None:
    """Its id may never come back: it may have forgotten what it voted and acknowledged."""
    if _not_leading(step, event.id):
        return
    configuration = step.configuration
    if event.member in configuration.removed:
        _done(step, event.id)
    elif configuration.get(event.member) is None:
        _refuse(step, event.id, "UnknownMember")
    elif configuration.voters == (event.member,):
        _refuse(step, event.id, "LastVoter")
    elif _free(step, event.id):
        members = tuple(m for m in configuration.members if m.id != event.member)
        _change(step, event.id, members, (*configuration.removed, event.member))


def _not_leading(step: Step, change: int) -> bool:
    if step.role is Role.LEADER:
        return False
    _refuse(step, change, "NotLeader")
    return True


def _free(step: Step, change: int) -> bool:
    """The change before is committed, and so is an entry of this term: else two leaders could change the same
    configuration in different ways, with majorities that do not meet (D. Ongaro, "bug in single-server membership
    changes", raft-dev, 10 July 2015)."""
    busy = step.configuration.index > step.commit_index or step.commit_index < step.term_start
    if busy or step.hand_over is not None:
        _refuse(step, change, "ChangeUnderWay")
        return False
    return True


def _caught_up(step: Step, member: str) -> bool:
    progress = step.progress.get(member)
    return (
        progress is not None
        and progress.mode is Mode.REPLICATE
        and progress.match_index + PROMOTION_LAG_MAX >= step.log.last_index
        and progress.match_index >= step.term_start
        and step.now_ms - progress.contact_ms < step.election_ms
    )


def _refuse(step: Step, change: int, reason: str) -> None:
    step.effects.append(ChangeAnswered(change, reason))


def _done(step: Step, change: int) -> None:
    """It is so already, or will be when the change under way is committed."""
    index = step.configuration.index
    if index <= step.commit_index:
        step.effects.append(ChangeAnswered(change))
    else:
        step.changes = (*step.changes, PendingChange(change, index))


def _change(step: Step, change: int, members: tuple[Member, ...], removed: tuple[str, ...]) -> None:
    index = step.log.last_index + 1
    ordered = tuple(sorted(members, key=lambda member: member.id))
    configuration = Configuration(step.configuration.cluster_id, ordered, removed, index)
    data = encode_configuration(configuration)
    step.append((LogEntry(index, step.term, data),), step.log.appended(index, step.term))
    step.configure((*step.configurations, configuration))
    step.changes = (*step.changes, PendingChange(change, index))
    known = dict(step.progress)
    for member in ordered:
        if member.id != step.id and member.id not in known:
            known[member.id] = Progress(next_index=index, contact_ms=step.now_ms)
    step.replace_progress({peer: known[peer] for peer in sorted(known)})
    replicate_to_all(step)
