"""One seed: random work under random faults, then peace, in which everything must come right."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from cloudless.coordinator.core import snapshot
from cloudless.coordinator.wal import collector
from cloudless.errors import CloudlessError
from cloudless.testing import simloop
from cloudless.testing.sim import checks
from cloudless.testing.sim.clients import EventReader, Work
from cloudless.testing.sim.faults import Nemesis
from cloudless.testing.sim.people import People
from cloudless.testing.sim.profile import Profile, draw
from cloudless.testing.sim.world import World
from cloudless.testing.sim_raft.processes import PROCESS, ProcessLoop

LIVENESS_S: Final = 240.0
LIMIT_S: Final = 3_600.0


@dataclass(frozen=True)
class Outcome:
    seed: int
    history: str  # a hash of every step
    state_hash: str
    entries: int
    virtual_s: float
    faults: int
    coordinators: int
    counts: tuple[tuple[str, int], ...]  # of what happened, for people


class SimulationFailed(AssertionError):
    """A check did not hold; the message names the seed that shows it again."""


def result_of(work: tuple[int, int]) -> tuple[int, Outcome | None, str]:
    """For workers of a pool: seed and number of coordinators in; the seed, its outcome, and what failed out."""
    seed, coordinators = work
    try:
        return seed, run_seed(seed, coordinators=coordinators), ""
    except SimulationFailed as error:
        return seed, None, str(error)
    finally:
        gc.collect()


def run_seed(
    seed: int,
    *,
    profile: Profile | None = None,
    coordinators: int = 0,
    trace: Callable[[str], None] | None = None,
) -> Outcome:
    """Runs one seed; `coordinators` other than 0 says how many there are, whatever the seed says. Raises
    SimulationFailed."""
    rng = random.Random(seed)
    drawn = draw(rng, coordinators=coordinators)
    shared = Path("/dev/shm")  # noqa: S108 - journals sync often; nothing secret is in them
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as scratch:
        loop = ProcessLoop(limit_s=LIMIT_S)
        world = World(loop, rng, Path(scratch), profile or drawn, trace)
        with _listening(world, logging.INFO if trace else logging.ERROR) as bugs:
            try:
                return loop.run_to_end(_main(world, seed, rng, bugs), at_end=world.close)
            except (AssertionError, CloudlessError, simloop.Deadlock, simloop.TimeLimit) as error:
                raise SimulationFailed(f"seed {seed}: {error} (again: make sim SEED={seed})") from error


async def _main(world: World, seed: int, rng: random.Random, bugs: list[str]) -> Outcome:
    loop, profile = world.loop, world.profile
    world.note(f"{profile}")
    await world.start()
    work = Work(world, random.Random(rng.getrandbits(64)))
    reader = EventReader(world, random.Random(rng.getrandbits(64)))
    nemesis = Nemesis(world, random.Random(rng.getrandbits(64)))
    reading = loop.create_task(reader.run())
    writing = loop.create_task(work.run(profile.safety_s))
    breaking = loop.create_task(nemesis.run(profile.safety_s))
    tasks = [reading, writing, breaking]

    def look() -> None:
        world.raise_failures()
        assert not bugs, f"a bug was logged: {bugs[0]}"
        for task in tasks:
            if task.done():
                task.result()

    async def until(holds: Callable[[], str], seconds: float = LIVENESS_S) -> None:
        deadline = loop.time() + seconds
        while missing := holds():
            look()
            assert loop.time() < deadline, f"not after {seconds:.0f} s of peace: {missing}"
            await asyncio.sleep(0.5)
        look()

    while not breaking.done():
        look()
        await asyncio.sleep(1)
    await nemesis.heal()
    await until(lambda: "" if writing.done() else "the client's last write")
    people = People(world, work, random.Random(rng.getrandbits(64)))
    helping = loop.create_task(people.run())
    tasks.append(helping)
    await until(lambda: checks.converged(world, work.wanted, people.drained))
    index = -1
    while index != world.ledger.last_index:  # nothing is under way any more
        index = world.ledger.last_index
        await asyncio.sleep(2)
        look()
    await until(lambda: checks.converged(world, work.wanted, people.drained) or checks.differing(world, index))
    tasks.remove(helping)
    helping.cancel()
    await asyncio.wait([helping])
    newest = world.ledger.events[-1]
    await until(lambda: "" if reader.seen == newest else f"the reader of events is at {reader.seen}, not {newest}")
    index = world.ledger.last_index
    live = snapshot.state_hash(world.ledger.states[index])
    # What a restart of all reads from the disks is what they held.
    world.ledger.expect(index)
    for host in (*world.agents, *world.coordinators.values()):
        host.end(silently=True)
    for coordinator in world.coordinators.values():
        coordinator.start()
    await until(lambda: checks.differing(world, index), seconds=10.0)
    # One that lagged behind may get a later snapshot from the leader.
    assert world.ledger.counts["states recovered"] > profile.coordinators // 2, "no majority has its log"
    world.ledger.history.add(live, loop.callbacks)
    counts = Counter(world.ledger.counts)
    counts["readers' moves"] = reader.attachments
    counts["sessions"] = sum(agent.sessions for agent in world.agents)
    return Outcome(
        seed,
        world.ledger.history.digest(),
        live,
        index,
        loop.time(),
        nemesis.count,
        profile.coordinators,
        tuple(sorted(counts.items())),
    )


@contextmanager
def _listening(world: World, level: int) -> Iterator[list[str]]:
    """Log lines go nowhere but into the trace; those that tell of a bug are kept. No garbage is collected at odd
    moments; and nothing is frozen, as the store does with a large state: what is frozen is never collected."""
    before = structlog.get_config()
    bugs: list[str] = []

    def keep(_: Any, __: str, line: Any) -> Any:
        event = line.pop("event", "")
        if line.get("exc_info"):
            bugs.append(f"{event}: {line}")
        world.note(f"{PROCESS.get()}: {event} " + ", ".join(f"{key} {value}" for key, value in line.items()))
        raise structlog.DropEvent

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(level), processors=[keep])
    paused, collecting = collector.paused, gc.isenabled()
    collector.paused = _nothing
    gc.disable()
    try:
        yield bugs
    finally:
        structlog.configure(**before)
        collector.paused = paused
        if collecting:
            gc.enable()


@contextmanager
def _nothing(**_: bool) -> Iterator[None]:
    yield
