"""The store on virtual time and a simulated disk, with power cuts inside any operation."""

import asyncio
import contextlib
import random
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from cloudless.config import StoreConfig
from cloudless.coordinator.store import Store
from cloudless.coordinator.wal.inspect import inspect
from cloudless.errors import CloudlessError, Conflict, DiskFull
from cloudless.testing import simloop
from cloudless.testing.disk import PowerCut, SimDisk
from cloudless.testing.ledger import LedgerMachine, Put

DIR = Path("/data")
CONFIG = StoreConfig(segment_bytes=3000, snapshot_entries=15)

rounds = st.lists(
    st.tuples(
        st.integers(1, 25),  # writes
        st.integers(1, 9),  # callers
        st.one_of(st.none(), st.integers(1, 60)),  # power is cut at this operation of the disk
        st.sampled_from(["cut", "kill", "close", "full"]),  # how the round ends, when it was not cut
    ),
    min_size=1,
    max_size=5,
)


class Run:
    """One fabric's store over several lives. `acknowledged`: request id -> index."""

    def __init__(self, loop: simloop.SimLoop, seed: int) -> None:
        self.loop = loop
        self.clock = simloop.SimClock(loop)
        self.random = random.Random(seed)
        slow = self.random.choice((0.0, 0.003))
        self.disk = SimDisk(seed, base=loop.time, sync_delay_s=lambda r: r.uniform(0, slow))
        self.acknowledged: dict[str, int] = {}
        self.refused: set[str] = set()
        self.number = 0
        self.tasks: list[asyncio.Task] = []
        loop.set_exception_handler(self.on_exception)

    def on_exception(self, _loop, context) -> None:
        if not isinstance(context.get("exception"), PowerCut):
            raise AssertionError(context)

    async def open(self) -> Store:
        return await Store.open(
            DIR,
            machine=LedgerMachine(),
            clock=self.clock,
            config=CONFIG,
            filesystem=self.disk,
            run_blocking=self.disk.run_blocking,
            seconds=self.disk.seconds,
            random_bits=self.random.getrandbits,
        )

    async def reopen(self) -> Store:
        while True:
            try:
                return await self.open()
            except PowerCut:
                self.disk.power_cut()

    async def write(self, store: Store, count: int) -> None:
        for _ in range(count):
            self.number += 1
            request_id, name = f"r{self.number}", f"n{self.number % 7}"
            value = self.random.choice((-1, 1, 2, 3))
            try:
                result = await store.propose(Put(name, value), actor="user/x", request_id=request_id)
            except Conflict:
                continue
            except DiskFull:
                self.refused.add(request_id)
            else:
                self.acknowledged[request_id] = result.revision

    async def life(self, store: Store, writes: int, callers: int, ending: str) -> None:
        """Returns when every caller is done or the power is off."""
        if ending == "full":
            self.disk.capacity_bytes = self.disk.used_bytes() + self.random.randint(0, 3000)
        self.tasks = [asyncio.ensure_future(self.write(store, writes)) for _ in range(callers)]
        while not self.disk.off and not all(task.done() for task in self.tasks):
            await asyncio.sleep(0.001)
        if not self.disk.off and ending == "close":
            with contextlib.suppress(PowerCut):
                await store.close()

    async def end(self, store: Store) -> None:
        """The process is gone: nothing of it runs any more."""
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        for task in others:
            with contextlib.suppress(asyncio.CancelledError, PowerCut, CloudlessError):
                await task

    def check(self, store: Store) -> None:
        state = store.snapshot.state
        for request_id, index in self.acknowledged.items():
            assert request_id in state.results, f"{request_id}, acknowledged at {index}, is lost"
            assert state.results[request_id].revision == index
        for request_id in self.refused:
            assert request_id not in state.results, f"{request_id} was refused and came back"


async def scenario(loop: simloop.SimLoop, seed: int, rounds) -> tuple[str, int, float]:
    run = Run(loop, seed)
    store = await run.reopen()
    for writes, callers, cut_at, ending in rounds:
        if cut_at is not None:
            run.disk.cut_power_at = run.disk.operations + cut_at
        await run.life(store, writes, callers, ending)
        was_cut = run.disk.off
        await run.end(store)
        run.disk.capacity_bytes = None
        if was_cut or ending == "cut":
            run.disk.power_cut()
        elif ending != "close":
            run.disk.restart()
        store = await run.reopen()
        run.check(store)
        report = inspect(DIR, LedgerMachine(), filesystem=run.disk)
        assert report.consistent, report
        assert report.state_hash == LedgerMachine().state_hash(store.snapshot.state)
    final = LedgerMachine().state_hash(store.snapshot.state), store.snapshot.index, loop.time()
    await store.close()
    return final


def simulate(seed: int, rounds) -> tuple[str, int, float]:
    with capture_logs():  # to write them out takes longer than the run
        return simloop.run(lambda loop: scenario(loop, seed, rounds))


@given(rounds=rounds, seed=st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_acknowledged_writes_survive_whatever_happens(rounds, seed):
    simulate(seed, rounds)


def test_power_cut_at_every_operation_of_one_history():
    for at in range(1, 130):
        simulate(at, [(12, 4, at, "cut"), (5, 3, None, "kill")])


def test_a_seed_reproduces_its_run():
    history = [(20, 5, None, "full"), (15, 3, 40, "cut"), (10, 8, None, "close")]
    runs = {simulate(11, history) for _ in range(3)}
    assert len(runs) == 1
