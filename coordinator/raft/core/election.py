"""Elections (§3.4) with pre-votes (§9.6), and leaders that stay while they are heard (§4.2.3, §6.2)."""

from __future__ import annotations

from typing import Final

from cloudless.coordinator.raft.core import hand_over, reads, snapshots
from cloudless.coordinator.raft.core.draft import Step
from cloudless.coordinator.raft.core.messages import RequestVote, TimeoutNow, VoteResponse
from cloudless.coordinator.raft.core.model import NO_OP, Progress, Role
from cloudless.coordinator.raft.core.roles import end_hand_over, follow
from cloudless.coordinator.raft.core.sending import broadcast, replicate_to_all
from cloudless.coordinator.raft.core.timing import heartbeat_ms, restart_election_timer
from cloudless.coordinator.wal.record import LogEntry

_LATE_HEARTBEATS: Final = 2  # a Tick that is later than so many intervals comes from a stalled loop


def tick(step: Step) -> None:
    if step.role is Role.LEADER:
        if step.now_ms >= step.heartbeat_due_ms:
            _lead_on(step)
    elif step.now_ms >= step.election_due_ms:
        _leader_lost(step)
    reads.expire(step)
    hand_over.expire(step)


def request_vote(step: Step, sender: str, message: RequestVote) -> None:
    """One vote a term, for a log that is at least as up to date as the own one (§3.6.1), and none while a leader is
    heard, unless that leader wants it (§4.2.3). The candidate may be unknown here: its configuration may be the newer
    one (§4.1)."""
    term = message.term
    loyal = not message.transfer and (
        step.role is Role.LEADER or (step.leader != "" and step.now_ms - step.contact_ms < step.election_ms)
    )
    log = step.log
    up_to_date = (message.last_term, message.last_index) >= (log.last_term, log.last_index)
    if message.pre:
        free = term > step.term or (term == step.term and step.vote in ("", sender) and not step.leader)
        granted = free and up_to_date and not loyal
        step.send(sender, VoteResponse(term if granted else step.term, granted, True))
        return
    if term < step.term:
        step.send(sender, VoteResponse(step.term, False))
        return
    if loyal:
        return  # not even the term: a member that was cut off or removed must not end a good leadership
    if term > step.term:
        follow(step, term)
    granted = up_to_date and step.vote in ("", sender) and step.role is Role.FOLLOWER
    if granted:
        if step.vote != sender:
            step.remember(term, sender)
        restart_election_timer(step)
    step.send(sender, VoteResponse(step.term, granted), after=step.hard_by if granted and not step.hard_durable else 0)


def vote_response(step: Step, sender: str, message: VoteResponse) -> None:
    if message.pre and message.granted:
        if step.role is Role.PRE_CANDIDATE and message.term == step.term + 1 and _count(step, sender):
            campaign(step)
    elif message.term > step.term:
        follow(step, message.term)
    elif message.granted and step.role is Role.CANDIDATE and message.term == step.term and _count(step, sender):
        _lead(step)


def timeout_now(step: Step, sender: str, message: TimeoutNow) -> None:
    """The leader hands over (§3.10): no pre-vote, and the others are told that the leader wants it."""
    if message.term == step.term and step.leader == sender and step.role is Role.FOLLOWER and _may_stand(step):
        campaign(step, transfer=True)


def vote_durable(step: Step) -> None:
    """The own vote counts like any other once it is on the disk: before, a crash would forget it."""
    if step.role is Role.CANDIDATE and step.hard_durable and _count(step, step.id):
        _lead(step)


def campaign(step: Step, *, transfer: bool = False) -> None:
    """A new term (§3.4). The requests leave when term and own vote are on the disk."""
    step.remember(step.term + 1, step.id)
    step.verified_index = step.commit_index
    step.role = Role.CANDIDATE
    step.leader = ""
    step.votes = ()
    restart_election_timer(step)
    request = RequestVote(step.term, step.log.last_index, step.log.last_term, transfer=transfer)
    for voter in step.voters:
        if voter != step.id:
            step.send(voter, request, after=step.hard_by)


def _leader_lost(step: Step) -> None:
    """Asks first whether the others would vote for it, so that a member that was cut off does not come back with a high
    term (§9.6)."""
    step.leader = ""
    restart_election_timer(step)
    if not _may_stand(step):
        if step.role is not Role.FOLLOWER:
            follow(step, step.term)
        return
    step.role = Role.PRE_CANDIDATE
    step.votes = ()
    if _count(step, step.id):
        campaign(step)
        return
    request = RequestVote(step.term + 1, step.log.last_index, step.log.last_term, pre=True)
    for voter in step.voters:
        if voter != step.id:
            step.send(voter, request)


def _may_stand(step: Step) -> bool:
    """A voter may. So may one that is about to be removed, until that is committed: its log may be the only one that is
    new enough (§4.2.2, figure 4.6). It does not count itself then."""
    if snapshots.replacing_log(step):
        return False
    if step.id in step.voters:
        return True
    configurations = step.configurations
    pending = len(configurations) > 1 and configurations[-1].index > step.commit_index
    return pending and step.id in configurations[-2].voters


def _count(step: Step, voter: str) -> bool:
    """Counts a vote; True: that is a majority."""
    if voter not in step.voters:
        return False
    if voter not in step.votes:
        step.votes = (*step.votes, voter)
    return step.majority(len(step.votes))


def _lead(step: Step) -> None:
    """Begins its term with an entry of it: only with that can it commit what earlier leaders left, and know what is
    committed (§3.6.2, §6.4)."""
    step.role = Role.LEADER
    step.leader = step.id
    step.votes = ()
    step.round = 1
    index = step.log.last_index + 1
    step.term_start = index
    step.heartbeat_due_ms = step.now_ms + heartbeat_ms(step.timing)
    step.replace_progress(
        {
            member.id: Progress(next_index=index, contact_ms=step.now_ms)
            for member in step.configuration.members
            if member.id != step.id
        }
    )
    step.append((LogEntry(index, step.term, NO_OP),), step.log.appended(index, step.term))
    replicate_to_all(step)
    end_hand_over(step, step.id)


def _lead_on(step: Step) -> None:
    """A leader that a majority has not answered for an election timeout stands down (§6.2): there may be another one.
    The time during which this member itself was stalled does not count, up to once the timeout."""
    late_ms = step.now_ms - step.heartbeat_due_ms
    if late_ms <= _LATE_HEARTBEATS * heartbeat_ms(step.timing):
        late_ms = 0.0
    since_ms = step.now_ms - step.election_ms - min(late_ms, step.election_ms)
    if not step.majority_of(lambda progress: progress.contact_ms > since_ms):
        follow(step, step.term)
        return
    broadcast(step)
    if step.reads.round:
        reads.confirm(step)  # fewer voters may be enough by now
    snapshots.resend(step)
    hand_over.caught_up(step)
