"""Who leads: terms, votes, pre-votes, loyalty to a leader that is heard, CheckQuorum, transfer (§3.4, §4.2.3, §6.2,
§9.6, §3.10)."""

from __future__ import annotations

import pytest

from cloudless.coordinator.raft.core import effects as fx
from cloudless.coordinator.raft.core import events as ev
from cloudless.coordinator.raft.core.messages import (
    AppendEntries,
    AppendResponse,
    RequestVote,
    TimeoutNow,
    VoteResponse,
)
from cloudless.coordinator.raft.core.model import Role
from cloudless.coordinator.wal.record import HardState
from cloudless.testing.raft_core_member import CoreMember


def test_a_single_voter_elects_itself_when_its_vote_is_on_the_disk() -> None:
    member = CoreMember("a", "a", auto_sync=False)
    assert member.state.due_ms == member.now_ms
    member.tick()
    assert (member.state.role, member.state.term, member.state.vote) == (Role.CANDIDATE, 1, "a")
    assert member.took(fx.Persist) == [fx.Persist(1, HardState(1, "a"))]
    member.sync()
    assert (member.state.role, member.state.leader) == (Role.LEADER, "a")
    assert member.state.commit_index == 0
    member.sync()
    assert member.state.commit_index == 1
    assert member.took(fx.Commit) == [fx.Commit(1)]


def test_a_candidate_asks_for_a_pre_vote_before_it_takes_a_new_term() -> None:
    member = CoreMember("a", term=3, terms=[1, 3])
    sent = member.tick()
    ask = RequestVote(4, 2, 3, pre=True)
    assert sent == [("b", ask), ("c", ask)]
    assert (member.state.role, member.state.term) == (Role.PRE_CANDIDATE, 3)
    assert member.took(fx.Persist) == []
    sent = member.receive("c", VoteResponse(4, True, True))
    ask = RequestVote(4, 2, 3)
    assert sent == [("b", ask), ("c", ask)]
    sent = member.receive("b", VoteResponse(4, True))
    assert member.state.role is Role.LEADER
    assert [(to, m.previous_index, m.term) for to, m in sent if isinstance(m, AppendEntries)] == [
        ("b", 2, 4),
        ("c", 2, 4),
    ]


def test_requests_for_votes_leave_when_term_and_vote_are_on_the_disk() -> None:
    member = CoreMember("a", auto_sync=False)
    member.tick()
    assert member.receive("b", VoteResponse(1, True, True)) == []
    assert [to for to, _ in member.sync()] == ["b", "c"]


def test_an_answer_counts_once_and_only_from_a_voter_in_its_term() -> None:
    member = CoreMember("a", "abcde", learners=["l"])
    member.tick()
    for voter in "bc":
        member.receive(voter, VoteResponse(1, True, True))
    assert member.state.role is Role.CANDIDATE
    for sender, response in (
        ("b", VoteResponse(1, True)),
        ("b", VoteResponse(1, True)),
        ("l", VoteResponse(1, True)),
        ("x", VoteResponse(1, True)),
        ("c", VoteResponse(0, True)),
        ("c", VoteResponse(1, False)),
        ("d", VoteResponse(2, True, True)),
    ):
        member.receive(sender, response)
        assert member.state.role is Role.CANDIDATE
    member.receive("e", VoteResponse(1, True))
    assert member.state.role is Role.LEADER


@pytest.mark.parametrize(
    ("last", "granted"),
    [((3, 2), True), ((9, 2), True), ((1, 3), True), ((2, 2), False), ((9, 1), False), ((0, 0), False)],
)
@pytest.mark.parametrize("pre", [True, False])
def test_votes_go_to_logs_that_are_at_least_as_up_to_date(last: tuple[int, int], granted: bool, pre: bool) -> None:
    member = CoreMember("a", term=2, terms=[1, 1, 2])
    answer = member.asked("b", 3, last=last, pre=pre)
    assert answer == VoteResponse(3 if granted or not pre else 2, granted, pre)
    assert member.state.term == (2 if pre else 3)


