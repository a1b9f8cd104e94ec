"""The reconcile loop over a real store. Virtual time where time matters, real time where blocking does."""

import asyncio
import dataclasses
import itertools
import random
from pathlib import Path

import pytest

from cloudless.clock import SystemClock
from cloudless.coordinator import feed, loops
from cloudless.coordinator.loops import ReconcileLoop
from cloudless.coordinator.store import Store
from cloudless.errors import FailedPrecondition, Unavailable
from cloudless.testing import simloop
from cloudless.testing.disk import SimDisk
from cloudless.testing.ledger import LedgerMachine, Put

WANTED = 5


@dataclasses.dataclass(frozen=True)
class Plan:
    commands: tuple = ()
    wake_at_ms: int | None = None


def to_wanted(state, key, now_ms, seed):
    """Brings every value to WANTED, one step at a time."""
    value = state.values.get(key, WANTED)
    return Plan((Put(key, value + 1),)) if value < WANTED else Plan()


class Fixture:
    """A store and one loop on a virtual event loop; records every reconcile."""

    def __init__(self, loop):
        self.clock = simloop.SimClock(loop)
        self.disk = SimDisk(1, base=loop.time)
        self.calls: list[tuple[float, str, int]] = []
        self.started_at = loop.time()

    async def open(self) -> Store:
        self.store = await Store.open(
            Path("/data"),
            machine=LedgerMachine(),
            clock=self.clock,
            filesystem=self.disk,
            run_blocking=self.disk.run_blocking,
            seconds=self.disk.seconds,
            random_bits=random.Random(1).getrandbits,
        )
        return self.store

    def loop(self, reconcile=to_wanted, **more) -> ReconcileLoop:
        def recorded(state, key, now_ms, seed):
            self.calls.append((asyncio.get_running_loop().time(), key, seed))
            return reconcile(state, key, now_ms, seed)

        return ReconcileLoop(
            self.store,
            name="test",
            dirty=lambda batch: sorted({change.key for change in batch.changes}),
            all_keys=lambda state: sorted(state.values),  # else in the order of hashes, which differ from run to run
            reconcile=recorded,
            rng=random.Random(7),
            actor="system/test",
            seconds=self.disk.seconds,
            **more,
        )

    async def put(self, name, value):
        return await self.store.propose(Put(name, value), actor="user/test")

    async def until(self, condition):
        watch = self.store.watch()
        while not condition(self.store.snapshot.state):
            await asyncio.wait_for(anext(watch), 300)
        watch.close()


def simulate(scenario):
    async def main(loop):
        fixture = Fixture(loop)
        await fixture.open()
        await scenario(fixture)
        await fixture.store.close()

    simloop.run(main, limit_s=7200)


def all_wanted(state):
    return all(value == WANTED for value in state.values.values())


def test_it_converges_from_what_is_there_and_from_what_comes():
    async def scenario(f):
        await f.put("before", 1)
        loop = f.loop()
        loop.start()
        await f.until(all_wanted)
        await f.put("later", 2)
        await f.until(all_wanted)
        assert dict(f.store.snapshot.state.values) == {"before": WANTED, "later": WANTED}
        await loop.stop()
        await loop.stop()

    simulate(scenario)


def test_a_settled_key_is_left_alone_and_bursts_are_coalesced():
    async def scenario(f):
        loop = f.loop(lambda *_: Plan())
        loop.start()
        await asyncio.gather(*(f.put("x", i) for i in range(100)))
        await asyncio.sleep(60)
        assert 1 <= len(f.calls) <= 5
        await loop.stop()

    simulate(scenario)


def test_commands_carry_the_index_that_they_were_planned_on():
    async def scenario(f):
        planned = []

        def reconcile(state, key, now_ms, seed):
            planned.append(f.store.snapshot.index)
            return Plan((Put("seen", 1),)) if state.values.get("seen") is None else Plan()

        proposed = []
        propose = f.store.propose

        async def record(command, **kwargs):
            proposed.append((command.planned_at_index, kwargs["actor"]))
            return await propose(command, **kwargs)

        for name in "abc":
            await f.put(name, 1)
        f.store.propose = record
        loop = f.loop(reconcile, concurrency=1)
        loop.start()
        await f.until(lambda state: "seen" in state.values)
        assert proposed[0] == (3, "system/test")
        await loop.stop()

    simulate(scenario)


