"""The log: conflict-checked appends, what is acknowledged and when, commits, pipelining, lost batches (§3.5, §3.6,
§10.2.1)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cloudless.coordinator.raft.core import effects as fx
from cloudless.coordinator.raft.core import events as ev
from cloudless.coordinator.raft.core.messages import AppendEntries, AppendResponse, Message
from cloudless.coordinator.raft.core.model import Mode, Role
from cloudless.coordinator.raft.core.sending import BATCH_ENTRIES, BATCHES_IN_FLIGHT
from cloudless.coordinator.wal.record import HardState
from cloudless.testing.raft_core_member import CoreMember, entries, pump

LEADER = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6]
FIGURE_7 = {
    "a": [1, 1, 1, 4, 4, 5, 5, 6, 6],
    "b": [1, 1, 1, 4],
    "c": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
    "d": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
    "e": [1, 1, 1, 4, 4, 4, 4],
    "f": [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
}


def terms(member: CoreMember) -> list[int | None]:
    return [member.state.log.term_at(index) for index in range(1, member.state.log.last_index + 1)]


def appends(sent: list[tuple[str, Message]]) -> list[tuple[str, int, int]]:
    """To whom, after which entry, how many."""
    return [(to, m.previous_index, len(m.entries)) for to, m in sent if isinstance(m, AppendEntries)]


@pytest.mark.parametrize("name", FIGURE_7)
def test_a_leader_brings_every_log_of_figure_7_to_agree_in_few_round_trips(name: str) -> None:
    leader = CoreMember("L", "Lxy", term=7, terms=LEADER).lead()
    leader.take()
    follower = CoreMember("x", "Lxy", term=7, terms=FIGURE_7[name])
    count = pump(leader, follower, first=[("L", to, m) for to, m in leader.tick()])
    assert count <= 14, "whole terms are skipped (§3.5)"
    assert terms(follower) == terms(leader) == [*LEADER, 8]
    assert leader.state.commit_index == 11
    assert follower.state.commit_index == 11
    assert leader.state.progress["x"].match_index == 11


def test_an_entry_of_an_earlier_term_is_not_committed_by_counting() -> None:
    """Figure 3.7 (figure 8 of the paper): S1 leads again in term 4 and brings its entry of term 2 to a majority."""
    leader = CoreMember("a", "abcde", term=3, terms=[1, 2]).lead()
    assert leader.state.term == 4
    leader.acknowledge("b", "c", index=2)
    assert leader.state.commit_index == 0
    leader.acknowledge("b", index=3)
    assert leader.state.commit_index == 0
    leader.acknowledge("c", index=3)
    assert leader.state.commit_index == 3


def test_a_leader_counts_itself_only_with_what_is_on_its_disk() -> None:
    leader = CoreMember("a").lead()
    leader.acknowledge("b", "c")
    leader.effects.clear()
    leader.auto_sync = False
    leader.feed(ev.Propose(2))
    assert leader.took(fx.Persist) == [fx.Persist(leader.state.written, None, 0, (), 2, 1, 2)]
    leader.acknowledge("b")
    assert leader.state.commit_index == 1
    leader.feed(ev.Persisted(leader.state.written, 3, 1))
    assert leader.state.commit_index == 3


def test_others_may_commit_before_the_leaders_own_disk() -> None:
    leader = CoreMember("a").lead()
    leader.auto_sync = False
    leader.feed(ev.Propose(1))
    leader.acknowledge("b", "c")
    assert leader.state.commit_index == 2
    assert leader.state.durable_index == 1


def test_entries_leave_before_the_leaders_disk_and_are_acknowledged_after_the_followers() -> None:
    leader = CoreMember("a").lead()
    leader.acknowledge("b", "c")
    leader.auto_sync = False
    sent = leader.feed(ev.Propose(2))
    assert appends(sent) == [("b", 1, 2), ("c", 1, 2)]
    follower = CoreMember("b", term=1, terms=[1]).follow("a", 1)
    follower.auto_sync = False
    assert follower.receive("a", sent[0][1]) == []
    assert follower.state.log.last_index == 3
    # A heartbeat is answered at once, with what is on the disk.
    beat = AppendEntries(1, 3, 1, 3, 9)
    assert follower.receive("a", beat) == [("a", AppendResponse(1, True, 1, 9))]
    assert follower.state.commit_index == 1
    assert follower.sync() == [("a", AppendResponse(1, True, 3, 1))]
    assert follower.state.commit_index == 3


def test_nothing_is_promised_before_the_term_is_on_the_disk() -> None:
    follower = CoreMember("b", term=1, terms=[1, 1], auto_sync=False)
    assert follower.receive("a", AppendEntries(3, 2, 1, 2, 5)) == [("a", AppendResponse(3, True, 0, 5))]
    assert follower.took(fx.Persist) == [fx.Persist(1, HardState(3, ""))]
    follower.sync()
    assert follower.receive("a", AppendEntries(3, 2, 1, 2, 6)) == [("a", AppendResponse(3, True, 2, 6))]


def test_only_a_real_conflict_cuts_the_log() -> None:
    follower = CoreMember("b", term=4, terms=[1, 1, 2, 2, 2]).follow("a", 4)
    old = AppendEntries(4, 0, 0, 0, 1, entries(1, [1, 1]))
    assert follower.receive("a", old)[0][1] == AppendResponse(4, True, 5, 1)
    assert terms(follower) == [1, 1, 2, 2, 2]
    assert follower.took(fx.Persist) == []
    follower = CoreMember("b", term=4, terms=[1, 1, 2, 2, 2])
    follower.receive("a", AppendEntries(5, 1, 1, 0, 1, entries(2, [1, 2, 4])))
    assert terms(follower) == [1, 1, 2, 4]
    (persist,) = follower.took(fx.Persist)
    assert isinstance(persist, fx.Persist)
    assert (persist.truncate_from, persist.entries) == (4, entries(4, [4]))


def test_an_old_tail_is_neither_acknowledged_nor_committed() -> None:
    """A former leader with entries of its own hears of a new one that has another log behind entry 2."""
    follower = CoreMember("b", term=2, terms=[1, 1, 2, 2, 2])
    beat = AppendEntries(3, 2, 1, 5, 1)
    assert follower.receive("a", beat) == [("a", AppendResponse(3, True, 0, 1))]
    assert follower.receive("a", replace(beat, round=2)) == [("a", AppendResponse(3, True, 2, 2))]
    assert follower.state.commit_index == 2


def test_what_was_verified_with_one_leader_is_not_with_the_next() -> None:
    follower = CoreMember("b", term=2, terms=[1, 2, 2]).follow("a", 2)
    assert follower.state.verified_index == 3
    follower.receive("c", AppendEntries(3, 0, 0, 3, 1))
    assert follower.state.verified_index == 0
    assert follower.state.commit_index == 0


def test_committed_entries_are_never_cut() -> None:
    follower = CoreMember("b", term=2, terms=[1, 1, 2]).follow("a", 2, commit_index=3)
    before = follower.state
    for message in (
        AppendEntries(2, 1, 1, 3, 2, entries(2, [2, 2])),
        AppendEntries(2, 2, 2, 3, 2),
        AppendEntries(2, 0, 1, 3, 2),
        AppendEntries(2, -1, 0, 3, 2),
    ):
        follower.receive("a", message)
        assert (follower.state.log, follower.state.commit_index) == (before.log, 3)


@pytest.mark.parametrize(
    "bad",
    [
        entries(7, [2]),
        entries(2, [2, 1]),
        entries(2, [3]),
        entries(2, [0]),
        (*entries(2, [2]), *entries(4, [2])),
    ],
)
def test_entries_that_no_leader_sends_do_nothing(bad: tuple) -> None:
    follower = CoreMember("b", term=2, terms=[1]).follow("a", 2)
    assert follower.receive("a", AppendEntries(2, 1, 1, 0, 1, bad)) == []
    assert terms(follower) == [1]


def test_a_stale_leader_is_told_the_term() -> None:
    follower = CoreMember("b", term=5)
    answer = follower.receive("a", AppendEntries(4, 0, 0, 0, 3))
    assert answer == [("a", AppendResponse(5, False, 0, 3, 0))]
    leader = CoreMember("a", term=3).lead()
    leader.receive("b", answer[0][1])
    assert (leader.state.role, leader.state.term) == (Role.FOLLOWER, 5)


def test_nothing_goes_back_on_a_success() -> None:
    leader = CoreMember("a").lead()
    leader.acknowledge("b", "c")
    leader.feed(ev.Propose(5))
    leader.acknowledge("b")
    before = leader.state.progress["b"]
    for old in (0, 1, 3, 6):
        leader.receive("b", AppendResponse(1, True, old, 1))
        leader.receive("b", AppendResponse(1, False, round=1, refused_index=old, hint_index=0))
    after = leader.state.progress["b"]
    assert (after.match_index, after.next_index, after.mode) == (before.match_index, before.next_index, Mode.REPLICATE)
    leader.receive("b", AppendResponse(1, True, 99, 1))
    leader.receive("b", AppendResponse(1, True, 6, 99))
    assert leader.state.progress["b"].match_index == 6


def test_batches_are_pipelined_up_to_the_window() -> None:
    leader = CoreMember("a").lead()
    leader.acknowledge("b", "c")
    sent = [entry for _ in range(BATCHES_IN_FLIGHT + 3) for entry in appends(leader.feed(ev.Propose(1)))]
    assert [e for e in sent if e[0] == "b"] == [("b", i + 1, 1) for i in range(BATCHES_IN_FLIGHT)]
    sent = leader.acknowledge("b", index=2)
    assert ("b", BATCHES_IN_FLIGHT + 1, 3) in appends(sent)
    leader.feed(ev.Propose(BATCH_ENTRIES + 5))
    sent = leader.acknowledge("c", index=1 + BATCHES_IN_FLIGHT)
    assert ("c", BATCHES_IN_FLIGHT + 1, BATCH_ENTRIES) in appends(sent)


def test_a_lost_batch_is_noticed_by_the_next_heartbeat_and_sent_again_once() -> None:
    leader = CoreMember("a").lead()
    follower = CoreMember("b", term=1)
    pump(leader, follower, first=[("a", to, m) for to, m in leader.tick()])
    assert follower.state.commit_index == 1
    for _ in range(3):
        leader.feed(ev.Propose(2))  # all lost
    beat = next(m for to, m in leader.tick() if to == "b")
    (refusal,) = follower.receive("a", beat)
    assert isinstance(refusal[1], AppendResponse)
    assert (refusal[1].success, refusal[1].refused_index, refusal[1].hint_index) == (False, 7, 1)
    again = leader.receive("b", refusal[1])
    assert appends(again) == [("b", 1, 6)]
    assert leader.receive("b", refusal[1]) == [], "an old refusal"
    pump(leader, follower, first=[("a", to, m) for to, m in again])
    assert follower.state.commit_index == 7
    assert leader.state.progress["b"].mode is Mode.REPLICATE


def test_who_cannot_be_reached_is_probed_with_heartbeats() -> None:
    leader = CoreMember("a").lead()
    leader.acknowledge("b", "c")
    leader.feed(ev.Propose(2))
    leader.feed(ev.Unreachable("b"))
    assert leader.state.progress["b"].mode is Mode.PROBE
    assert [e for e in appends(leader.feed(ev.Propose(1))) if e[0] == "b"] == [("b", 1, 3)]
    assert [e for e in appends(leader.feed(ev.Propose(1))) if e[0] == "b"] == []
    leader.feed(ev.Unreachable("b"))
    assert ("b", 1, 0) in appends(leader.tick())
    sent = leader.receive("b", AppendResponse(1, True, 1, leader.state.round))
    assert appends(sent) == [("b", 1, 4)]


def test_idle_followers_hear_of_a_commit_at_once() -> None:
    leader = CoreMember("a").lead()
    leader.acknowledge("b", "c")
    leader.feed(ev.Propose(1))
    sent = leader.acknowledge("b")
    assert [(to, m.commit_index) for to, m in sent if isinstance(m, AppendEntries)] == [("b", 2)]
    sent = leader.acknowledge("c")
    assert [(to, m.commit_index) for to, m in sent if isinstance(m, AppendEntries)] == [("c", 2)]


def test_the_end_of_a_log_that_was_cut_since_is_not_durable() -> None:
    follower = CoreMember("b", term=1, terms=[1], auto_sync=False).follow("a", 1)
    follower.receive("a", AppendEntries(1, 1, 1, 0, 1, entries(2, [1, 1])))
    first = follower.state.written
    follower.receive("c", AppendEntries(2, 1, 1, 0, 1, entries(2, [2])))
    follower.receive("a", AppendEntries(3, 1, 1, 0, 1, entries(2, [1, 1])))
    follower.feed(ev.Persisted(first, 3, 1))
    assert (follower.state.log.last_index, follower.state.durable_index) == (3, 1), "the same index and term again"
    follower.sync()
    assert follower.state.durable_index == 3


def test_a_proposal_is_taken_by_a_leader_alone() -> None:
    follower = CoreMember("b")
    follower.feed(ev.Propose(3))
    assert follower.state.log.last_index == 0
    leader = CoreMember("a").lead()
    leader.feed(ev.Propose(0))
    assert leader.state.log.last_index == 1
