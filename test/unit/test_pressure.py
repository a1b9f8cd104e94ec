"""What a node is short of: when it says so, and who goes first."""

from __future__ import annotations

import dataclasses
import os
import types
from pathlib import Path

import pytest

from cloudless.agent.core import pressure
from cloudless.agent.core.pressure import (
    EVICTION_INTERVAL_MS,
    RELEASE_MS,
    SETTLE_MS,
    Candidate,
    Limits,
    Reading,
    State,
    Volume,
    Word,
)
from cloudless.agent.device import Conditions, System, UsageSampler
from cloudless.agent.pressure import PressureWatch
from cloudless.agent.reports import ReportBook
from cloudless.agent.runtime.base import ContainerStats
from cloudless.config import PressureConfig
from cloudless.core.model import Assignment, ContainerStatus, ReplicaPhase, ReplicaStatus
from cloudless.core.spec import Container, ResourceAmounts, Resources, WorkloadSpec, WorkloadType
from cloudless.errors import NotFound

MIB = 2**20
GIB = 2**30
LIMITS = Limits(memory_bytes=100 * MIB, memory_stall_percent=30, disk_bytes=GIB, inodes_percent=3)
DISK = Volume("/data", free_bytes=50 * GIB, size_bytes=100 * GIB, inodes_free=900, inodes=1000)
FINE = Reading(memory_available_bytes=GIB, memory_bytes=4 * GIB, volumes=(DISK,))
SHORT = dataclasses.replace(FINE, memory_available_bytes=50 * MIB)
BETWEEN = dataclasses.replace(FINE, memory_available_bytes=120 * MIB)


def after(*steps: tuple[Reading, int], limits: Limits = LIMITS) -> State:
    """The state after readings that each hold for so many ms, looked at each second."""
    state, now_ms = State(), 0
    for reading, lasts_ms in steps:
        for _ in range(0, lasts_ms, 1000):
            state = pressure.step(state, reading, limits, now_ms=now_ms).state
            now_ms += 1000
    return state


def with_disk(**changes: int) -> Reading:
    return dataclasses.replace(FINE, volumes=(DISK, dataclasses.replace(DISK, where="/images", **changes)))


