"""Who takes part, one at a time (§4), and reads without log entries (§6.4)."""

from __future__ import annotations

import pytest

from cloudless.coordinator.raft.core import effects as fx
from cloudless.coordinator.raft.core import events as ev
from cloudless.coordinator.raft.core.messages import (
    AppendEntries,
    AppendResponse,
    ReadRequest,
    ReadResponse,
    RequestVote,
    TimeoutNow,
    VoteResponse,
)
from cloudless.coordinator.raft.core.model import (
    CONFIGURATION,
    Configuration,
    LogShape,
    Member,
    Role,
    Timing,
    decode_configuration,
    encode_configuration,
)
from cloudless.coordinator.raft.core.start import initial
from cloudless.coordinator.wal.record import HardState, LogEntry
from cloudless.testing.raft_core_member import CoreMember, configuration, entries, pump

NEW = Member("d", "d:1", False)


def led(voters: str = "abc", **how: object) -> CoreMember:
    """A leader whose first entry is committed."""
    leader = CoreMember("a", voters, **how).lead()  # type: ignore[arg-type]
    leader.acknowledge(*(m.id for m in leader.state.configuration.members if m.id != "a"))
    leader.effects.clear()
    return leader


def answers(member: CoreMember) -> list[fx.Effect]:
    return member.took(fx.ChangeAnswered)


def test_a_member_joins_without_a_vote_and_gets_one_when_it_has_caught_up() -> None:
    leader = led()
    leader.feed(ev.AddLearner(1, NEW))
    assert leader.state.configuration.members[3] == NEW
    assert leader.state.voters == ("a", "b", "c"), "a learner has no vote"
    (changed,) = [e for e in leader.effects if isinstance(e, fx.ConfigurationChanged)]
    assert changed
    learner = CoreMember("d", "")
    leader.acknowledge("b")
    assert answers(leader) == [fx.ChangeAnswered(1)]
    leader.feed(ev.Promote(2, "d"))
    assert answers(leader) == [fx.ChangeAnswered(2, "NotCaughtUp")]
    pump(leader, learner, first=[("a", to, m) for to, m in leader.tick()])
    assert learner.state.configuration == leader.state.configuration
    leader.feed(ev.Promote(3, "d"))
    assert leader.state.voters == ("a", "b", "c", "d")
    leader.acknowledge("b")
    assert answers(leader) == [], "two of four are no majority"
    leader.acknowledge("d")
    assert answers(leader) == [fx.ChangeAnswered(3)]


def test_one_change_at_a_time() -> None:
    leader = led()
    leader.feed(ev.AddLearner(1, NEW))
    leader.feed(ev.Remove(2, "c"))
    leader.feed(ev.AddLearner(3, NEW))
    assert answers(leader) == [fx.ChangeAnswered(2, "ChangeUnderWay")]
    leader.acknowledge("b")
    assert answers(leader) == [fx.ChangeAnswered(1), fx.ChangeAnswered(3)], "who repeats a change waits for it"


def test_no_change_before_an_entry_of_the_own_term_is_committed() -> None:
    """The bug of single-server changes: a leader that did not know of a change by the leader before it made another
    one, and the majorities of the two did not meet (raft-dev, 10 July 2015)."""
    leader = CoreMember("a", "abcd").lead()
    leader.feed(ev.Remove(1, "d"))
    assert answers(leader) == [fx.ChangeAnswered(1, "ChangeUnderWay")]
    leader.acknowledge("b")
    leader.feed(ev.Remove(2, "d"))
    assert answers(leader) == [fx.ChangeAnswered(2, "ChangeUnderWay")]
    leader.acknowledge("c")
    leader.feed(ev.Remove(3, "d"))
    assert leader.state.voters == ("a", "b", "c")


def test_what_is_so_already_is_answered_at_once_and_what_cannot_be_says_why() -> None:
    leader = led("ab", learners=["l"])
    leader.feed(ev.Remove(1, "l"))
    leader.acknowledge("b")
    for event in (
        ev.AddLearner(10, Member("b", "b:1", False)),
        ev.Promote(11, "b"),
        ev.Remove(12, "l"),
        ev.AddLearner(13, Member("l", "l:1", False)),
        ev.Promote(14, "x"),
        ev.Remove(15, "x"),
        ev.Promote(16, "l"),
    ):
        leader.feed(event)
    assert answers(leader)[1:] == [
        fx.ChangeAnswered(10),
        fx.ChangeAnswered(11),
        fx.ChangeAnswered(12),
        fx.ChangeAnswered(13, "MemberIdUsed"),
        fx.ChangeAnswered(14, "UnknownMember"),
        fx.ChangeAnswered(15, "UnknownMember"),
        fx.ChangeAnswered(16, "UnknownMember"),
    ]
    alone = led("a")
    alone.feed(ev.Remove(1, "a"))
    assert answers(alone) == [fx.ChangeAnswered(1, "LastVoter")]
    follower = CoreMember("b")
    for number, event in enumerate((ev.AddLearner(0, NEW), ev.Promote(1, "c"), ev.Remove(2, "c"))):
        follower.feed(event)
        assert answers(follower) == [fx.ChangeAnswered(number, "NotLeader")]


