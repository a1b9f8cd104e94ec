"""One seed: a phase with faults, in which nothing wrong may happen, then one without, in which everything must.

Afterwards every member holds the same state, every acknowledged write is in it once, no refused one is, and the history
of every register is linearizable.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import structlog

from cloudless.coordinator.raft.core.step import step
from cloudless.coordinator.wal import collector
from cloudless.testing.linearizability import Journal, Register, Undecided, check, narrowed
from cloudless.testing.sim_raft.clients import Client, History
from cloudless.testing.sim_raft.faults import Nemesis
from cloudless.testing.sim_raft.oracle import Oracle, Violation
from cloudless.testing.sim_raft.processes import PROCESS, ProcessLoop
from cloudless.testing.sim_raft.profile import Profile, draw
from cloudless.testing.sim_raft.registers import Registers
from cloudless.testing.sim_raft.world import MACHINE, World


class _QuorumLost(Exception):
    """Faults destroyed a majority of disks (a change of members that was given up on was made after one was lost):
    nobody can write again, and only safety was shown."""


LIVENESS_S: Final = 60.0  # virtual; timeouts that grew on a slow disk have to shrink again
CHECK_STEPS_MAX: Final = 300_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """`violation`: the property that did not hold, and how; else empty. Equal seeds have equal digests."""

    seed: int
    digest: int
    virtual_s: float
    counts: Counter[str]
    violation: str = ""
    property: str = ""


def run_seed(seed: int, *, profile: Profile | None = None, trace: Callable[[str], None] | None = None) -> Outcome:
    """Never raises for what the simulated members do wrong."""
    rng = random.Random(seed)
    drawn = draw(rng)
    loop = ProcessLoop(limit_s=600.0)
    oracle = Oracle(loop.time, lambda state, index, term: MACHINE.encode(state, index=index, term=term), trace)
    with _quiet(), _watched(oracle):
        try:
            loop.run_to_end(_run(loop, rng, profile or drawn, oracle), at_end=oracle.close)
        except (Violation, _QuorumLost):
            pass
        except Exception as error:  # of the simulation, or of a member within a client's reach
            if oracle.violation is None:
                oracle.violation = Violation("no errors", repr(error))
                oracle.violation.__cause__ = error
    digest, counts = oracle.result
    whole = (loop.callbacks, round(loop.ended_s * 1e6), sorted(counts.items()))
    found = oracle.violation
    return Outcome(
        seed,
        zlib.crc32(repr(whole).encode(), digest),
        loop.ended_s,
        counts,
        violation=f"{found}" + (f" (from {found.__cause__!r})" if found and found.__cause__ else "") if found else "",
        property=found.name if found else "",
    )


def run_clean(seed: int) -> Outcome:
    """As `run_seed`, for many in one process: garbage is collected in between, never within."""
    outcome = run_seed(seed)
    gc.collect()
    return outcome


async def _run(loop: ProcessLoop, rng: random.Random, profile: Profile, oracle: Oracle) -> None:
    world = World(loop, rng, profile, oracle)
    history = History()
    oracle.note(f"{profile}")
    world.begin()
    nemesis = Nemesis(world, random.Random(rng.getrandbits(64)))
    clients = [Client(world, history, f"c{i}", i, random.Random(rng.getrandbits(64))) for i in range(profile.clients)]
    final = Client(world, history, "final", 99, random.Random(rng.getrandbits(64)))
    tasks = [loop.create_task(client.run()) for client in clients]
    faults = loop.create_task(nemesis.run())
    ends_s = loop.time() + profile.safety_s
    while loop.time() < ends_s:
        await asyncio.sleep(0.1)
        _look(world, tasks)
    world.running = False
    oracle.note("== healed")
    await faults
    await nemesis.heal()
    await _converges(world, final)
    await asyncio.gather(*tasks)
    await _converges(world, final)
    for key in sorted(history.operations):
        if not await final.read(key, attempts=50):
            oracle.fail("liveness", f"{key} cannot be read")
    # A transfer that was asked for while there were faults may be carried out only now.
    limit_s = loop.time() + LIVENESS_S
    while (leader := world.leader()) is None or leader.store is None:
        _in_time(world, limit_s, "nobody leads")
        await asyncio.sleep(0.05)
    _look(world, tasks)
    _complete(world, history, leader.store.snapshot.state)
    _linearizable(world, history)


def _look(world: World, tasks: list[asyncio.Task[None]]) -> None:
    """Raises what was found meanwhile."""
    if world.oracle.violation is not None:
        raise world.oracle.violation
    for error in world.errors:
        world.oracle.violation = Violation("no errors", repr(error))
        raise world.oracle.violation from error
    for task in tasks:
        if task.done() and not task.cancelled() and (failed := task.exception()) is not None:
            raise failed


async def _converges(world: World, client: Client) -> None:
    """A leader is elected, writes are taken, and all members that belong to it come to the same state."""
    limit_s = world.loop.time() + LIVENESS_S
    began_s = world.loop.time()
    while not await client.write("append", "list1", attempts=1):
        _look(world, [])
        _in_time(world, limit_s, "no write is taken")
        await asyncio.sleep(0.05)
    while not _equal(world):
        _look(world, [])
        _in_time(world, limit_s, "the members do not come to the same state")
        await asyncio.sleep(0.05)
    world.oracle.note(f"== converged after {world.loop.time() - began_s:.3f} s")


def _in_time(world: World, limit_s: float, what: str) -> None:
    if world.loop.time() > limit_s:
        if not world.survives_without():
            world.oracle.counts["quorum lost with its disks"] += 1
            raise _QuorumLost
        stand = [
            f"{member.name} {'gone' if member.gone else 'up' if member.up else 'down'}"
            + (f" {member.store.status()}" if member.store else "")
            for member in world.members.values()
        ]
        world.oracle.fail("liveness", f"{what} within {LIVENESS_S} s: " + "; ".join(stand))


def _equal(world: World) -> bool:
    leader = world.leader()
    if leader is None or leader.store is None:
        return False
    status = leader.store.status()
    snapshot = leader.store.snapshot
    if snapshot.index != status.last_index:
        return False
    for named in status.members:
        member = world.members[named.id]
        if member.gone:
            continue
        if member.store is None or member.store.snapshot.index != snapshot.index:
            return False
        if MACHINE.state_hash(member.store.snapshot.state) != MACHINE.state_hash(snapshot.state):
            world.oracle.fail("state machine safety", f"{member.name} and {leader.name} differ at {snapshot.index}")
    return True


def _complete(world: World, history: History, state: Registers) -> None:
    """Acknowledged writes are there, once; refused ones are not. `state` is the leader's."""
    oracle = world.oracle
    for request_id, put in history.acknowledged.items():
        if request_id not in state.answers:
            oracle.fail("acknowledged writes are present", f"{request_id} {put} is lost")
    for request_id, put in history.refused.items():
        if request_id in state.answers:
            oracle.fail("refused writes are absent", f"{request_id} {put} was applied")
    for key, value in state.values.items():
        if isinstance(value, tuple) and len(set(value)) != len(value):
            oracle.fail("each write is present once", f"{key}: {value}")
    for request_id, put in history.acknowledged.items():
        value = state.values.get(put.key)
        if put.kind == "append" and not (isinstance(value, tuple) and put.value in value):
            oracle.fail("acknowledged writes are present", f"{request_id} {put} is not in {value}")
    oracle.mix(int(MACHINE.state_hash(state), 16))


