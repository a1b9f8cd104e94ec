"""Snapshots between members, piece by piece (§5)."""

from __future__ import annotations

import pytest

from cloudless.coordinator.raft.core import effects as fx
from cloudless.coordinator.raft.core import events as ev
from cloudless.coordinator.raft.core.messages import AppendEntries, AppendResponse, SnapshotChunk, SnapshotResponse
from cloudless.coordinator.raft.core.model import LogShape, Mode, Role, encode_configuration
from cloudless.testing.raft_core_member import CoreMember, configuration, entries

MEMBERS = encode_configuration(configuration("abcd"))


def behind() -> CoreMember:
    """A leader whose log begins behind what `b` has; `c` has everything."""
    leader = CoreMember("a", term=1, terms=[1] * 20, base_index=100, base_term=1).lead()
    leader.acknowledge("c")
    leader.effects.clear()
    leader.receive(
        "b", AppendResponse(2, False, round=leader.state.round, refused_index=120, hint_index=30, hint_term=1)
    )
    return leader


def asked(leader: CoreMember) -> list[tuple[int, int]]:
    return [(e.index, e.offset) for e in leader.took(fx.SendSnapshot) if isinstance(e, fx.SendSnapshot)]


def test_a_member_that_needs_what_was_compacted_gets_a_snapshot_and_then_entries() -> None:
    leader = behind()
    assert asked(leader) == [(0, 0)]
    assert leader.state.progress["b"].mode is Mode.SNAPSHOT
    for offset in (10, 20):
        leader.receive("b", SnapshotResponse(2, 100, offset, round=leader.state.round))
        assert asked(leader) == [(100, offset)]
    leader.receive("b", SnapshotResponse(2, 100, 20))
    leader.receive("b", SnapshotResponse(2, 99, 15))
    assert asked(leader) == [], "nothing new, and another snapshot"
    sent = leader.receive("b", SnapshotResponse(2, 100, 25, installed=True, round=leader.state.round))
    assert [(to, m.previous_index, len(m.entries)) for to, m in sent if isinstance(m, AppendEntries)] == [
        ("b", 100, 21)
    ]
    leader.receive("b", AppendResponse(2, True, 121, leader.state.round))
    assert (leader.state.progress["b"].mode, leader.state.progress["b"].match_index) == (Mode.REPLICATE, 121)


def test_heartbeats_go_on_meanwhile_and_agree_with_any_log() -> None:
    leader = behind()
    beat = next(m for to, m in leader.tick() if to == "b")
    assert isinstance(beat, AppendEntries)
    assert (beat.previous_index, beat.previous_term) == (0, 0)
    receiver = CoreMember("b", term=1, terms=[1] * 30)
    ((_, answer),) = receiver.receive("a", beat)
    assert isinstance(answer, AppendResponse)
    assert answer.success
    assert receiver.state.commit_index == 0
    leader.receive("b", answer)
    assert leader.state.progress["b"].mode is Mode.SNAPSHOT
    assert leader.state.progress["b"].round == beat.round


def test_a_piece_that_is_not_acknowledged_is_asked_for_again() -> None:
    leader = behind()
    leader.receive("b", SnapshotResponse(2, 100, 10, round=leader.state.round))
    leader.effects.clear()
    ticks = 0
    while not (found := asked(leader)):
        leader.tick()
        for peer in "bc":
            leader.receive(peer, AppendResponse(2, True, 0, leader.state.round))
        ticks += 1
        assert ticks < 30
    assert found == [(100, 10)]


def test_a_receiver_that_lost_it_gets_it_anew_later_and_an_unreachable_one_is_probed() -> None:
    leader = behind()
    leader.receive("b", SnapshotResponse(2, 100, 10, round=leader.state.round))
    leader.effects.clear()
    leader.receive("b", SnapshotResponse(2, 100, 0, round=leader.state.round))
    assert asked(leader) == []
    assert leader.state.progress["b"].snapshot_index == 0
    leader.feed(ev.Unreachable("b"))
    assert leader.state.progress["b"].mode is Mode.PROBE
    leader.tick()
    assert asked(leader) == [(0, 0)]


def test_who_has_what_the_log_still_holds_needs_no_snapshot() -> None:
    leader = behind()
    sent = leader.receive("b", AppendResponse(2, True, 110, leader.state.round))
    assert [(m.previous_index, len(m.entries)) for _, m in sent if isinstance(m, AppendEntries)] == [(110, 11)]


def piece(offset: int, size: int = 4, *, index: int = 50, term: int = 3, last_term: int = 2) -> SnapshotChunk:
    return SnapshotChunk(term, index, last_term, offset, 10, MEMBERS, b"x" * size, 1)


def receiver(terms: list[int] | None = None) -> CoreMember:
    return CoreMember("b", term=3, terms=terms or [1, 1])


def stored(member: CoreMember) -> list[tuple[int, bool]]:
    return [(e.chunk.offset, e.keep_log) for e in member.took(fx.StoreSnapshot) if isinstance(e, fx.StoreSnapshot)]