@pytest.mark.parametrize(
    ("reading", "limits", "expected"),
    [
        (FINE, LIMITS, ()),
        (SHORT, LIMITS, ("memory",)),
        (BETWEEN, LIMITS, ()),
        (dataclasses.replace(BETWEEN, memory_stall_percent=40.0), LIMITS, ("memory",)),
        # with much memory left, who waits for memory waits for its own limit
        (dataclasses.replace(FINE, memory_stall_percent=90.0), LIMITS, ()),
        (
            dataclasses.replace(BETWEEN, memory_stall_percent=99.0),
            dataclasses.replace(LIMITS, memory_stall_percent=100),
            (),
        ),
        (with_disk(free_bytes=GIB - 1), LIMITS, ("disk",)),
        (with_disk(inodes_free=29), LIMITS, ("disk",)),
        (with_disk(inodes_free=0, inodes=0), LIMITS, ()),  # it counts none
        # thresholds of their own: a twentieth, at most 100Mi and 1Gi
        (dataclasses.replace(FINE, memory_available_bytes=99 * MIB), Limits(), ("memory",)),
        (dataclasses.replace(FINE, memory_available_bytes=99 * MIB, memory_bytes=512 * MIB), Limits(), ()),
        (with_disk(free_bytes=GIB // 2, size_bytes=8 * GIB), Limits(), ()),
        (with_disk(free_bytes=GIB // 4, size_bytes=8 * GIB), Limits(), ("disk",)),
        (dataclasses.replace(FINE, on_mains=False, battery_percent=39), Limits(0, 100, 0, 0, 30, 10), ("battery",)),
        (dataclasses.replace(FINE, on_mains=False, battery_percent=40), Limits(0, 100, 0, 0, 30, 10), ()),
        (dataclasses.replace(FINE, on_mains=True, battery_percent=3), Limits(0, 100, 0, 0, 30, 10), ()),
        (dataclasses.replace(FINE, on_mains=False, battery_percent=3), Limits(0, 100, 0, 0, 0, 10), ()),
        (dataclasses.replace(FINE, on_mains=False, battery_percent=-1), Limits(0, 100, 0, 0, 30, 10), ()),
    ],
)
def test_words(reading: Reading, limits: Limits, expected: tuple[str, ...]) -> None:
    assert after((reading, SETTLE_MS + 1000), limits=limits).said == expected


def test_a_word_takes_a_moment_and_stays_until_it_is_well_for_a_while() -> None:
    assert after((SHORT, SETTLE_MS)).said == ()
    said = [(SHORT, SETTLE_MS + 1000)]
    assert after(*said).said == ("memory",)
    assert after(*said, (BETWEEN, 10 * RELEASE_MS)).said == ("memory",)
    assert after(*said, (FINE, RELEASE_MS)).said == ("memory",)
    assert after(*said, (FINE, RELEASE_MS), (BETWEEN, 1000), (FINE, RELEASE_MS)).said == ("memory",)
    assert after(*said, (FINE, RELEASE_MS + 1000)).said == ()
    assert after(*[(SHORT, 2000), (FINE, 1000)] * 10).said == ()


def test_a_battery_is_believed_at_once() -> None:
    limits = Limits(battery_floor_percent=30, battery_percent=10)
    state, seen = State(), []
    for level, on_mains in [(40, False), (39, False), (44, False), (45, False), (39, False), (39, True), (-1, False)]:
        reading = dataclasses.replace(FINE, battery_percent=level, on_mains=on_mains)
        state = pressure.step(state, reading, limits, now_ms=0).state
        seen.append("battery" in state.said)
    assert seen == [False, True, True, False, True, False, False]


def test_one_goes_at_a_time_until_it_is_enough() -> None:
    state = after((SHORT, SETTLE_MS + 1000))
    now_ms = 100_000
    assert pressure.step(state, SHORT, LIMITS, now_ms=now_ms).evict_for is Word.MEMORY
    assert pressure.step(state, BETWEEN, LIMITS, now_ms=now_ms).evict_for is None  # enough for now, though still said
    state = pressure.evicted(state, now_ms=now_ms)
    assert pressure.step(state, SHORT, LIMITS, now_ms=now_ms + EVICTION_INTERVAL_MS - 1).evict_for is None
    assert pressure.step(state, SHORT, LIMITS, now_ms=now_ms + EVICTION_INTERVAL_MS).evict_for is Word.MEMORY


def test_who_goes_first() -> None:
    def candidate(replica_id, *, system=False, priority=50, used=100, requested=100, since_ms=0):
        return Candidate(replica_id, system, priority, used, requested, since_ms)

    order = [
        candidate("low", priority=1, used=0),
        candidate("greedy", used=900, requested=500),
        candidate("over", used=300),
        candidate("young", since_ms=9),
        candidate("old", since_ms=1),
        candidate("modest", used=10, requested=900),
        candidate("high", priority=90, used=9000),
        candidate("system", system=True, priority=0, used=9000),
    ]
    left, gone = sorted(order, key=lambda c: c.replica_id), []
    while left:
        chosen = pressure.victim(left)
        assert chosen is not None
        gone.append(chosen.replica_id)
        left.remove(chosen)
    assert gone == [c.replica_id for c in order]
    assert pressure.victim([]) is None


# The shell ----------------------------------------------------------------------------------------------------


class Clock:
    ms = 0

    def now_ms(self) -> int:
        return self.ms

    def monotonic_ms(self) -> int:
        return self.ms


class Node:
    """Supervisor and runtime of a small device, whose memory and disk the test says."""

    def __init__(self, directory: Path) -> None:
        self.reports = ReportBook()
        self.assigned: dict[str, Assignment] = {}
        self.used: dict[str, int] = {}
        self.evicted: list[tuple[str, str, str]] = []
        self.clock = Clock()
        self.directory = directory
        self.free_bytes = 50 * GIB
        (directory / "proc").mkdir()
        self.available(GIB)
        here = System.here()
        self.system = dataclasses.replace(here, root=directory, statvfs=self._statvfs)
        conditions = Conditions(self.system, self.clock)
        self.watch = PressureWatch(
            PressureConfig(),
            folders=[directory, directory / "nowhere"],
            sampler=UsageSampler(directory, system=self.system, clock=self.clock, conditions=conditions),
            system=self.system,
            conditions=conditions,
            battery_floor_percent=lambda: 0,
            supervisor=self,
            runtime=self,
            clock=self.clock,
        )

    def available(self, size: int) -> None:
        text = f"MemTotal: {4 * GIB // 1024} kB\nMemAvailable: {size // 1024} kB\n"
        (self.directory / "proc" / "meminfo").write_text(text)

    def _statvfs(self, _: Path) -> os.statvfs_result:
        free = self.free_bytes // 4096
        counted = {"f_bavail": free, "f_bfree": free, "f_blocks": 100 * GIB // 4096, "f_frsize": 4096}
        return types.SimpleNamespace(**counted, f_favail=90, f_files=100)  # type: ignore[return-value]

    def run(
        self, replica_id: str, *, priority: int = 50, type: WorkloadType = WorkloadType.SERVICE, used: int = 0
    ) -> None:
        container = Container(name="main", resources=Resources(requests=ResourceAmounts(memory_bytes=10 * MIB)))
        spec = WorkloadSpec(type=type, priority=priority, containers=(container,))
        self.assigned[replica_id] = Assignment(replica_id, "web", "default", 1, spec)
        self.used[replica_id] = used
        self.report(replica_id, ReplicaPhase.READY)

    def report(self, replica_id: str, phase: ReplicaPhase, reason: str = "", state: str = "running") -> None:
        containers = (ContainerStatus(name="main", state=state, started_at_ms=1),)
        self.reports.put(replica_id, ReplicaStatus(phase=phase, reason=reason, containers=containers))

    def running(self) -> dict[str, Assignment]:
        return dict(self.assigned)

    def evict(self, replica_id: str, reason: str, message: str) -> bool:
        self.evicted.append((replica_id, reason, message))
        self.report(replica_id, ReplicaPhase.FAILED, reason)
        return True

    async def stats(self, replica_id: str, container: str) -> ContainerStats:
        if self.used[replica_id] < 0:
            raise NotFound("it has ended")
        return ContainerStats(0, self.used[replica_id], 1)

    def log_path(self, replica_id: str, container: str) -> Path:
        return self.directory / f"{replica_id}.log"

    async def after(self, ms: int) -> None:
        for _ in range(0, ms, 1000):
            self.clock.ms += 1000
            await self.watch.look()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


async def test_replicas_go_one_by_one_while_memory_is_short(node: Node) -> None:
    node.run("daemon", type=WorkloadType.SYSTEM, priority=0, used=900 * MIB)
    node.run("greedy", used=500 * MIB)
    node.run("modest", used=5 * MIB)
    node.run("ended", used=-1)
    node.report("ended", ReplicaPhase.SUCCEEDED, state="exited")
    await node.after(5_000)
    assert node.evicted == []
    assert node.watch.said == ()
    node.available(50 * MIB)
    await node.after(SETTLE_MS + 2_000)
    assert node.watch.said == ("memory",)
    [(first, reason, message)] = node.evicted
    assert (first, reason) == ("greedy", "Evicted")
    assert "50Mi of memory available, 100Mi needed" in message
    assert "it uses 500Mi of memory, 10Mi requested" in message
    await node.after(2 * EVICTION_INTERVAL_MS)
    assert len(node.evicted) == 1, "the first one still ends"
    node.report("greedy", ReplicaPhase.FAILED, "Evicted", state="exited")
    await node.after(1_000)
    assert [each[0] for each in node.evicted] == ["greedy", "modest"]
    node.report("modest", ReplicaPhase.FAILED, "Evicted", state="exited")
    node.available(GIB)
    await node.after(RELEASE_MS + 1_000)
    assert len(node.evicted) == 2
    assert node.watch.said == ()


async def test_what_cannot_be_asked_counts_as_what_is_known(node: Node) -> None:
    node.run("silent", used=-1)
    node.available(50 * MIB)
    await node.after(SETTLE_MS + 1_000)
    assert [each[0] for each in node.evicted] == ["silent"]


async def test_on_a_full_disk_the_one_with_the_largest_logs_goes(node: Node) -> None:
    node.run("quiet", used=GIB)
    node.run("loud")
    node.log_path("loud", "main").write_bytes(b"x" * 2 * MIB)
    node.free_bytes = GIB // 2
    await node.after(SETTLE_MS + 1_000)
    assert node.watch.said == ("disk",)
    [(first, _, message)] = node.evicted
    assert first == "loud"
    assert "512Mi free at" in message
    assert "2Mi of logs" in message


async def test_with_nothing_to_let_go_the_word_is_said_all_the_same(node: Node) -> None:
    node.available(50 * MIB)
    await node.after(SETTLE_MS + 20_000)
    assert node.watch.said == ("memory",)
    assert node.evicted == []