def test_a_deadline_wakes_it():
    async def scenario(f):
        due = f.clock.now_ms() + 45_000

        def reconcile(state, key, now_ms, seed):
            if state.values[key] == 9:
                return Plan()
            return Plan((Put(key, 9),)) if now_ms >= due else Plan(wake_at_ms=due)

        await f.put("x", 1)
        loop = f.loop(reconcile)
        loop.start()
        await f.until(lambda state: state.values["x"] == 9)
        assert [round(at, 1) for at, _, _ in f.calls[:2]] == [0.0, 45.0]
        assert len(f.calls) <= 3
        await loop.stop()

    simulate(scenario)


def test_a_far_deadline_survives_a_clock_jump_and_a_past_one_does_not_spin():
    async def scenario(f):
        deadline = f.clock.now_ms() + 3_600_000

        def reconcile(state, key, now_ms, seed):
            if key == "past":
                return Plan(wake_at_ms=now_ms - 5)
            return (
                Plan((Put("far", 2),)) if now_ms >= deadline and state.values["far"] == 1 else Plan(wake_at_ms=deadline)
            )

        await f.put("far", 1)
        await f.put("past", 1)
        loop = f.loop(reconcile)
        loop.start()
        await asyncio.sleep(1)
        assert len([1 for _, key, _ in f.calls if key == "past"]) <= 1000 / loops.WAKE_MS_MIN + 2
        f.clock.skew_ms = 3_600_000
        await f.until(lambda state: state.values["far"] == 2)
        assert asyncio.get_running_loop().time() < 65
        await loop.stop()

    simulate(scenario)


@pytest.mark.parametrize("jump_ms", [-240_000, 240_000])
def test_a_wall_clock_that_jumps_by_minutes_makes_no_deadline_much_earlier_or_later(jump_ms):
    async def scenario(f):
        due = f.store.now_ms() + 100_000

        def reconcile(state, key, now_ms, seed):
            if state.values[key] == 9:
                return Plan()
            return Plan((Put(key, 9),)) if now_ms >= due else Plan(wake_at_ms=due)

        await f.put("x", 1)
        loop = f.loop(reconcile)
        loop.start()
        await asyncio.sleep(10)
        f.clock.skew_ms = jump_ms
        await f.until(lambda state: state.values["x"] == 9)
        assert 90 <= asyncio.get_running_loop().time() <= 112
        await loop.stop()

    simulate(scenario)


def test_a_refused_plan_is_repeated_with_growing_jittered_pauses():
    async def scenario(f):
        def refused(state, key, now_ms, seed):
            return Plan((Put(key, -1),)) if len(f.calls) < 7 else Plan()

        await f.put("x", 1)
        loop = f.loop(refused)
        loop.start()
        await asyncio.sleep(100)
        times = [at for at, _, _ in f.calls]
        pauses = [b - a for a, b in itertools.pairwise(times)]
        assert len(times) == 7
        for n, pause in enumerate(pauses):
            ceiling = loops.BACKOFF_MS_MIN / 1000 * 2**n
            assert ceiling * 0.49 <= pause <= ceiling * 1.01
        await loop.stop()

    simulate(scenario)


def test_a_bug_in_a_reconcile_does_not_stop_the_other_keys():
    async def scenario(f):
        def broken_for_one(state, key, now_ms, seed):
            if key == "bad" and len(f.calls) < 10:
                raise KeyError("oops")
            return to_wanted(state, key, now_ms, seed)

        for name in ("bad", "good1", "good2"):
            await f.put(name, 1)
        loop = f.loop(broken_for_one)
        loop.start()
        await f.until(all_wanted)
        await loop.stop()

    simulate(scenario)


def test_a_bug_in_what_a_commit_concerns_is_survived():
    async def scenario(f):
        loop = f.loop()
        dirty = loop._dirty_of
        bugs = []

        def sometimes(batch):
            if not bugs:
                bugs.append(batch)
                raise TypeError("oops")
            return dirty(batch)

        loop._dirty_of = sometimes
        loop.start()
        await asyncio.sleep(1)
        await f.put("x", 1)
        await f.until(all_wanted)
        await f.put("y", 1)
        await f.until(all_wanted)
        await loop.stop()

    simulate(scenario)


