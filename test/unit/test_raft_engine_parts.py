"""What the Raft engine is made of: recent entries, the writer's groups, forwarded proposals, connections."""

import asyncio
import random

import pytest

from cloudless.coordinator.engine import Committed
from cloudless.coordinator.raft import forwarding
from cloudless.coordinator.raft.cache import ENTRY_OVERHEAD_BYTES, RecentEntries
from cloudless.coordinator.raft.connections import INTRODUCTION, STRANGERS_MAX, Connections
from cloudless.coordinator.raft.core.model import Configuration, LogShape, Member, State, Timing
from cloudless.coordinator.raft.forwarding import Forwarding
from cloudless.coordinator.raft.link import ChangeRequest, Forward, Forwarded, ForwardResult
from cloudless.coordinator.raft.measuring import RoundTrips, Slowness
from cloudless.coordinator.raft.proposals import Proposal, Proposals
from cloudless.coordinator.raft.writer import Writer
from cloudless.coordinator.wal.log import Log
from cloudless.coordinator.wal.record import HardState, LogEntry
from cloudless.errors import FailedPrecondition, Unavailable
from cloudless.testing import simloop
from cloudless.testing.raft_engines import LimitedDisk


def entries(first, count, *, term=1, size=10):
    return [LogEntry(index, term, bytes(size)) for index in range(first, first + count)]


# Recent entries


def test_recent_entries_against_a_plain_list():
    rng = random.Random(3)
    cache, log, term = RecentEntries(last_index=0, bytes_max=40 * (10 + ENTRY_OVERHEAD_BYTES)), [], 1
    for _ in range(3000):
        choice = rng.random()
        if choice < 0.6:
            new = entries(len(log) + 1, rng.randint(1, 5), term=term)
            log += new
            cache.extend(new)
        elif choice < 0.7 and log:
            cut = rng.randint(max(1, len(log) - 60), len(log))
            del log[cut - 1 :]
            cache.truncate_from(cut)
            term += 1
        elif choice < 0.8:
            cache.shrink(durable_index=rng.randint(0, len(log)))
        elif log:
            first = rng.randint(max(1, len(log) - 60), len(log))
            last = rng.randint(first, len(log))
            found = cache.slice(first, last, bytes_max=rng.choice((1, 35, 1000)))
            assert list(found) == log[first - 1 : first - 1 + len(found)]
            assert bool(found) == (cache.first_index <= first)
        assert cache.last_index == len(log)
        for index in range(max(1, len(log) - 50), len(log) + 2):
            assert cache.get(index) in (None, *log[index - 1 : index])
            assert (cache.get(index) is not None) == (cache.first_index <= index <= len(log))
    cache.shrink(durable_index=len(log))
    assert cache.size_bytes <= 40 * (10 + ENTRY_OVERHEAD_BYTES)
    cache.reset(last_index=90)
    assert (cache.first_index, cache.last_index, cache.size_bytes) == (91, 90, 0)


def test_what_is_not_on_the_disk_is_never_dropped():
    cache = RecentEntries(last_index=0, bytes_max=100)
    cache.extend(entries(1, 20))
    cache.shrink(durable_index=5)
    assert cache.first_index == 6
    assert cache.get(6) is not None


def test_two_members_that_are_equally_far_share_what_is_sent():
    cache = RecentEntries(last_index=0)
    cache.extend(entries(1, 10))
    assert cache.slice(2, 9, bytes_max=1000) is cache.slice(2, 9, bytes_max=1000)
    cache.truncate_from(5)
    cache.extend(entries(5, 6, term=2))
    assert [entry.term for entry in cache.slice(2, 9, bytes_max=1000)] == [1, 1, 1, 2, 2, 2, 2, 2]


# The writer


class Written:
    """A writer over a real log, and what it told."""

    def __init__(self, directory, *, threads=False):
        self.disk = LimitedDisk()
        self.wal = Log.open(self.disk, directory, segment_bytes=2**20, salt=lambda: 7)
        self.durable, self.full, self.room, self.errors, self.syncs = [], 0, 0, [], 0
        self.gate = asyncio.Event()
        self.tasks = set()
        sync = self.wal.sync

        def counted():
            self.syncs += 1
            sync()

        self.wal.sync = counted
        self.writer = Writer(
            self.wal,
            run_blocking=self.blocking,
            spawn=lambda work: self.tasks.add(asyncio.ensure_future(work)),
            on_durable=lambda *told: self.durable.append(told),
            on_full=self.on_full,
            on_room=self.on_room,
            on_error=self.errors.append,
        )
        if not threads:
            self.gate.set()

    async def blocking(self, work):
        await self.gate.wait()
        return work()

    def on_full(self, error):
        self.full += 1

    def on_room(self):
        self.room += 1

    def put(self, number, new, *, truncate_from=0, hard_state=None):
        self.writer.put(number, truncate_from=truncate_from, hard_state=hard_state, entries=new)


