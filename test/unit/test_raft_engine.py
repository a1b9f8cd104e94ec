"""The Raft engine's shell: members over real files, a simulated network and virtual time."""

import asyncio
import contextlib

import pytest

from cloudless.coordinator.raft import engine as raft_engine
from cloudless.coordinator.raft import proposals, replication, snapshots
from cloudless.coordinator.wal.log import Log
from cloudless.coordinator.wal.record import LogEntry
from cloudless.errors import DiskFull, FailedPrecondition, InvalidArgument, ResourceExhausted, Unavailable
from cloudless.testing.raft_engines import Members, run


def scenario(test):
    """The test gets `Members`."""

    def wrapped(tmp_path):
        run(tmp_path, test)

    wrapped.__name__ = test.__name__
    wrapped.__doc__ = test.__doc__
    return wrapped


# One member


@scenario
async def test_a_member_alone_leads_when_it_is_open_and_has_applied_its_log(members: Members):
    (only,) = await members.form(1)
    assert only.running.leading
    assert only.led == [True]
    committed = await only.put("a", b"1")
    assert (committed.term, committed.outcome) == (only.running.term, f"outcome of {committed.index}")
    assert await only.running.read_index() >= committed.index
    term = only.running.term
    await only.stop()
    await only.start()
    assert only.host.values == {"a": b"1"}
    assert only.running.leading
    assert only.running.term > term
    assert only.running.cluster_id == "test"


@scenario
async def test_a_member_without_a_configuration_waits_and_never_stands(members: Members):
    learner = members.member("m1")
    engine = await learner.start()
    await asyncio.sleep(5)
    assert engine.status().role == "learner"
    assert engine.term == 0
    with pytest.raises(Unavailable) as caught:
        await learner.put("a")
    assert caught.value.reason == "NoLeader"
    with pytest.raises(Unavailable):
        await engine.read_index()


@scenario
async def test_joining_with_a_log_of_its_own_is_refused(members: Members):
    (only,) = await members.form(1)
    await only.stop()
    (only.directory / "wal").rename(only.directory / "old")
    wal = Log.open(only.filesystem, only.directory / "wal", segment_bytes=4096, salt=lambda: 1)
    wal.append([LogEntry(1, 1, b"of the single engine")])
    wal.close()
    with pytest.raises(FailedPrecondition) as caught:
        await only.start()
    only.engine = None
    assert caught.value.reason == "NotEmpty"


# Three members


@scenario
async def test_writes_on_every_member_are_applied_there_when_they_return(members: Members):
    three = await members.form(3)
    for number, member in enumerate(three * 5):
        committed = await member.put(f"k{number}", b"x")
        assert member.host.values[f"k{number}"] == b"x"
        assert committed.outcome == f"outcome of {committed.index}"
    assert len(await members.converged()) == 15
    for member in three:
        assert [entry.index for entry in member.host.entries] == list(
            range(member.host.entries[0].index, member.host.applied_index + 1)
        )


@scenario
async def test_another_takes_over_when_the_leader_dies_and_nothing_is_lost(members: Members):
    await members.form(3)
    leader = await members.leader()
    await asyncio.gather(*(leader.put(f"a{i}") for i in range(50)))
    leader.crash()
    follower = members.up[0]
    began = asyncio.get_running_loop().time()
    with contextlib.suppress(Unavailable):  # what was on its way to the dead leader
        await follower.put("after")
    await follower.put("after")
    assert asyncio.get_running_loop().time() - began < 1.5
    await leader.start()
    values = await members.converged()
    assert set(values) == {*(f"a{i}" for i in range(50)), "after"}


@scenario
async def test_all_restart_at_once(members: Members):
    three = await members.form(3)
    await asyncio.gather(*(three[i % 3].put(f"a{i}") for i in range(30)))
    for member in three:
        member.crash()
    await asyncio.gather(*(member.start() for member in three))
    assert len(await members.converged()) == 30
    await three[2].put("on")