def test_a_full_disk_is_waited_out():
    async def scenario(f):
        await f.put("x", 1)
        f.disk.capacity_bytes = f.disk.used_bytes()
        loop = f.loop()
        loop.start()
        await asyncio.sleep(20)
        assert f.store.snapshot.state.values["x"] == 1
        assert len(f.calls) < 12
        f.disk.capacity_bytes = None
        await f.until(all_wanted)
        await loop.stop()

    simulate(scenario)


def test_a_plan_that_changes_nothing_backs_off():
    async def scenario(f):
        apply = LedgerMachine.apply

        def unchanged(self, state, data, *, index, term):
            applied = apply(self, state, data, index=index, term=term)
            result = dataclasses.replace(applied.result, changed="unchanged")
            return dataclasses.replace(applied, result=result, changes=())

        await f.put("x", 1)
        f.store._machine.apply = unchanged.__get__(f.store._machine)
        loop = f.loop(lambda state, key, *_: Plan((Put(key, 1),)))
        loop.start()
        await asyncio.sleep(60)
        assert len(f.calls) < 15
        await loop.stop()

    simulate(scenario)


def test_a_plan_that_never_settles_is_slowed_down(monkeypatch):
    monkeypatch.setattr(loops, "UNSETTLED_PLANS", 20)

    async def scenario(f):
        await f.put("x", 1)
        loop = f.loop(lambda state, key, *_: Plan((Put(key, state.values[key] + 1),)))
        loop.start()
        await asyncio.sleep(300)
        assert loops.UNSETTLED_PLANS <= len(f.calls) < loops.UNSETTLED_PLANS * 2 + 40
        await loop.stop()

    simulate(scenario)


def test_it_lists_again_when_it_lagged(monkeypatch):
    async def scenario(f):
        monkeypatch.setattr(feed, "WATCH_BATCHES", 5)
        loop = f.loop()
        loop.start()
        await asyncio.gather(*(f.put(f"n{i}", 0) for i in range(200)))
        await f_until_settled(f)
        await loop.stop()

    async def f_until_settled(f):
        for _ in range(1000):
            if len(f.store.snapshot.state.values) == 200 and all_wanted(f.store.snapshot.state):
                return
            await asyncio.sleep(0.1)
        raise AssertionError(dict(f.store.snapshot.state.values))

    simulate(scenario)


def test_leadership_starts_and_stops_it_at_once():
    async def scenario(f):
        await f.put("x", 1)
        loop = f.loop(lambda state, key, now_ms, seed: Plan(wake_at_ms=now_ms + 1000))
        loop.mark("x")
        await asyncio.sleep(5)
        assert f.calls == []
        loop.set_leading(True)
        await asyncio.sleep(2.5)
        assert len(f.calls) == 3
        loop.set_leading(False)
        await f.put("x", 2)
        loop.mark("x")
        await asyncio.sleep(10)
        assert len(f.calls) == 3
        loop.set_leading(True)
        loop.set_leading(False)
        loop.set_leading(True)
        await asyncio.sleep(0.5)
        assert len(f.calls) == 4
        await loop.stop()
        loop.set_leading(True)
        await asyncio.sleep(10)
        assert len(f.calls) == 4

    simulate(scenario)


def test_marks_from_outside():
    async def scenario(f):
        for name in ("a", "b"):
            await f.put(name, 1)
        loop = f.loop(lambda *_: Plan())
        loop.start()
        await asyncio.sleep(1)
        loop.mark("elsewhere")
        await asyncio.sleep(1)
        assert [key for _, key, _ in f.calls] == ["a", "b", "elsewhere"]
        assert len({seed for _, _, seed in f.calls}) == 3
        await loop.stop()

    simulate(scenario)


def test_plans_under_way_are_bounded_and_one_per_key():
    async def scenario(f):
        f.disk.sync_delay_s = lambda _: 0.05
        under_way: list[str] = []
        most = 0
        propose = f.store.propose

        async def tracked(command, **kwargs):
            nonlocal most
            if kwargs["actor"] == "system/test":
                assert command.name not in under_way
                under_way.append(command.name)
                most = max(most, len(under_way))
            try:
                return await propose(command, **kwargs)
            finally:
                if kwargs["actor"] == "system/test":
                    under_way.remove(command.name)

        await asyncio.gather(*(f.put(f"n{i}", 0) for i in range(30)))
        f.store.propose = tracked
        loop = f.loop(concurrency=3)
        loop.start()
        for i in range(20):
            await f.put(f"n{i}", 1)
        await f.until(all_wanted)
        assert most == 3
        await loop.stop()

    simulate(scenario)