def test_what_came_meanwhile_shares_one_sync_in_order(tmp_path):
    async def main(loop):
        written = Written(tmp_path / "wal", threads=True)
        written.put(1, entries(1, 3), hard_state=HardState(1, "m1"))
        written.writer.flush()
        assert written.writer.busy
        written.put(2, entries(4, 2))
        written.put(3, entries(4, 3, term=2), truncate_from=4, hard_state=HardState(2, ""))
        written.put(4, entries(7, 1, term=2))
        written.writer.flush()
        assert written.writer.written_index == 0
        assert written.durable == []
        written.gate.set()
        while not written.writer.idle:
            await asyncio.sleep(0.001)
        assert written.durable == [(1, 3, 1), (4, 7, 2)]
        assert written.wal.hard_state == HardState(2, "")
        assert [entry.term for entry in written.wal.entries(1, 8)] == [1, 1, 1, 2, 2, 2, 2]
        assert written.syncs == 2
        assert written.writer.written_index == 7

    simloop.run(main)


def test_a_full_disk_keeps_the_order_and_goes_on_by_itself(tmp_path):
    async def main(loop):
        written = Written(tmp_path / "wal")
        written.put(1, entries(1, 1))
        written.writer.flush()
        await asyncio.sleep(0.01)
        written.disk.full = True
        written.put(2, entries(2, 1))
        written.writer.flush()
        await asyncio.sleep(0.01)
        assert written.full == 1
        written.put(3, entries(3, 1))
        ran = []
        written.writer.put_work(lambda: ran.append(written.wal.last_index))
        written.writer.flush()
        await asyncio.sleep(5)
        assert 4 < written.full < 20, "tried again, less and less often"
        assert written.writer.full is not None
        assert [told[0] for told in written.durable] == [1]
        written.disk.full = False
        await asyncio.sleep(1.1)
        assert written.durable == [(1, 1, 1), (3, 3, 1)]
        assert ran == [3]
        assert written.room == 1
        assert written.writer.full is None

    simloop.run(main)


def test_a_disk_that_fails_is_final(tmp_path):
    async def main(loop):
        written = Written(tmp_path / "wal")

        def broken():
            raise Unavailable("the disk failed", reason="DiskFailed")

        written.wal.sync = broken
        written.put(1, entries(1, 1))
        written.writer.flush()
        await asyncio.sleep(0.01)
        written.put(2, entries(2, 1))
        written.writer.flush()
        await asyncio.sleep(5)
        assert [error.reason for error in written.errors] == ["DiskFailed"]
        assert written.durable == []

    simloop.run(main)


# Forwarding


class Pair:
    """Proposals of a follower, and those of its leader, with nothing between them but lists."""

    def __init__(self, loop):
        self.loop = loop
        self.follower = Proposals(seconds=loop.time)
        self.leader = Proposals(seconds=loop.time)
        self.to_leader, self.to_follower = [], []
        self.sending = True
        self.out = Forwarding(self.follower, send=self.send_out, seconds=loop.time, first_id=100)
        self.back = Forwarding(self.leader, send=self.send_back, seconds=loop.time, first_id=1)

    def send_out(self, to, message):
        if self.sending:
            self.to_leader.append(message)
        return self.sending

    def send_back(self, to, message):
        self.to_follower.append(message)
        return True

    def propose(self, data, **kwargs):
        future = self.loop.create_future()
        self.follower.add(Proposal(data, since_s=self.loop.time(), future=future, **kwargs))
        return future

    def commit(self, *, term=1):
        """All that waits on the leader becomes entries, which both apply, the follower afterwards."""
        taken = self.leader.take(entries_max=100, bytes_max=2**20, term=term)
        made = self.leader.appended(taken, first_index=1, term=term)
        for entry in made:
            self.leader.applied(entry, f"leader's {entry.index}")
        return made