def test_pieces_are_stored_in_order_acknowledged_and_the_whole_takes_the_logs_place() -> None:
    member = receiver()
    assert member.receive("a", piece(0)) == []
    assert member.state.leader == "a", "a sign of life"
    member.receive("a", piece(0))
    assert stored(member) == [(0, False)], "a repeated one is dropped"
    assert member.feed(ev.SnapshotStored("a", 3, 50, 4)) == [("a", SnapshotResponse(3, 50, 4, False, 1))]
    assert member.receive("a", piece(8, 2)) == [("a", SnapshotResponse(3, 50, 4, False, 1))], "a gap"
    assert member.receive("a", piece(0)) == [("a", SnapshotResponse(3, 50, 4, False, 1))]
    member.receive("a", piece(4))
    member.feed(ev.SnapshotStored("a", 3, 50, 8))
    member.receive("a", piece(8, 2))
    assert stored(member) == [(4, False), (8, False)]
    # While it is installed nothing is appended, and no vote is asked for.
    answer = member.receive("a", AppendEntries(3, 2, 1, 60, 7, entries(3, [3])))
    assert answer == [("a", AppendResponse(3, True, 2, 7))]
    assert member.state.log.last_index == 2
    member.tick()
    assert member.state.role is Role.FOLLOWER
    member.receive("a", AppendEntries(3, 2, 1, 0, 8))
    member.effects.clear()
    answer = member.feed(ev.SnapshotInstalled("a", 50, 2, MEMBERS))
    assert answer == [
        ("a", SnapshotResponse(3, 50, 10, True, 1)),
        ("a", AppendResponse(3, True, 50, 1)),
    ]
    state = member.state
    assert (state.log, state.commit_index, state.snapshot_index) == (LogShape(50, 2, 50), 50, 50)
    assert state.voters == ("a", "b", "c", "d")
    assert member.took(fx.Commit) == [], "it is the shell's state already"
    member.receive("a", AppendEntries(3, 50, 2, 51, 9, entries(51, [3])))
    assert member.state.commit_index == 51


def test_a_log_that_holds_the_snapshots_last_entry_is_kept() -> None:
    member = receiver([1, 1, 2, 2, 2])
    member.receive("a", piece(0, 10, index=4))
    assert stored(member) == [(0, True)]
    member.receive("a", AppendEntries(3, 5, 2, 5, 2, entries(6, [3])))
    assert (member.state.log.last_index, member.state.commit_index) == (6, 5), "it goes on, and overtakes the snapshot"
    member.feed(ev.SnapshotInstalled("a", 4, 2, MEMBERS))
    assert member.state.log == LogShape.of(0, 0, [1, 1, 2, 2, 2, 3])
    assert member.state.commit_index == 5
    member.feed(ev.Compacted(4, 4, 2))
    assert member.state.log == LogShape(3, 2, 6, ((4, 2), (6, 3)))


def test_a_snapshot_that_is_not_needed_is_answered_with_what_is_there() -> None:
    member = receiver([1, 1, 2]).follow("a", 3, commit_index=3)
    assert member.receive("a", piece(0, index=2, last_term=1)) == [
        ("a", SnapshotResponse(3, 2, 10, True, 1)),
        ("a", AppendResponse(3, True, 3, 1)),
    ]
    assert stored(member) == []


def test_a_snapshot_that_could_not_be_stored_is_begun_anew() -> None:
    member = receiver()
    member.receive("a", piece(0, 10))
    assert member.feed(ev.SnapshotStored("a", 3, 50, 0)) == [("a", SnapshotResponse(3, 50, 0, False, 1))]
    assert member.state.receiving is None
    member.receive("a", piece(0))
    assert stored(member) == [(0, False), (0, False)]


def test_another_leaders_snapshot_begins_at_its_first_piece() -> None:
    member = receiver()
    member.receive("a", piece(0))
    member.feed(ev.SnapshotStored("a", 3, 50, 4))
    assert member.receive("c", piece(4, term=4)) == [("c", SnapshotResponse(4, 50, 0, False, 1))]
    assert member.feed(ev.SnapshotStored("a", 3, 50, 4)) == []


@pytest.mark.parametrize("bad", [piece(0, 0), piece(-4), piece(0, 99), piece(9**9)])
def test_pieces_that_no_leader_sends_are_not_stored(bad: SnapshotChunk) -> None:
    member = receiver()
    member.receive("a", bad)
    assert stored(member) == []


def test_a_persist_of_the_log_that_was_replaced_says_nothing() -> None:
    member = CoreMember("b", term=3, terms=[1], auto_sync=False).follow("a", 3)
    member.receive("a", AppendEntries(3, 1, 1, 0, 1, entries(2, [1, 1])))
    old = member.state.written
    member.receive("a", piece(0, 10))
    member.feed(ev.SnapshotInstalled("a", 50, 2, MEMBERS))
    member.receive("a", AppendEntries(3, 50, 2, 50, 2, entries(51, [3])))
    member.feed(ev.Persisted(old, 3, 1))
    assert (member.state.durable_index, member.state.log.last_index) == (50, 51)
    member.sync()
    assert member.state.durable_index == 51


def test_the_log_is_not_compacted_beyond_what_is_committed() -> None:
    member = receiver([1, 1, 2]).follow("a", 3, commit_index=2)
    member.feed(ev.Compacted(9, 8, 7))
    assert member.state.log.base_index == 0
    member.feed(ev.Compacted(3, 2, 1))
    assert member.state.log == LogShape(2, 1, 3, ((3, 2),))
    member.feed(ev.Compacted(2, 1, 1))
    assert (member.state.log.base_index, member.state.snapshot_index) == (2, 8)