@scenario
async def test_what_a_cut_off_leader_took_is_lost_for_certain_and_proposed_again(members: Members):
    three = await members.form(3)
    old = await members.leader()
    others = members.others(old)
    term = old.running.term
    members.network.partition((old.name,), tuple(other.name for other in others))
    fenced = asyncio.ensure_future(old.put("fenced", term=term))
    free = asyncio.ensure_future(old.put("free"))
    await members.until(lambda: any(other.running.leading for other in others))
    await members.until(lambda: not old.running.leading)
    assert old.led == [True, False]
    await others[0].put("meanwhile")
    members.network.heal()
    with pytest.raises(FailedPrecondition) as caught:
        await fenced
    assert caught.value.reason == "LeadershipLost"
    assert (await free).term > term
    assert set(await members.converged()) == {"meanwhile", "free"}
    assert sum(entry.data.endswith(b"freev") for entry in three[0].host.entries) == 1


@scenario
async def test_work_of_a_term_is_taken_only_by_who_leads_in_it(members: Members):
    await members.form(3)
    leader = await members.leader()
    term = leader.running.term
    assert (await leader.put("mine", term=term)).term == term
    for member, fence in ((leader, term + 1), (leader, term - 1), (members.others(leader)[0], term)):
        with pytest.raises(FailedPrecondition) as caught:
            await member.put("stale", term=fence)
        assert caught.value.reason == "LeadershipLost"
    await leader.running.transfer()
    with pytest.raises(FailedPrecondition):
        await leader.put("stale", term=term)
    assert set(await members.converged()) == {"mine"}


@scenario
async def test_a_read_on_any_member_sees_what_was_acknowledged_before(members: Members):
    three = await members.form(3)
    for number in range(12):
        committed = await three[number % 3].put("x", str(number).encode())
        for member in three:
            assert await member.running.read_index() >= committed.index
            assert member.host.values["x"] == str(number).encode()


@scenario
async def test_no_read_is_answered_without_a_majority(members: Members):
    await members.form(3)
    leader = await members.leader()
    cut_off, *_ = members.others(leader)
    members.network.partition((cut_off.name,), tuple(member.name for member in members.others(cut_off)))
    await leader.put("new")
    with pytest.raises(Unavailable) as caught:
        await cut_off.running.read_index()
    assert caught.value.reason == "NoLeader"
    with pytest.raises(Unavailable) as caught:
        await cut_off.put("lost")
    assert caught.value.reason == "NoLeader"
    members.network.heal()
    await members.converged()
    assert await cut_off.running.read_index() >= 1


@scenario
async def test_leading_alternates_and_status_agrees(members: Members):
    three = await members.form(3)
    for _ in range(4):
        leader = await members.leader()
        assert await leader.running.transfer() in {member.name for member in three}
        assert not leader.running.leading
    leader = await members.leader()
    for member in three:
        assert all(a != b for a, b in zip(member.led, member.led[1:], strict=False)), member.led
        status = member.running.status()
        assert status.leader == leader.name
        assert {m.id for m in status.members} == {m.name for m in three}
        assert [m.id for m in status.members if m.leader] == [leader.name]
    assert all(m.match_index >= 0 for m in leader.running.status().members)


@scenario
async def test_closing_the_leader_hands_over_first(members: Members):
    await members.form(3)
    leader = await members.leader()
    waiting = [asyncio.ensure_future(leader.put(f"w{i}")) for i in range(20)]
    await asyncio.sleep(0)
    began = asyncio.get_running_loop().time()
    await leader.stop()
    assert asyncio.get_running_loop().time() - began < 0.5
    assert all(isinstance(result, proposals.Committed) for result in await asyncio.gather(*waiting))
    after = await members.leader()
    assert asyncio.get_running_loop().time() - began < 0.5
    assert set(after.host.values) == {f"w{i}" for i in range(20)}
    with pytest.raises(Unavailable) as caught:
        await leader_closed(leader)
    assert caught.value.reason == "StoreClosed"


async def leader_closed(leader):
    engine = await leader.start()
    leader.engine = None
    await engine.close()
    await engine.close()
    await engine.propose(b"x")


# Members come and go