def test_a_forwarded_proposal_gets_this_members_own_outcome_whichever_comes_first():
    async def main(loop):
        pair = Pair(loop)
        first, second = pair.propose(b"a"), pair.propose(b"b")
        assert pair.out.forward("m1")
        (message,) = pair.to_leader
        assert message.entries == (b"a", b"b")
        pair.back.received("m2", message, leading=True)
        made = pair.commit()
        (answer,) = pair.to_follower
        pair.follower.applied(made[0], "own 1")
        assert not pair.out.answered("m1", answer, applied_index=1)
        assert first.result() == Committed(1, 1, "own 1")
        assert not second.done()
        pair.follower.applied(made[1], "own 2")
        assert second.result() == Committed(2, 1, "own 2")
        assert pair.follower.held == pair.leader.held == 0

    simloop.run(main)


def test_a_repeated_forward_is_taken_once():
    async def main(loop):
        pair = Pair(loop)
        pair.propose(b"a")
        pair.out.forward("m1")
        for _ in range(3):
            pair.back.received("m2", pair.to_leader[0], leading=True)
        assert len(pair.commit()) == 1
        pair.back.received("m3", pair.to_leader[0], leading=True)  # another member's of the same number
        assert len(pair.commit()) == 1

    simloop.run(main)


def test_what_a_member_that_does_not_lead_sends_back_is_forwarded_again():
    async def main(loop):
        pair = Pair(loop)
        future = pair.propose(b"a")
        pair.out.forward("m1")
        pair.back.received("m2", pair.to_leader[0], leading=False)
        assert pair.out.answered("m1", pair.to_follower[0], applied_index=0)
        assert not future.done()
        pair.out.forward("m3")
        assert pair.to_leader[1].entries == (b"a",)
        assert pair.to_leader[1].id != pair.to_leader[0].id

    simloop.run(main)


def test_a_broken_connection_or_silence_leaves_the_outcome_unknown():
    async def main(loop):
        pair = Pair(loop)
        lost = pair.propose(b"a")
        pair.out.forward("m1")
        pair.out.lost("m3")
        assert not lost.done()
        pair.out.lost("m1")
        moved = pair.propose(b"b")
        pair.out.forward("m1")
        pair.out.leader_is("")  # not known: the old one may still answer
        assert not moved.done()
        pair.out.leader_is("m3")
        silent = pair.propose(b"c")
        pair.out.forward("m3")
        await asyncio.sleep(forwarding.ANSWER_S + 0.1)
        pair.out.sweep()
        for future in (lost, moved, silent):
            with pytest.raises(Unavailable) as caught:
                future.result()
            assert caught.value.reason == "OutcomeUnknown"
        # An answer of then says nothing any more, nor does one of somebody else.
        number = pair.to_leader[-1].id
        assert not pair.out.answered("m3", Forwarded(number, (ForwardResult(1, 1),)), applied_index=0)
        assert pair.follower.held == 0

    simloop.run(main)


def test_an_unreachable_leader_leaves_the_order_as_it_was():
    async def main(loop):
        pair = Pair(loop)
        for data in (b"a", b"b", b"c"):
            pair.propose(data)
        pair.sending = False
        assert not pair.out.forward("m1")
        pair.sending = True
        assert pair.out.forward("m1")
        assert pair.to_leader[0].entries == (b"a", b"b", b"c")

    simloop.run(main)


def test_what_is_for_one_term_is_never_forwarded():
    async def main(loop):
        pair = Pair(loop)
        fenced, free = pair.propose(b"a", fence=3), pair.propose(b"b")
        assert pair.out.forward("m1")
        assert pair.to_leader[0].entries == (b"b",)
        with pytest.raises(FailedPrecondition):
            fenced.result()
        assert not free.done()

    simloop.run(main)


def test_a_forward_that_is_too_much_is_refused_as_a_whole():
    async def main(loop):
        pair = Pair(loop)
        pair.back.received("m2", Forward(1, (b"x" * (17 * 2**20), b"y")), leading=True)
        (answer,) = pair.to_follower
        assert [result.reason for result in answer.results] == ["ProposalQueueFull"] * 2
        assert pair.leader.held == 0

    simloop.run(main)


# Former leaders