def test_a_voter_that_moved_keeps_its_vote() -> None:
    leader = led()
    leader.feed(ev.AddLearner(1, Member("b", "elsewhere:9", False)))
    assert leader.state.configuration.get("b") == Member("b", "elsewhere:9", True)
    assert leader.state.voters == ("a", "b", "c")


def test_a_configuration_is_in_force_at_once_and_reverts_when_it_is_cut_away() -> None:
    follower = CoreMember("b", term=1, terms=[1]).follow("a", 1)
    first = follower.state.configuration
    new = configuration("abcd", index=2)
    entry = LogEntry(2, 1, encode_configuration(new))
    follower.receive("a", AppendEntries(1, 1, 1, 1, 2, (entry,)))
    assert follower.state.configuration == new
    assert follower.state.voters == ("a", "b", "c", "d")
    assert follower.state.configuration_at(1) == first
    follower.effects.clear()
    follower.receive("c", AppendEntries(2, 1, 1, 1, 1, entries(2, [2])))
    assert follower.state.configuration == first
    assert len(follower.took(fx.ConfigurationChanged)) == 1


def test_a_configuration_that_cannot_be_read_is_not_appended() -> None:
    follower = CoreMember("b", term=1, terms=[1]).follow("a", 1)
    follower.receive("a", AppendEntries(1, 1, 1, 1, 2, (LogEntry(2, 1, CONFIGURATION + b"{"),)))
    assert follower.state.log.last_index == 1


def test_a_leader_that_removes_itself_leads_until_it_is_committed_and_passes_on() -> None:
    leader = led()
    leader.feed(ev.Propose(1))
    leader.feed(ev.Remove(1, "a"))
    assert leader.state.voters == ("b", "c")
    leader.acknowledge("b")
    assert leader.state.role is Role.LEADER
    assert leader.state.commit_index == 1, "it does not count itself, for nothing behind its no-op"
    sent = leader.acknowledge("c")
    assert leader.state.role is Role.FOLLOWER
    assert answers(leader) == [fx.ChangeAnswered(1)]
    assert [(to, m.commit_index) for to, m in sent if isinstance(m, AppendEntries)] == [("b", 3), ("c", 3)]
    assert [to for to, m in sent if isinstance(m, TimeoutNow)] == ["b"]
    for _ in range(5):
        assert leader.tick() == []
    assert leader.state.role is Role.FOLLOWER


def test_a_removed_member_is_told_and_then_not_listened_to() -> None:
    leader = led()
    sent = leader.feed(ev.Remove(1, "c"))
    assert [to for to, m in sent if isinstance(m, AppendEntries) and m.entries] == ["b", "c"]
    assert leader.asked("c", 9, pre=True) == VoteResponse(1, False, True), "as long as it is not committed"
    sent = leader.acknowledge("b")
    assert [(to, m.commit_index) for to, m in sent if isinstance(m, AppendEntries)] == [("b", 2), ("c", 2)]
    assert leader.receive("c", RequestVote(99, 99, 99, transfer=True)) == []
    leader.receive("c", AppendResponse(99, False))
    assert (leader.state.role, leader.state.term) == (Role.LEADER, 1)
    assert list(leader.state.progress) == ["b"]


def test_a_voter_on_its_way_out_may_still_be_needed() -> None:
    """§4.2.2, figure 4.6: only it has the entry that removes it, and its log is newer than the other's."""
    before, after = configuration("ab"), configuration("b", index=2)
    member = CoreMember("a", term=1, terms=[1, 1], configurations=[before, after])
    assert [to for to, _ in member.tick()] == ["b"]
    member.receive("b", VoteResponse(2, True, True))
    member.receive("b", VoteResponse(2, True))
    assert member.state.role is Role.LEADER
    member.acknowledge("b")
    assert member.state.role is Role.FOLLOWER


def test_configurations_round_trip_and_garbage_is_an_error() -> None:
    given = Configuration("fabric", (Member("a", "h:1"), Member("b", "h:2", False)), ("old",), 7)
    assert decode_configuration(encode_configuration(given), index=7) == given
    for bad in (
        b"",
        b"\x00n",
        CONFIGURATION,
        CONFIGURATION + b"[]",
        CONFIGURATION + b"{" * 9000,
        CONFIGURATION + b"\xff",
    ):
        with pytest.raises(ValueError, match="configuration"):
            decode_configuration(bad, index=1)


