"""Watches what the node runs short of (memory, disk, battery), tells it with each heartbeat, and evicts for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

import structlog
from prometheus_client import Counter, Gauge

from cloudless.agent.core import pressure
from cloudless.agent.core.pressure import Candidate, Limits, Reading, Volume, Word
from cloudless.agent.device import Conditions, System, UsageSampler
from cloudless.agent.device.capacity import existing
from cloudless.agent.logs import rotated
from cloudless.agent.reports import ReportBook
from cloudless.agent.runtime.base import ContainerStats
from cloudless.clock import Clock
from cloudless.config import PressureConfig
from cloudless.core.model import Assignment, ReplicaPhase
from cloudless.core.spec import WorkloadType
from cloudless.errors import CloudlessError

log = structlog.get_logger(__name__)

PRESSURE = Gauge("cloudless_node_pressure", "1 while this node runs short of it.", ["resource"])
EVICTIONS = Counter("cloudless_evictions_total", "Replicas that this node ended for its own sake.", ["resource"])

EVICTED: Final = "Evicted"
_INTERVAL_S: Final = 1.0
_STATS_TIMEOUT_S: Final = 5.0
_EVICTABLE: Final = (ReplicaPhase.STARTING, ReplicaPhase.RUNNING, ReplicaPhase.READY)


class Evictor(Protocol):
    """What this needs of the supervisor."""

    reports: ReportBook

    def evict(self, replica_id: str, reason: str, message: str) -> bool: ...
    def running(self) -> Mapping[str, Assignment]: ...


class Stats(Protocol):
    """What this needs of the runtime."""

    async def stats(self, replica_id: str, container: str) -> ContainerStats: ...
    def log_path(self, replica_id: str, container: str) -> Path: ...


class PressureWatch:
    """Event loop only. `said`: the words for the next heartbeat. `battery_floor_percent`: the owner's, now."""

    def __init__(
        self,
        config: PressureConfig,
        *,
        folders: Sequence[Path],
        sampler: UsageSampler,
        system: System,
        conditions: Conditions,
        battery_floor_percent: Callable[[], int],
        supervisor: Evictor,
        runtime: Stats,
        clock: Clock,
    ) -> None:
        self._config = config
        self._folders = tuple(folders)
        self._sampler = sampler
        self._system = system
        self._conditions = conditions
        self._battery_floor_percent = battery_floor_percent
        self._supervisor = supervisor
        self._runtime = runtime
        self._clock = clock
        self._state = pressure.State()

    @property
    def said(self) -> tuple[str, ...]:
        return self._state.said

    async def run(self) -> None:
        """Looks every second, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(_INTERVAL_S)

    async def look(self) -> None:
        """One look: what is short now, and whether a replica has to go for it."""
        reading = await asyncio.to_thread(self._read)
        before = self._state.said
        decision = pressure.step(self._state, reading, self._limits(), now_ms=self._clock.monotonic_ms())
        self._state = decision.state
        for word in Word:
            if (word.value in self.said) != (word.value in before):
                step = "short->well" if word.value in before else "well->short"
                log.warning("node.pressure", resource=word.value, transition=step, message=decision.stories[word])
            PRESSURE.labels(word.value).set(word.value in self.said)
        if decision.evict_for is not None and not self._ending():
            await self._evict(decision.evict_for, decision.stories[decision.evict_for])

    def _limits(self) -> Limits:
        config = self._config
        return Limits(
            memory_bytes=config.memory_bytes,
            memory_stall_percent=config.memory_stall_percent,
            disk_bytes=config.disk_bytes,
            inodes_percent=config.inodes_percent,
            battery_floor_percent=self._battery_floor_percent(),
            battery_percent=config.battery_percent,
        )

    def _read(self) -> Reading:
        used, total = self._sampler.memory()
        power = self._conditions.power
        return Reading(
            memory_available_bytes=max(0, total - used),
            memory_bytes=total,
            memory_stall_percent=self._sampler.memory_stall_percent(),
            volumes=tuple(self._volumes()),
            on_mains=power.source == "mains",
            battery_percent=power.battery_percent,
        )

    def _volumes(self) -> list[Volume]:
        found: dict[int, Volume] = {}
        for at, folder in enumerate(self._folders):
            if at and not folder.exists():
                continue
            place = existing(folder)
            try:
                device, stat = place.stat().st_dev, self._system.statvfs(place)
            except OSError:
                continue
            volume = Volume(
                str(folder),
                free_bytes=stat.f_bavail * stat.f_frsize,
                size_bytes=stat.f_blocks * stat.f_frsize,
                inodes_free=stat.f_favail,
                inodes=stat.f_files,
            )
            found.setdefault(device, volume)
        return list(found.values())

    def _ending(self) -> bool:
        """Whether one that was told to go still holds what it has: the next one waits for what that gives back."""
        for observation in self._supervisor.reports.everything():
            status = observation.status
            if (
                not observation.gone
                and status.reason == EVICTED
                and any(c.state == "running" for c in status.containers)
            ):
                return True
        return False

    async def _evict(self, word: Word, story: str) -> None:
        candidates = []
        for replica_id, assignment in sorted(self._supervisor.running().items()):
            observation = self._supervisor.reports.get(replica_id)
            if observation is None or observation.gone or observation.status.phase not in _EVICTABLE:
                continue
            used = await (self._memory_of if word is Word.MEMORY else self._disk_of)(replica_id, assignment)
            containers = assignment.spec.containers
            requests = [container.resources.requests for container in containers]
            started = [c.started_at_ms for c in observation.status.containers if c.started_at_ms]
            candidates.append(
                Candidate(
                    replica_id,
                    system=assignment.spec.type is WorkloadType.SYSTEM,
                    priority=assignment.spec.priority,
                    used_bytes=used,
                    requested_bytes=sum(r.memory_bytes if word is Word.MEMORY else r.storage_bytes for r in requests),
                    since_ms=min(started, default=observation.status.since_ms),
                )
            )
        chosen = pressure.victim(candidates)
        if chosen is None:
            return
        message = f"the node is short of {word.value}: {story}; priority {chosen.priority}, {_uses(word, chosen)}"
        if self._supervisor.evict(chosen.replica_id, EVICTED, message):
            self._state = pressure.evicted(self._state, now_ms=self._clock.monotonic_ms())
            EVICTIONS.labels(word.value).inc()
            log.warning("replica.evicted", replica=chosen.replica_id, resource=word.value, message=message)

    async def _memory_of(self, replica_id: str, assignment: Assignment) -> int:
        total = 0
        for container in assignment.spec.containers:
            try:
                async with asyncio.timeout(_STATS_TIMEOUT_S):
                    total += (await self._runtime.stats(replica_id, container.name)).memory_bytes
            except (CloudlessError, TimeoutError, OSError):
                continue  # it has just ended, or cannot be asked: it counts as what is known of it
        return total

    async def _disk_of(self, replica_id: str, assignment: Assignment) -> int:
        """Of its logs: what it wrote elsewhere no runtime tells cheaply."""
        return await asyncio.to_thread(self._log_bytes, replica_id, assignment)

    def _log_bytes(self, replica_id: str, assignment: Assignment) -> int:
        total = 0
        for container in assignment.spec.containers:
            try:
                path = self._runtime.log_path(replica_id, container.name)
                total += sum(each.stat().st_size for each in (path, rotated(path)) if each.exists())
            except (CloudlessError, OSError):
                continue
        return total


def _uses(word: Word, chosen: Candidate) -> str:
    what = "of memory" if word is Word.MEMORY else "of logs"
    return f"it uses {chosen.used_bytes / 2**20:.0f}Mi {what}, {chosen.requested_bytes / 2**20:.0f}Mi requested"
