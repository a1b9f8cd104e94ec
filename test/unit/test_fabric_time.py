"""One time for deadlines, whichever coordinator leads and whatever its wall clock does."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Iterable
from typing import Any

import pytest
from immutables import Map

from cloudless.coordinator.core.fabric_time import FAR_MS, LEADER_ACTOR, SLEW, FabricTime, is_leaders
from cloudless.core.model import Event
from cloudless.testing.engines import KINDS, Cluster, conformance
from cloudless.testing.ledger import LedgerMachine, Put

EPOCH_MS = 1_800_000_000_000
MINUTE = 60_000


class Member:
    """A FabricTime with clocks that the test moves."""

    def __init__(self, skew_ms: int = 0) -> None:
        self.time = FabricTime()
        self.skew_ms = skew_ms
        self.true_ms = 0

    @property
    def clocks(self) -> dict[str, int]:
        return {"wall_ms": EPOCH_MS + self.true_ms + self.skew_ms, "monotonic_ms": 77 + self.true_ms}

    def now(self) -> int:
        return self.time.now_ms(**self.clocks) - EPOCH_MS

    def heard(self, time_ms: int, *, following: bool = True) -> None:
        self.time.heard(EPOCH_MS + time_ms, following=following, **self.clocks)


def test_without_news_it_is_the_wall_clock() -> None:
    member = Member(skew_ms=1234)
    for step in (0, 1, 999, 0, 50_000, 86_400_000):
        member.true_ms += step
        assert member.now() == member.true_ms + 1234


@pytest.mark.parametrize("jump_ms", [-4 * MINUTE, -5_000, 5_000, 4 * MINUTE, FAR_MS])
@pytest.mark.parametrize("step_ms", [1, 7, 1_000, 60_000])
def test_a_wall_clock_that_jumps_is_neared_by_a_tenth_of_the_time_that_passes(jump_ms: int, step_ms: int) -> None:
    member = Member()
    member.now()
    member.skew_ms = jump_ms
    before, began = member.now(), member.true_ms
    assert abs(before) <= 1
    for _ in range(300):
        member.true_ms += step_ms
        now = member.now()
        assert now >= before, "it never goes back"
        assert abs((now - before) - step_ms) <= step_ms // SLEW + 1
        before = now
        passed = member.true_ms - began
        expected = min(passed // SLEW, abs(jump_ms)) * (1 if jump_ms > 0 else -1)
        assert abs(now - member.true_ms - expected) <= 1


@pytest.mark.parametrize("jump_ms", [-FAR_MS - 1, FAR_MS + 1, 86_400_000])
def test_a_jump_beyond_the_bound_is_followed_at_once(jump_ms: int) -> None:
    member = Member()
    member.now()
    member.skew_ms = jump_ms
    assert member.now() == jump_ms


def test_what_a_leader_wrote_is_never_ahead() -> None:
    for following in (True, False):
        member = Member()
        member.heard(90_000, following=following)
        assert member.now() == 90_000
        member.true_ms += 10_000
        assert member.now() == 99_000  # ten seconds on, and one back to the own clock


def test_a_leader_that_is_behind_is_believed_when_heard_twice_the_same() -> None:
    member = Member(skew_ms=4 * MINUTE)
    member.heard(0)
    assert member.now() == 4 * MINUTE
    member.true_ms += 100
    member.heard(100)  # of one go
    assert member.now() == 4 * MINUTE + 100
    member.true_ms += 5_000
    member.heard(5_050)
    assert member.now() == 5_050


def test_old_entries_that_are_caught_up_with_set_nothing_back() -> None:
    member = Member()
    member.true_ms = 5 * MINUTE
    for written in range(0, 5 * MINUTE, 3_000):  # a log of five minutes, in one second
        member.heard(written)
        member.true_ms += 10
    assert member.now() == member.true_ms
    own = Member(skew_ms=2 * MINUTE)  # nor what is replayed or written by itself
    for second in range(20):
        own.true_ms = second * 1000
        own.heard(second * 1000, following=False)
        assert own.now() == second * 1000 + 2 * MINUTE


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_mad_clock_drags_nobody_along_and_freezes_nothing(sign: int) -> None:
    member = Member()
    for second in range(60):
        member.true_ms = second * 1000
        member.heard(member.true_ms + sign * (FAR_MS + 1))
        assert member.now() == member.true_ms


def test_whose_time_is_heard() -> None:
    assert is_leaders(Event(actor="system/reconciler", type="replica.created"))
    assert is_leaders(Event(actor="coordinator/c1", type="node.unreachable"))
    assert not is_leaders(Event(actor="user/alice", type="workload.created"))
    assert not is_leaders(Event(actor="coordinator/c2", type="node.ready"))
    assert not is_leaders(Event(actor="system/bootstrap", type="user.put"))


class TellingLedger(LedgerMachine):
    """Each entry is an event; the state remembers the newest in a value of its own, so that snapshots have it."""

    def apply(self, state: Any, data: bytes, *, index: int, term: int) -> Any:
        _, _, _, actor, issued_at_ms = json.loads(data)
        applied = super().apply(state, data, index=index, term=term)
        after = applied.state
        if actor == LEADER_ACTOR:
            after = dataclasses.replace(after, values=Map(after.values).set("leader_ms", issued_at_ms))
        event = Event(index=index, actor=actor, time_ms=issued_at_ms)
        return dataclasses.replace(applied, state=after, events=(event,))

    def events(self, state: Any) -> Iterable[Event]:
        yield Event(actor="user/test", time_ms=EPOCH_MS + 10 * 86_400_000)
        if "leader_ms" in state.values:
            yield Event(actor=LEADER_ACTOR, time_ms=state.values["leader_ms"])


RAFT = next(kind for kind in KINDS if kind.name == "raft-3")


@pytest.mark.parametrize("skew_ms", [-4 * MINUTE, -20_000, 0, 20_000, 4 * MINUTE])
def test_the_next_leader_goes_on_in_the_time_of_the_one_before(tmp_path, skew_ms: int) -> None:
    async def scenario(cluster: Cluster) -> None:
        cluster.machine = TellingLedger
        cluster.clocks["c1"].skew_ms = skew_ms  # type: ignore[attr-defined]
        leader = await cluster.start()
        assert leader is cluster.stores["c1"]
        for number in range(10):
            await leader.propose(Put("plan", number), actor=LEADER_ACTOR, term=leader.term)
            # what others write, by clocks of their own, is nobody's time
            await cluster.stores["c2"].propose(Put("web", number), actor="user/a", now_ms=EPOCH_MS + 9 * MINUTE)
            await asyncio.sleep(2)
        written_ms = leader.now_ms()
        cluster.crash("c1")
        began = asyncio.get_running_loop().time()
        after = await cluster.leader()
        passed_ms = (asyncio.get_running_loop().time() - began) * 1000
        assert abs(after.now_ms() - written_ms - passed_ms) <= 2_000
        index = (await after.propose(Put("plan", 99), actor=LEADER_ACTOR, term=after.term)).revision
        assert index
        assert abs(after.snapshot.state.values["leader_ms"] - written_ms - passed_ms) <= 2_000

    conformance(RAFT, scenario, tmp_path)


@pytest.mark.parametrize("snapshot_entries", [4, 1000], ids=["from a snapshot", "from the log"])
def test_after_a_restart_nothing_that_was_written_lies_ahead(tmp_path, snapshot_entries: int) -> None:
    kind = next(kind for kind in KINDS if kind.name == "single")

    async def scenario(cluster: Cluster) -> None:
        cluster.machine = TellingLedger
        clock: Any = cluster.clocks["c1"]
        clock.skew_ms = 5 * MINUTE
        store = await cluster.start(snapshot_entries=snapshot_entries)
        for number in range(20):
            await store.propose(Put("plan", number), actor=LEADER_ACTOR)
        written_ms = store.now_ms()
        await cluster.stop()
        clock.skew_ms = 0
        store = await cluster.start()
        assert store.now_ms() >= written_ms - 1_000
        await cluster.stop()
        clock.skew_ms = -FAR_MS
        store = await cluster.start()
        assert store.now_ms() == clock.now_ms()

    conformance(kind, scenario, tmp_path)
