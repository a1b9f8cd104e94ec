"""A machine and the process on it, whatever it runs."""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from cloudless.testing.sim_raft.processes import DriftingClock, Process, outside

if TYPE_CHECKING:
    from cloudless.testing.sim.world import World


class Host(ABC):
    """`process` is None while nothing runs. Every method is called from outside of processes unless it says so."""

    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self.process: Process | None = None
        self.off = False  # without power: who dials gets no answer at all
        self.rng = random.Random(world.rng.getrandbits(64))
        skew_ms = self.rng.randint(-5_000, 5_000) if world.profile.skewed else 0
        self.clock = DriftingClock(world.loop, skew_ms=world.profile.begins_ms + skew_ms)
        self.awake_since_s = 0.0  # since when its process runs without having stood still
        self.world = world
        self._lives = 0
        self._restart: asyncio.TimerHandle | None = None

    @property
    def up(self) -> bool:
        return self.process is not None

    @property
    def responsive(self) -> bool:
        return self.process is not None and not self.process.frozen

    def begin(self) -> Process:
        """A new process."""
        self._lives += 1
        self.off = False
        self.awake_since_s = self.world.loop.time()
        self.process = Process(self.name, self._lives, self.clock)
        self.world.network.returned(self.name)
        self.world.note(f"{self.process} starts")
        return self.process

    @abstractmethod
    def start(self) -> None:
        """Nothing happens where it runs already."""

    def start_later(self, after_s: float) -> None:
        if self._restart is not None:
            self._restart.cancel()
        loop = self.world.loop
        self._restart = loop.call_at(loop.time() + after_s, self.start, context=outside)

    def spawn(self, work: Coroutine[Any, Any, Any], *, may_fail: bool = False) -> None:
        """A task of the process; an error in it is an error of the run."""
        process = self.process
        assert process is not None
        task = self.world.loop.create_task(work, context=process.context)

        def ended(done: asyncio.Task[Any]) -> None:
            if not done.cancelled() and (error := done.exception()) is not None and not may_fail and process.alive:
                self.world.failures.append(error)

        task.add_done_callback(ended, context=outside)

    def end(self, *, silently: bool = False) -> None:
        """kill -9; `silently`: with the whole machine, so that nobody is told."""
        process, self.process = self.process, None
        if process is None:
            return
        self.off = silently
        self.world.note(f"{process} is dead")
        self.world.loop.kill(process)
        if silently:
            self.world.network.vanish(self.name)
        else:
            self.world.network.crash(self.name)

    def freeze(self) -> None:
        if self.process is not None:
            self.world.note(f"{self.process} stands still")
            self.process.frozen = True

    def thaw(self) -> None:
        if self.process is not None and self.process.frozen:
            self.world.note(f"{self.process} goes on")
            self.awake_since_s = self.world.loop.time()
            self.world.loop.thaw(self.process)