def test_the_same_seed_gives_the_same_run():
    runs = []

    async def scenario(f):
        f.disk.sync_delay_s = lambda r: r.uniform(0, 0.02)
        await asyncio.gather(*(f.put(f"n{i}", i % 4) for i in range(40)))
        loop = f.loop()
        loop.start()
        await f.until(all_wanted)
        runs.append((f.calls, f.store.snapshot.index, LedgerMachine().state_hash(f.store.snapshot.state)))
        await loop.stop()

    simulate(scenario)
    simulate(scenario)
    assert runs[0] == runs[1]


@pytest.mark.parametrize("value", [0, WANTED], ids=["all to change", "nothing to change"])
async def test_a_thousand_dirty_keys_do_not_hold_the_event_loop(tmp_path, value):
    """The most work, in plans made and entries applied, that is done between two turns of another task. Counted and
    not timed: a machine that stalls proves nothing about the loop."""
    work = 0

    class CountingMachine(LedgerMachine):
        def apply(self, *args, **kwargs):
            nonlocal work
            work += 1
            return super().apply(*args, **kwargs)

    store = await Store.open(tmp_path / "data", machine=CountingMachine(), clock=SystemClock())
    await asyncio.gather(*(store.propose(Put(f"n{i}", value), actor="user/test") for i in range(1000)))
    planned: set[str] = set()
    everything_planned = asyncio.Event()

    def counted(state, key, now_ms, seed):
        nonlocal work
        work += 1
        planned.add(key)
        if len(planned) == 1000:
            everything_planned.set()
        return Plan((Put(key, WANTED),)) if state.values[key] != WANTED else Plan()

    turns: list[int] = []

    async def heartbeat():
        last = work
        while True:
            await asyncio.sleep(0)
            turns.append(work - last)
            last = work

    pulse = asyncio.ensure_future(heartbeat())
    loop = ReconcileLoop(
        store,
        name="test",
        dirty=lambda batch: {change.key for change in batch.changes},
        all_keys=lambda state: state.values,
        reconcile=counted,
        rng=random.Random(1),
        actor="system/test",
    )
    watch = store.watch()
    work = 0
    loop.start()
    await everything_planned.wait()
    while not all_wanted(store.snapshot.state):
        await anext(watch)
    pulse.cancel()
    await loop.stop()
    await store.close()
    assert sum(turns) >= (1000 if value == WANTED else 2000), "a plan for each key, and an entry where it changes"
    assert max(turns) <= 10, f"{max(turns)} pieces of work in one turn"
    assert len(turns) >= 1000 + (value != WANTED)


async def test_it_ends_quietly_when_the_store_closes(tmp_path):
    store = await Store.open(tmp_path / "data", machine=LedgerMachine(), clock=SystemClock())
    loop = ReconcileLoop(
        store,
        name="test",
        dirty=lambda batch: (),
        all_keys=lambda state: (),
        reconcile=to_wanted,
        rng=random.Random(1),
        actor="system/test",
    )
    loop.start()
    await asyncio.sleep(0)
    await store.close()
    with pytest.raises(Unavailable):
        await store.propose(Put("x", 1), actor="user/test")
    await loop.stop()


def test_a_stale_leaders_plans_carry_its_term_and_are_given_up_quietly():
    async def scenario(f):
        await f.put("a", 1)
        await f.put("b", 1)
        proposed = []
        propose = f.store.propose

        async def refused(command, *, term, **rest):
            proposed.append(term)
            raise FailedPrecondition("it leads no more", reason="LeadershipLost")

        f.store.propose = refused
        loop = f.loop()
        loop.start()
        await asyncio.sleep(300)
        assert proposed == [f.store.term] * 2  # once for each key, and never again
        loop.set_leading(False)
        f.store.propose = propose
        await asyncio.sleep(60)
        assert len(f.calls) == 2
        loop.set_leading(True)  # the next term looks at every key
        await f.until(all_wanted)
        await loop.stop()

    simulate(scenario)
