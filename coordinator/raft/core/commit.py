"""What is committed, and what follows from it."""

from __future__ import annotations

from cloudless.coordinator.raft.core.draft import Step
from cloudless.coordinator.raft.core.effects import ChangeAnswered
from cloudless.coordinator.raft.core.messages import TimeoutNow
from cloudless.coordinator.raft.core.reads import begin_round
from cloudless.coordinator.raft.core.roles import follow
from cloudless.coordinator.raft.core.sending import broadcast, tell_commit


def advance_leader(step: Step) -> None:
    """Commits what a majority of the voters has on its disk, if it is of the leader's own term: an entry of an earlier
    one is committed with it, never by counting (§3.6.2, figure 3.7). The leader counts itself where it is a voter
    (§4.2.2), and only with what is on its own disk (§10.2.1)."""
    voters = step.voters
    if not voters:
        return
    progress = step.progress
    own = step.id
    matches = []
    for voter in voters:
        if voter == own:
            matches.append(step.durable_index)
        elif (peer := progress.get(voter)) is not None:
            matches.append(peer.match_index)
        else:
            matches.append(0)
    matches.sort()
    index = matches[(len(matches) - 1) // 2]
    before = step.commit_index
    if index <= before or index < step.term_start:
        return
    step.commit_index = index
    if step.changes:
        _answer_changes(step)
    configuration = step.configuration
    if before < configuration.index <= index and _settle(step):
        return
    if before < step.term_start and step.reads.waiting and not step.reads.round:
        begin_round(step)
    tell_commit(step)


def advance_follower(step: Step) -> None:
    """A follower commits what the leader says is committed, as far as its own log is known to agree with the leader's
    and is on its own disk. The last is stricter than §3.5 asks for: then what was applied never runs ahead of the own
    log after a crash."""
    index = min(step.leader_commit, step.verified_index, step.durable_index)
    if index > step.commit_index:
        step.commit_index = index


def _answer_changes(step: Step) -> None:
    for change in step.changes:
        if change.index <= step.commit_index:
            step.effects.append(ChangeAnswered(change.id))
    step.changes = tuple(change for change in step.changes if change.index > step.commit_index)


def _settle(step: Step) -> bool:
    """The configuration in force is committed: whoever is not in it is told once more and then left alone. True: the
    leader itself is not a voter any more and stands down (§4.2.2), after telling the best voter to stand."""
    configuration = step.configuration
    leaves = step.id not in step.voters
    members = {member.id for member in configuration.members}
    if leaves or any(peer not in members for peer in step.progress):
        broadcast(step)
    if any(peer not in members for peer in step.progress):
        step.replace_progress({peer: progress for peer, progress in step.progress.items() if peer in members})
    if not leaves:
        return False
    heir = max(
        (voter for voter in step.voters if voter in step.progress),
        key=lambda voter: step.progress[voter].match_index,
        default="",
    )
    if heir:
        step.send(heir, TimeoutNow(step.term))
    follow(step, step.term)
    return True