@scenario
async def test_members_are_added_promoted_and_removed_from_any_member(members: Members):
    three = await members.form(3)
    follower = members.others(await members.leader())[0]
    four = members.member("m4")
    await four.start()
    await follower.running.add_learner("m4", "m4:1")
    await follower.running.add_learner("m4", "m4:1")  # it is so already
    await members.until(lambda: "m4" in follower.running.state.voters)  # by itself
    await four.put("here")
    await follower.running.remove("m4")
    await follower.running.remove("m4")
    await members.until(lambda: four.failures)
    assert [failure.reason for failure in four.failures] == ["MemberRemoved"]
    assert "cluster add" in four.failures[0].remedy
    for asked in (four.put("there"), four.running.read_index(), four.running.transfer("m1")):
        with pytest.raises(Unavailable) as gone:  # another member takes it
            await asked
        assert gone.value.reason == "MemberRemoved"
    four.engine = None
    with pytest.raises(FailedPrecondition) as caught:
        await follower.running.add_learner("m4", "m4:1")
    assert caught.value.reason == "MemberIdUsed"
    with pytest.raises(FailedPrecondition) as caught:
        await follower.running.promote("nobody")
    assert caught.value.reason == "UnknownMember"
    assert set(await members.converged()) == {"here"}
    assert len(three[0].running.status().members) == 3


@scenario
async def test_a_leader_can_remove_itself(members: Members):
    await members.form(3)
    leader = await members.leader()
    await leader.put("before")
    follower = members.others(leader)[0]
    writes = [asyncio.ensure_future(each.put(f"{each.name}-{n}")) for n in range(20) for each in (leader, follower)]
    await leader.running.remove(leader.name)
    ended = await asyncio.gather(*writes, return_exceptions=True)
    assert all(isinstance(end, Unavailable) for end in ended if isinstance(end, BaseException)), "each may be repeated"
    assert leader.led[-1] is False
    await members.until(lambda: leader.failures)
    leader.engine = None
    after = await members.leader()
    await after.put("after")
    assert set(await members.converged()) >= {"before", "after"}
    other = members.others(after)[0]
    await after.running.remove(other.name)
    other.engine = None
    with pytest.raises(FailedPrecondition) as caught:
        await after.running.remove(after.name)
    assert caught.value.reason == "LastVoter"


@scenario
async def test_a_member_that_moved_tells_the_others(members: Members):
    await members.form(3)
    follower = members.others(await members.leader())[0]
    await follower.stop()
    follower.address = "elsewhere:2"
    await follower.start()
    leader = await members.leader()
    await members.until(lambda: leader.running.state.configuration.get(follower.name).address == "elsewhere:2")
    assert follower.name in leader.running.state.voters


@scenario
async def test_a_leader_unknown_to_a_lagging_member_is_answered_all_the_same(members: Members):
    """The member that lags has never heard of the leader's address: the leader introduces itself."""
    three = await members.form(3)
    lagging = members.others(await members.leader())[0]
    lagging.crash()
    new = await members.add("m4")
    while await members.leader() is not new:
        with contextlib.suppress(Unavailable):  # as long as it is not connected to those whose votes it needs
            await (await members.leader()).running.transfer("m4")
    third = next(member for member in three if member is not lagging and not member.running.leading)
    await lagging.start()
    await new.put("x")
    third.crash()
    await new.put("needs the one that lagged")
    assert "x" in await members.converged()


# Snapshots


async def fill(member, count, *, size=64):
    for start in range(0, count, 50):
        await asyncio.gather(*(member.put(f"k{i}", bytes(size)) for i in range(start, min(start + 50, count))))


@scenario
async def test_a_member_that_fell_behind_the_log_gets_a_snapshot(members: Members):
    await members.form(3, snapshot_entries=8)
    leader = await members.leader()
    away = members.others(leader)[0]
    await away.stop()
    for _ in range(3):
        await fill(leader, 200)
        await leader.running.save_snapshot(leader.host.snapshot())
    await members.until(lambda: leader.running.status().first_index > 200)
    await away.start(snapshot_entries=8)
    await members.until(lambda: away.host.installed)
    await away.put("after")
    assert len(await members.converged()) == 201
    await away.stop()
    await away.start(snapshot_entries=8)  # from what it installed
    assert len(await members.converged()) == 201