def test_a_configuration_of_a_snapshot_is_the_one_as_of_its_index() -> None:
    known = [configuration("abc"), configuration("abcd", index=4), configuration("abd", index=9)]
    member = CoreMember("a", term=1, terms=[1] * 12, configurations=known).follow("b", 1, commit_index=12)
    assert member.state.configuration is known[2]
    assert [member.state.configuration_at(index) for index in (3, 4, 8, 9, 12)] == [known[i] for i in (0, 1, 1, 2, 2)]
    member.feed(ev.Compacted(6, 8, 1))
    assert member.state.log == LogShape(5, 1, 12, ((6, 1),))
    assert member.state.configurations == (known[1], known[2])


# Reads


def read_answers(member: CoreMember) -> list[fx.Effect]:
    return member.took(fx.ReadAnswered)


def beats(member: CoreMember, *peers: str, round_: int | None = None) -> None:
    for peer in peers:
        round_ = member.state.round if round_ is None else round_
        member.receive(peer, AppendResponse(member.state.term, True, 0, round_))


def test_a_read_is_answered_when_a_majority_still_follows() -> None:
    leader = led("abcde")
    old = leader.state.round
    leader.feed(ev.Read(1))
    beats(leader, "b", "c", "d", "e", round_=old)
    assert read_answers(leader) == [], "answers to what was sent before prove nothing"
    beats(leader, "b")
    leader.feed(ev.Read(2))
    beats(leader, "c")
    assert read_answers(leader) == [fx.ReadAnswered(1, 1)]
    beats(leader, "b", "c")
    assert read_answers(leader) == [fx.ReadAnswered(2, 1)]


def test_a_new_leader_reads_nothing_before_its_term_is_committed() -> None:
    leader = CoreMember("a", term=1, terms=[1, 1]).lead()
    leader.feed(ev.Read(1))
    beats(leader, "b", "c")
    assert read_answers(leader) == []
    leader.acknowledge("b")
    beats(leader, "b")
    assert read_answers(leader) == [fx.ReadAnswered(1, 3)]


def test_a_single_voter_reads_at_once() -> None:
    leader = led("a")
    leader.feed(ev.Read(1))
    assert read_answers(leader) == [fx.ReadAnswered(1, 1)]


def test_a_follower_asks_its_leader() -> None:
    follower = CoreMember("b", term=1, terms=[1]).follow("a", 1)
    ((to, request),) = follower.feed(ev.Read(5))
    assert to == "a"
    assert isinstance(request, ReadRequest)
    leader = led()
    assert [type(m) for _, m in leader.receive("b", request)] == [AppendEntries, AppendEntries]
    (answer,) = leader.receive("c", AppendResponse(1, True, 1, leader.state.round))
    assert answer == ("b", ReadResponse(1, request.id, 1))
    follower.receive("a", answer[1])
    follower.receive("a", answer[1])
    assert read_answers(follower) == [fx.ReadAnswered(5, 1)]


def test_a_read_is_always_answered() -> None:
    follower = CoreMember("b", term=1, terms=[1])
    follower.feed(ev.Read(1))
    assert read_answers(follower) == [fx.ReadAnswered(1, 0)], "nobody leads"
    follower.follow("a", 1)
    follower.feed(ev.Read(2))
    follower.receive("c", AppendEntries(2, 1, 1, 1, 1))
    assert read_answers(follower) == [fx.ReadAnswered(2, 0)], "another leads"
    follower.feed(ev.Read(3))
    ticks = 0
    while not (found := read_answers(follower)):
        follower.now_ms = follower.state.due_ms
        follower.receive("c", AppendEntries(2, 1, 1, 1, 1))
        follower.feed(ev.Tick())
        ticks += 1
        assert ticks < 20
    assert found == [fx.ReadAnswered(3, 0)], "the request was lost"
    assert follower.receive("x", ReadRequest(1, 4)) == [("x", ReadResponse(2, 4, 0))]


def test_a_leader_that_lost_its_majority_answers_no_read() -> None:
    leader = led()
    leader.feed(ev.Read(1))
    leader.receive("b", ReadRequest(1, 77))
    sent = []
    while leader.state.role is Role.LEADER:
        sent = leader.tick()
    assert read_answers(leader) == [fx.ReadAnswered(1, 0)]
    assert sent == [("b", ReadResponse(1, 77, 0))]


def test_reads_of_two_lives_have_different_numbers() -> None:
    serials = set()
    for jitter in (0.1, 0.2, 0.999999):
        state = initial(
            "a",
            hard_state=HardState(),
            log=LogShape(),
            configurations=[configuration("abc")],
            timing=Timing(),
            now_ms=0.0,
            jitter=jitter,
        )
        serials.add(state.read_serial)
        assert state.read_serial < 2**63 - 2**32
    assert len(serials) == 3