def test_an_entry_of_a_later_term_settles_everything_before_it():
    async def main(loop):
        proposals = Proposals(seconds=loop.time)
        futures = []
        for fence in (None, 2, None, None):
            future = loop.create_future()
            futures.append(future)
            proposals.add(Proposal(b"x", since_s=0, future=future, fence=fence))
        taken = proposals.take(entries_max=10, bytes_max=1000, term=2)
        made = proposals.appended(taken, first_index=5, term=2)
        proposals.deposed(leads=False)
        proposals.applied(made[0], "kept")
        assert futures[0].result() == Committed(5, 2, "kept")
        proposals.applied(LogEntry(6, 3, b"\0n"), None)
        with pytest.raises(FailedPrecondition) as caught:
            futures[1].result()
        assert caught.value.reason == "LeadershipLost"
        assert not futures[2].done()
        assert proposals.waiting == 2, "they are proposed again"
        await asyncio.sleep(11)
        proposals.sweep(leading=False)
        with pytest.raises(Unavailable) as refused:
            futures[2].result()
        assert refused.value.reason == "NoLeader"
        assert isinstance(futures[3].exception(), Unavailable)
        assert proposals.held == 0

    simloop.run(main)


# Connections


class Noted:
    def __init__(self):
        self.connected, self.refused, self.sent = [], [], []

    def connect(self, members):
        self.connected.append(dict(members))

    def refuse(self, members):
        self.refused.append(members)

    def send(self, to, message):
        self.sent.append((to, message))
        return True


def state(*configurations, commit_index):
    return State(
        "m1",
        1,
        "",
        LogShape(0, 0, 9, ((1, 1),)),
        configurations[-1],
        Timing(),
        commit_index=commit_index,
        configurations=configurations,
    )


def test_a_removed_member_is_let_go_of_when_that_is_committed():
    m1, m2, m3 = (Member(f"m{i}", f"m{i}:1") for i in (1, 2, 3))
    before, after = Configuration("k", (m1, m2, m3), (), 1), Configuration("k", (m1, m2), ("m3",), 5)
    noted = Noted()
    connections = Connections(noted, member="m1", address="m1:1")
    connections.update(state(before, commit_index=1))
    connections.update(state(before, after, commit_index=4))
    assert noted.connected == [{"m2": "m2:1", "m3": "m3:1"}]
    assert noted.refused == []
    connections.update(state(before, after, commit_index=5))
    assert noted.connected[-1] == {"m2": "m2:1"}
    assert noted.refused == [frozenset({"m3"})]


def test_strangers_that_introduce_themselves_are_answered_a_bounded_number_of_them():
    noted = Noted()
    connections = Connections(noted, member="m1", address="m1:1")
    known = state(Configuration("k", (Member("m1", "m1:1"), Member("m2", "m2:1")), ("bad",), 1), commit_index=1)
    connections.update(known)
    connections.introduced("m2", "elsewhere:1", known)
    connections.introduced("bad", "bad:1", known)
    assert noted.connected == [{"m2": "m2:1"}]
    for number in range(STRANGERS_MAX + 5):
        connections.introduced(f"s{number:02}", f"s{number:02}:1", known)
    assert len(noted.connected[-1]) == 1 + STRANGERS_MAX
    assert "s00" not in noted.connected[-1]
    connections.introduced("s20", "moved:1", known)
    assert noted.connected[-1]["s20"] == "moved:1"


def test_who_hears_nothing_introduces_itself():
    noted = Noted()
    connections = Connections(noted, member="m1", address="m1:1")
    connections.heard_from("m2")
    connections.introduce(["m1", "m2", "m3"])
    assert noted.sent == [("m3", ChangeRequest(0, INTRODUCTION, "m1", "m1:1"))]


# Measuring


def test_slowness_is_a_high_percentile_of_the_newest():
    slowness = Slowness()
    assert slowness.value_ms == 0
    for value in range(1000):
        slowness.add(value)
    assert 985 < slowness.value_ms < 999
    few = Slowness()
    for value in (1, 2, 6000, 3):
        few.add(value)
    assert few.value_ms == 3, "somebody who stood still once"


def test_round_trips_take_one_sample_at_a_time():
    trips = RoundTrips()
    trips.sent("m2", 5, 100.0)
    trips.sent("m2", 6, 150.0)
    trips.answered("m2", 4, 160.0)
    assert trips.slowest_ms(("m2",)) == 0
    trips.answered("m2", 6, 170.0)
    trips.answered("m2", 6, 900.0)
    assert trips.slowest_ms(("m2", "m3")) == 70.0