def _linearizable(world: World, history: History) -> None:
    oracle = world.oracle
    for key, operations in sorted(history.operations.items()):
        try:
            if key.startswith("list"):
                verdict = check(Journal(operations[-1].result or ()), operations, steps_max=CHECK_STEPS_MAX)
            else:
                verdict = check(Register(), narrowed(operations), steps_max=CHECK_STEPS_MAX)
        except Undecided:
            oracle.counts["histories undecided"] += 1
            continue
        oracle.counts["histories"] += 1
        if not verdict.linearizable:
            for operation in operations:
                oracle.note(f"{key}: {operation}")
            oracle.fail("linearizability", f"{key}: no place for {verdict.stuck_at} in {len(operations)} operations")


def _drop(*_: Any) -> Any:
    raise structlog.DropEvent


@contextmanager
def _quiet() -> Iterator[None]:
    """No log lines, and no collections of garbage at odd moments: both would cost more than the simulation. Nothing is
    frozen either, as the store does with a large state: what is frozen is never collected."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL), processors=[_drop])
    paused, collecting = collector.paused, gc.isenabled()
    collector.paused = _nothing
    gc.disable()
    try:
        yield
    finally:
        collector.paused = paused
        structlog.configure(**before)
        if collecting:
            gc.enable()


@contextmanager
def _nothing(**_: bool) -> Iterator[None]:
    yield


@contextmanager
def _watched(oracle: Oracle) -> Iterator[None]:
    """Every step of every core is shown to the oracle."""

    def watched(state: Any, event: Any, *, now_ms: float, jitter: float) -> Any:
        after, effects = step(state, event, now_ms=now_ms, jitter=jitter)
        process = PROCESS.get()
        if process is not None and process.alive:
            oracle.stepped(process, state, event, after, effects)
        return after, effects

    users = [
        module
        for name, module in sys.modules.items()
        if name.startswith("cloudless.coordinator.raft.")
        and ".core" not in name
        and getattr(module, "step", None) is step
    ]
    assert users, "nobody steps the core"
    for module in users:
        module.step = watched  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for module in users:
            module.step = step  # type: ignore[attr-defined]