def test_one_vote_a_term_also_after_a_restart_and_none_leaves_before_it_is_on_the_disk() -> None:
    member = CoreMember("a", auto_sync=False)
    assert member.asked("b", 1) is None
    assert (
        member.took(fx.Persist)
        == [
            fx.Persist(1, HardState(1, "")),
        ]
        or member.state.vote == "b"
    )
    assert member.sync() == [("b", VoteResponse(1, True))]
    assert member.asked("c", 1) == VoteResponse(1, False)
    assert member.asked("b", 1) == VoteResponse(1, True)
    again = CoreMember("a", term=1, vote="b")
    assert again.asked("c", 1) == VoteResponse(1, False)
    assert again.asked("b", 1) == VoteResponse(1, True)


def test_who_hears_a_leader_gives_no_vote_unless_the_leader_wants_it() -> None:
    member = CoreMember("a", term=1, terms=[1]).follow("b", 1)
    assert member.asked("c", 2, pre=True) == VoteResponse(1, False, True)
    assert member.asked("c", 7) is None
    assert member.state.term == 1
    assert member.asked("c", 2, transfer=True) == VoteResponse(2, True)


def test_a_leader_stays_when_a_member_comes_back_with_a_higher_term_and_is_not_deposed_by_its_request() -> None:
    leader = CoreMember("a").lead()
    assert leader.asked("c", 40) is None
    assert leader.state.role is Role.LEADER
    # But an answer to its own messages says that there was a later term: it has to give way (§3.3).
    leader.receive("c", AppendResponse(40, False, round=1, refused_index=1))
    assert (leader.state.role, leader.state.term) == (Role.FOLLOWER, 40)


def test_loyalty_ends_with_the_minimum_election_timeout() -> None:
    member = CoreMember("a", term=1, terms=[1]).follow("b", 1)
    member.now_ms += 249
    assert member.asked("c", 2, pre=True) == VoteResponse(1, False, True)
    member.now_ms += 1
    assert member.asked("c", 2, pre=True) == VoteResponse(2, True, True)


def test_a_member_that_was_cut_off_comes_back_in_the_old_term() -> None:
    member = CoreMember("a", term=5, terms=[5]).follow("b", 5)
    for _ in range(10):
        member.tick()
    assert (member.state.role, member.state.term) == (Role.PRE_CANDIDATE, 5)
    member.receive("b", AppendEntries(5, 1, 5, 1, 30))
    assert (member.state.role, member.state.leader) == (Role.FOLLOWER, "b")


def test_learners_and_strangers_never_stand() -> None:
    for member in (CoreMember("l", learners=["l"]), CoreMember("x"), CoreMember("n", "")):
        for _ in range(5):
            assert member.tick() == []
        assert (member.state.role, member.state.term) == (Role.FOLLOWER, 0)
        member.receive("a", AppendEntries(1, 0, 0, 0, 1))
        assert member.receive("a", TimeoutNow(1)) == []
        assert member.state.role is Role.FOLLOWER
        assert member.asked("b", 2, transfer=True) == VoteResponse(2, True)  # the others may know better (§4.1)


def test_a_refusal_with_a_higher_term_ends_a_candidacy() -> None:
    member = CoreMember("a")
    member.tick()
    member.receive("b", VoteResponse(8, False, True))
    assert (member.state.role, member.state.term) == (Role.FOLLOWER, 8)


def test_a_leader_without_a_majority_stands_down_and_answers_its_callers() -> None:
    leader = CoreMember("a").lead()
    leader.acknowledge("b", "c")
    leader.feed(ev.Read(1))
    for _ in range(4):
        leader.tick()
        leader.receive("b", AppendResponse(1, True, 1, leader.state.round))
    assert leader.state.role is Role.LEADER
    leader.took(fx.ReadAnswered)
    leader.feed(ev.Read(2))
    while leader.state.role is Role.LEADER:
        leader.tick()
    assert leader.now_ms <= 10_000 + 375 + 4 * 50 + 300
    assert (leader.state.role, leader.state.leader, leader.state.term) == (Role.FOLLOWER, "", 1)
    assert leader.took(fx.ReadAnswered) == [fx.ReadAnswered(2, 0)]