@scenario
async def test_a_new_member_gets_a_snapshot_in_pieces_while_writes_go_on(members: Members):
    await members.form(3, snapshot_entries=8)
    leader = await members.leader()
    await fill(leader, 100, size=20_000)
    await leader.running.save_snapshot(leader.host.snapshot())
    await fill(leader, 100, size=20_000)
    await leader.running.save_snapshot(leader.host.snapshot())
    await members.until(lambda: leader.running.status().first_index > 50)
    four = members.member("m4")
    await four.start(snapshot_entries=8)
    adding = asyncio.ensure_future(leader.running.add_learner("m4", "m4:1"))
    for number in range(100):
        await leader.put(f"meanwhile{number}")
    await adding
    await members.until(lambda: "m4" in four.running.state.voters)
    assert four.host.installed
    assert len(await members.converged()) == 200
    third = members.others(leader)[0]
    third.crash()
    await four.put("with its vote")


@scenario
async def test_a_leader_that_restarted_serves_the_snapshot_it_finds(members: Members):
    (only,) = await members.form(1, snapshot_entries=8)
    for _ in range(2):
        await fill(only, 100)
        await only.running.save_snapshot(only.host.snapshot())
    await only.stop()
    await only.start(snapshot_entries=8)
    await members.until(lambda: only.running.status().first_index > 50)
    two = await members.add("m2", snapshot_entries=8)
    assert two.host.installed
    assert len(await members.converged()) == 100


@scenario
async def test_followers_that_are_a_little_behind_get_entries(members: Members):
    await members.form(3)
    leader = await members.leader()
    away = members.others(leader)[0]
    away.crash()
    await fill(leader, 300)
    await leader.running.save_snapshot(leader.host.snapshot())
    await fill(leader, 300)
    await leader.running.save_snapshot(leader.host.snapshot())
    await away.start()
    assert len(await members.converged()) == 300
    assert not away.host.installed


# Disks


@scenario
async def test_a_full_disk_refuses_before_anything_is_accepted_and_takes_writes_again(members: Members):
    (only,) = await members.form(1)
    await only.put("before")
    last = only.running.state.log.last_index
    only.filesystem.told_free = 100
    for _ in range(3):
        with pytest.raises(DiskFull):
            await only.put("refused")
    assert only.running.state.log.last_index == last
    only.filesystem.told_free = None
    await only.put("after")
    assert set(await members.converged()) == {"before", "after"}


@scenario
async def test_a_disk_that_is_full_without_saying_so_loses_nothing_and_goes_on(members: Members):
    (only,) = await members.form(1)
    await only.put("before")
    only.filesystem.full = True
    with pytest.raises(Unavailable) as caught:
        await only.put("unknown")
    assert caught.value.reason == "OutcomeUnknown"
    with pytest.raises(DiskFull):
        await only.put("refused")
    assert await only.running.read_index() >= 1
    only.filesystem.full = False
    await members.until(lambda: "unknown" in only.host.values)
    await only.put("after")
    assert set(await members.converged()) == {"before", "unknown", "after"}
    assert not only.failures


@scenario
async def test_a_leader_with_a_full_disk_hands_over(members: Members):
    await members.form(3)
    leader = await members.leader()
    leader.filesystem.full = True
    await asyncio.gather(leader.put("x"), return_exceptions=True)
    others = members.others(leader)
    await members.until(lambda: any(other.running.leading for other in others))
    await others[0].put("elsewhere")
    leader.filesystem.full = False
    await leader.put("here")
    assert {"elsewhere", "here"} <= set(await members.converged())


@scenario
async def test_what_is_proposed_to_a_leader_without_room_goes_to_the_next_one(members: Members):
    await members.form(3)
    leader = await members.leader()
    leader.filesystem.told_free = 100
    await asyncio.gather(*(leader.put(f"n{number}") for number in range(20)))
    assert not leader.running.leading
    await members.until(lambda: any(other.running.leading for other in members.others(leader)))
    leader.filesystem.told_free = None
    assert len(await members.converged()) == 20