def test_a_leader_that_was_stalled_hears_the_others_first() -> None:
    leader = CoreMember("a").lead()
    leader.tick(after_ms=400)
    assert leader.state.role is Role.LEADER
    leader.tick(after_ms=2000)
    assert leader.state.role is Role.FOLLOWER


def test_leadership_is_handed_over_when_the_target_has_everything() -> None:
    leader = CoreMember("a").lead()
    leader.acknowledge("b", "c")
    leader.feed(ev.Propose(2))
    assert leader.feed(ev.Transfer(7, "c")) == []
    assert leader.feed(ev.Propose(1)) == []
    assert leader.state.log.last_index == 3
    leader.acknowledge("b")
    assert ("c", TimeoutNow(1)) in leader.acknowledge("c")
    leader.effects.clear()
    assert leader.asked("c", 2, last=(3, 1), transfer=True) == VoteResponse(2, True)
    assert leader.took(fx.ChangeAnswered) == []
    leader.receive("c", AppendEntries(2, 3, 1, 3, 1))
    assert leader.took(fx.ChangeAnswered) == [fx.ChangeAnswered(7)]


def test_the_target_stands_at_once_and_says_why() -> None:
    member = CoreMember("a", term=1, terms=[1]).follow("b", 1)
    assert member.receive("c", TimeoutNow(1)) == []  # not its leader
    ask = RequestVote(2, 1, 1, transfer=True)
    assert member.receive("b", TimeoutNow(1)) == [("b", ask), ("c", ask)]
    assert member.receive("b", TimeoutNow(1)) == []


def test_a_transfer_that_fails_gives_the_proposals_back() -> None:
    leader = CoreMember("a").lead()
    leader.acknowledge("b", "c")
    leader.feed(ev.Transfer(1, "c"))
    leader.feed(ev.Transfer(2, "b"))
    leader.feed(ev.AddLearner(3, leader.state.configuration.members[0]))
    assert fx.ChangeAnswered(2, "ChangeUnderWay") in leader.took(fx.ChangeAnswered)
    for _ in range(6):
        leader.tick()
        leader.receive("b", AppendResponse(1, True, 1, leader.state.round))
    assert leader.took(fx.ChangeAnswered) == [fx.ChangeAnswered(1, "TransferFailed")]
    leader.feed(ev.Propose(1))
    assert leader.state.log.last_index == 2


def test_transfers_that_make_no_sense() -> None:
    leader = CoreMember("a", learners=["l"]).lead()
    for number, target in enumerate(("a", "x", "l")):
        leader.feed(ev.Transfer(number, target))
    reasons = ["", "UnknownMember", "NotCaughtUp"]
    assert leader.took(fx.ChangeAnswered) == [fx.ChangeAnswered(i, reason) for i, reason in enumerate(reasons)]
    follower = CoreMember("a")
    follower.feed(ev.Transfer(1, "b"))
    assert follower.took(fx.ChangeAnswered) == [fx.ChangeAnswered(1, "NotLeader")]
    alone = CoreMember("a", "a").lead()
    alone.feed(ev.Transfer(1))
    assert alone.took(fx.ChangeAnswered) == [fx.ChangeAnswered(1, "TransferFailed")]


def test_a_transfer_to_anyone_takes_the_longest_log() -> None:
    leader = CoreMember("a", "abcd").lead()
    leader.acknowledge("b", "c", "d")
    leader.feed(ev.Propose(3))
    leader.acknowledge("b", index=2)
    leader.acknowledge("d")
    assert leader.feed(ev.Transfer(1)) == [("d", TimeoutNow(1))]


def test_timeouts_follow_what_is_measured_and_come_back() -> None:
    member = CoreMember("a")
    member.feed(ev.Measured(100.0, 300.0))
    assert member.state.election_ms == 2000
    member.feed(ev.Measured(1e9, 1e9))
    assert member.state.election_ms == 250 * 20
    for _ in range(30):
        member.feed(ev.Measured(1.0, 0.2))
    assert member.state.election_ms == 250
    member.follow("b", 1)
    assert member.state.due_ms == member.now_ms + 250 * 1.5