@scenario
async def test_where_nobody_has_room_nothing_is_accepted_until_there_is(members: Members):
    await members.form(3)
    leader = await members.leader()
    await leader.put("before")
    every = [leader, *members.others(leader)]
    for member in every:
        member.filesystem.told_free = 100
    answers = await asyncio.gather(*(leader.put(f"n{number}") for number in range(5)), return_exceptions=True)
    assert all(isinstance(answer, DiskFull | Unavailable) for answer in answers), answers
    for member in every:
        member.filesystem.told_free = None
    await members.until(lambda: any(member.running.leading for member in every))
    await leader.put("after")
    assert {"before", "after"} <= set(await members.converged())


@scenario
async def test_questions_of_two_lives_never_have_the_same_id(members: Members):
    """What the core asks a leader with: an answer to a former life may still be under way."""
    await members.form(3)
    follower = members.others(await members.leader())[0]
    asked = []
    for _ in range(2):
        first = follower.running.state.read_serial
        await follower.running.read_index()
        last = follower.running.state.read_serial
        assert last > first, "the question went to the leader"
        asked.append(range(first, last + 1000))
        follower.crash()
        await follower.start()
    assert not set(asked[0]) & set(asked[1])


@scenario
async def test_a_follower_with_a_full_disk_holds_up_nobody_and_catches_up(members: Members):
    await members.form(3)
    leader = await members.leader()
    follower = members.others(leader)[0]
    follower.filesystem.full = True
    await fill(leader, 100)
    durable = follower.running.state.durable_index
    assert durable < leader.running.state.commit_index
    follower.filesystem.full = False
    assert len(await members.converged()) == 100


@scenario
async def test_a_disk_that_fails_ends_this_member_only(members: Members):
    await members.form(3)
    leader = await members.leader()
    follower = members.others(leader)[0]

    def broken(*_):
        raise OSError(5, "Input/output error")

    follower.running._storage.wal._file.sync = broken
    await asyncio.gather(leader.put("x"), return_exceptions=True)
    await members.until(lambda: follower.failures)
    assert [failure.reason for failure in follower.failures] == ["DiskFailed"]
    with pytest.raises(Unavailable):
        await follower.put("y")
    assert follower.running.failure is follower.failures[0]
    follower.crash()
    await leader.put("on")
    await follower.start()
    assert "on" in await members.converged()


@scenario
async def test_an_apply_that_raises_ends_the_member_loudly(members: Members):
    (only,) = await members.form(1)

    def bug(entry):
        raise ZeroDivisionError("a bug")

    only.host.apply = bug
    only.running._driver.applying._host.apply = bug
    with pytest.raises(Exception, match="a bug"):
        await only.put("x")
    assert only.failures[0].code == "internal"
    assert only.led == [True, False]


# Bounds


@scenario
async def test_what_waits_is_bounded(members: Members):
    await members.form(3)
    leader = await members.leader()
    with pytest.raises(InvalidArgument):
        await leader.running.propose(b"x" * (proposals.ENTRY_BYTES_MAX + 1))
    before, proposals.QUEUE_ENTRIES_MAX = proposals.QUEUE_ENTRIES_MAX, 10
    try:
        results = await asyncio.gather(*(leader.put(f"k{i}") for i in range(30)), return_exceptions=True)
    finally:
        proposals.QUEUE_ENTRIES_MAX = before
    assert sum(isinstance(result, ResourceExhausted) for result in results) == 20
    assert len(await members.converged()) == 10


@scenario
async def test_followers_far_behind_are_read_to_from_the_log(members: Members):
    await members.form(3)
    leader = await members.leader()
    leader.running._driver.cache._bytes_max = 4_000
    away = members.others(leader)[0]
    away.crash()
    await fill(leader, 500)
    assert leader.running._driver.cache.first_index > 400
    await away.start()
    await leader.put("on")
    assert len(await members.converged()) == 501
    assert not away.host.installed


@scenario
async def test_a_large_entry_goes_everywhere(members: Members):
    three = await members.form(3)
    for number, member in enumerate(three):
        await member.put(f"large{number}", bytes(3 * replication.MESSAGE_BYTES_MAX))
    assert len(await members.converged()) == 3


def test_pieces_of_snapshots_fit_into_messages():
    assert snapshots.PIECE_BYTES <= replication.MESSAGE_BYTES_MAX
    assert raft_engine.TRANSFER_S < proposals.PATIENCE_S
