"""Leases on virtual time: what a node without a coordinator keeps, stops, and starts again after a reboot."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from cloudless.agent.core import tenure
from cloudless.agent.core.tenure import LEASE_EXPIRED, Lease, TimePoint
from cloudless.agent.tenure import boottime_ms
from cloudless.core.leases import LEASE_MS, LEASE_MS_MAX, LEASE_MS_MIN, lease_ms, renewal_ms
from cloudless.core.model import Assignment, ReplicaPhase
from cloudless.core.replacing import replace
from cloudless.core.spec import Disruption, RestartPolicyKind, WorkloadSpec
from cloudless.testing.leased import LeasedNode, leased
from cloudless.testing.simloop import run
from cloudless.testing.supervised import assignment

HOUR_MS = 3_600_000
DAY_S = 24 * 3600
LEASE = Lease(revision=1, digest=b"d", issued_at_ms=1_000_000, expires_at_ms=1_000_000 + LEASE_MS)


# The rules --------------------------------------------------------------------------------------------------


def _spec(lease: int) -> WorkloadSpec:
    return WorkloadSpec(disruption=Disruption(lease_duration_ms=lease))


@pytest.mark.parametrize(
    ("stated", "meant"),
    [(0, LEASE_MS), (-5, LEASE_MS), (1, LEASE_MS_MIN), (60_000, 60_000), (2**62, LEASE_MS_MAX)],
)
def test_a_lease_that_is_not_stated_is_the_default(stated: int, meant: int) -> None:
    assert lease_ms(_spec(stated)) == meant


@pytest.mark.parametrize(
    ("leases", "interval"),
    [
        ([], None),
        ([0], HOUR_MS),
        ([60_000], 20_000),
        ([10_000], 3_333),
        ([120_000], 30_000),
        ([HOUR_MS], 360_000),
        ([0, 600_000], 60_000),
        ([LEASE_MS_MAX], HOUR_MS),
    ],
)
def test_renewals_come_often_enough_for_the_shortest(leases: list[int], interval: int | None) -> None:
    replicas = [Assignment(f"r{n}", spec=_spec(lease)) for n, lease in enumerate(leases)]
    assert renewal_ms(replicas) == interval
    assert renewal_ms(replace(each, stopping=True) for each in replicas) is None


@pytest.mark.parametrize(
    ("saved", "wall", "boottime", "trusted"),
    [
        (None, 5_000_000, 10, 5_000_000),
        (None, 5, 10, LEASE.issued_at_ms),  # a clock in 1970
        (TimePoint(3_000_000, 500, "b1"), 9_000_000, 2_500, 3_002_000),  # the same boot: the wall clock has no say
        (TimePoint(3_000_000, 500, "b1"), 5, 2_500, 3_002_000),
        (TimePoint(3_000_000, 500, "b0"), 9_000_000, 2_500, 9_000_000),  # another boot
        (TimePoint(3_000_000, 500, "b0"), 5, 2_500, 3_002_500),  # another boot, and no clock: the uptime counts
        (TimePoint(3_000_000, 9_500, ""), 5, 2_500, 3_002_500),
        (TimePoint(7, 500, "b0"), 5, 2_500, LEASE.issued_at_ms),  # not before the lease was issued
        (TimePoint(3_000_000, 9_500, "b1"), 5, 2_500, 3_000_000),  # a boot clock that went back
    ],
)
def test_what_time_it_is_after_a_restart(saved: TimePoint | None, wall: int, boottime: int, trusted: int) -> None:
    found = tenure.resumed(LEASE, saved, wall_ms=wall, boottime_ms=boottime, boot_id="b1")
    assert found == TimePoint(trusted, boottime, "b1")


def test_without_a_boot_id_the_uptime_says_nothing() -> None:
    found = tenure.resumed(LEASE, TimePoint(3_000_000, 500), wall_ms=5, boottime_ms=9_000_000, boot_id="")
    assert found.trusted_ms == 3_000_000


def test_each_replica_has_a_lease_of_its_own() -> None:
    short, unstated = Assignment("r1", spec=_spec(60_000)), Assignment("r2")
    now_ms = LEASE.issued_at_ms
    assert not tenure.expired(LEASE, short, now_ms=now_ms + 59_999)
    assert tenure.expired(LEASE, short, now_ms=now_ms + 60_000)
    assert not tenure.expired(LEASE, replace(short, stopping=True), now_ms=now_ms + LEASE_MS)
    assert not tenure.expired(LEASE, unstated, now_ms=now_ms + 60_000)
    assert tenure.expired(LEASE, unstated, now_ms=now_ms + LEASE_MS)
    assert tenure.next_end_ms(LEASE, [short, unstated], now_ms=now_ms) == now_ms + 60_000
    assert tenure.next_end_ms(LEASE, [short, unstated], now_ms=now_ms + 60_000) == now_ms + LEASE_MS
    assert tenure.next_end_ms(LEASE, [short], now_ms=now_ms + 60_000) is None


# The node ---------------------------------------------------------------------------------------------------


@pytest.fixture
def on_node(tmp_path: Path) -> Callable[[Callable[[LeasedNode], Awaitable[None]]], None]:
    def go(story: Callable[[LeasedNode], Awaitable[None]]) -> None:
        async def told(loop: asyncio.AbstractEventLoop) -> None:
            await story(LeasedNode(loop, tmp_path))

        run(told, limit_s=60 * DAY_S)

    return go


async def _started(node: LeasedNode, *assignments: Assignment) -> None:
    await node.told(1, *assignments)
    for each in assignments:
        await node.until_phase(each.replica_id, ReplicaPhase.READY)


def test_a_node_without_a_coordinator_runs_on_until_the_lease_ends_and_no_longer(on_node) -> None:
    async def story(node: LeasedNode) -> None:
        async with node.agent() as supervisor:
            await _started(node, leased(assignment("short"), 600_000), leased(assignment("long"), HOUR_MS))
            began_s = asyncio.get_running_loop().time()
            await asyncio.sleep(590)
            assert node.runs() == ["long", "short"]
            await node.until(lambda: node.runs() == ["long"])
            assert asyncio.get_running_loop().time() - began_s == pytest.approx(600, abs=1)
            await asyncio.sleep(1)
            status = supervisor.reports.get("short").status
            assert (status.reason, status.containers[0].state) == (LEASE_EXPIRED, "waiting")
            assert status.containers[0].last_reason == LEASE_EXPIRED
            assert ("stop_container", "short") in node.device.calls
            await asyncio.sleep(3_600)
            assert node.runs() == []
            assert node.starts() == {"short": 1, "long": 1}

    on_node(story)


def test_renewals_let_it_run_for_as_long_as_they_come(on_node) -> None:
    async def story(node: LeasedNode) -> None:
        async with node.agent():
            await _started(node, leased(assignment(), 60_000))
            for _ in range(20):
                await asyncio.sleep(40)
                await node.renewed()
            assert node.starts() == {"web-1": 1}
            await asyncio.sleep(59)
            assert node.runs() == ["web-1"]
            await asyncio.sleep(8)
            assert node.runs() == []

    on_node(story)


def test_what_lost_its_lease_starts_again_when_a_coordinator_is_back(on_node) -> None:
    async def story(node: LeasedNode) -> None:
        wanted = leased(assignment(), 60_000)
        async with node.agent() as supervisor:
            await _started(node, wanted)
            await asyncio.sleep(300)
            assert node.runs() == []
            await node.told(2, wanted)  # as at a new session: the same set
            await node.until_phase("web-1", ReplicaPhase.READY)
            assert node.starts() == {"web-1": 2}
            assert node.restarts() == 1
            assert supervisor.reports.get("web-1").status.reason == ""

    on_node(story)


def test_what_may_not_be_started_twice_fails_with_its_lease(on_node) -> None:
    async def story(node: LeasedNode) -> None:
        async with node.agent():
            await _started(node, leased(assignment(policy=RestartPolicyKind.NEVER), 60_000))
            await node.until_phase("web-1", ReplicaPhase.FAILED)
            assert node.reason() == LEASE_EXPIRED

    on_node(story)


def test_a_reboot_without_a_coordinator_starts_what_the_lease_allows(on_node) -> None:
    async def story(node: LeasedNode) -> None:
        async with node.agent(settled=False):
            await _started(node, leased(assignment("short"), HOUR_MS), assignment("day"))
            await asyncio.sleep(1_800)
        await asyncio.sleep(3_600)  # it is off
        node.reboot()
        async with node.agent():
            await node.until_phase("day", ReplicaPhase.READY)
            assert node.runs() == ["day"]
            await asyncio.sleep(600)
            assert node.starts() == {"short": 1, "day": 2}
            await node.until(lambda: node.supervisor.reports.get("short").status.reason == LEASE_EXPIRED)

    on_node(story)


def test_a_device_without_a_clock_counts_on_from_what_it_saved(on_node) -> None:
    """Off time does not count, and of the time before, at most what had not been saved is lost."""

    async def story(node: LeasedNode) -> None:
        node.clock.skew_ms = -node.clock.EPOCH_MS  # 1970, at each boot anew
        async with node.agent(settled=False):
            await _started(node, leased(assignment(), 4 * HOUR_MS))
            await asyncio.sleep(3_600)
        for _ in range(3):
            await asyncio.sleep(DAY_S)  # it is off
            node.reboot()
            async with node.agent(settled=False):
                await node.until_phase("web-1", ReplicaPhase.READY)
                await asyncio.sleep(2_700)  # of which at most half an hour may be lost
        node.reboot()
        async with node.agent(settled=False):
            await asyncio.sleep(5 * 1_800)
            assert node.runs() == []

    on_node(story)


def test_a_clean_end_saves_the_time(on_node) -> None:
    async def story(node: LeasedNode) -> None:
        node.clock.skew_ms = -node.clock.EPOCH_MS
        async with node.agent():
            await _started(node, leased(assignment(), 60_000))
            await asyncio.sleep(50)
        node.reboot()
        async with node.agent():
            await node.until_phase("web-1", ReplicaPhase.READY)
            await asyncio.sleep(9)
            assert node.runs() == ["web-1"]
            await asyncio.sleep(8)
            assert node.runs() == []

    on_node(story)


@pytest.mark.parametrize("days", [-400, 400])
def test_a_jump_of_the_wall_clock_ends_and_lengthens_nothing(on_node, days: int) -> None:
    async def story(node: LeasedNode) -> None:
        async with node.agent():
            await _started(node, leased(assignment(), 600_000))
            node.clock.skew_ms = days * DAY_S * 1000
            await asyncio.sleep(300)
            assert node.runs() == ["web-1"]
        async with node.agent():  # the agent alone restarted
            await asyncio.sleep(270)
            assert node.runs() == ["web-1"]
            await asyncio.sleep(60)
            assert node.runs() == []
            assert node.starts() == {"web-1": 1}

    on_node(story)


def test_a_wall_clock_that_is_ahead_at_a_reboot_starts_nothing_until_a_coordinator_is_there(on_node) -> None:
    async def story(node: LeasedNode) -> None:
        wanted = assignment()
        async with node.agent():
            await _started(node, wanted)
        node.reboot()
        node.clock.skew_ms = 400 * DAY_S * 1000
        async with node.agent():
            await asyncio.sleep(60)
            assert node.runs() == []
            await node.told(2, wanted)
            await node.until_phase("web-1", ReplicaPhase.READY)

    on_node(story)


def test_a_replayed_older_set_lives_no_longer_than_its_lease(on_node) -> None:
    async def story(node: LeasedNode) -> None:
        async with node.agent():
            await _started(node, leased(assignment("old"), HOUR_MS))
            stolen = (node.journal / "assignments").read_bytes()
            await node.told(2, leased(assignment("new"), HOUR_MS))
            await node.until(lambda: node.runs() == ["new"])
            await asyncio.sleep(1_800)
        (node.journal / "assignments").write_bytes(stolen)
        async with node.agent() as supervisor:
            assert supervisor.revision == 1
            await node.until(lambda: "old" in node.runs())
            await asyncio.sleep(1_700)
            assert "old" in node.runs()
            await asyncio.sleep(200)
            assert "old" not in node.runs()

    on_node(story)


def test_from_a_journal_that_nobody_signed_nothing_is_started_and_what_runs_is_left_alone(on_node) -> None:
    async def story(node: LeasedNode) -> None:
        wanted = leased(assignment(), 60_000)
        async with node.agent():
            await _started(node, wanted)
        path = node.journal / "assignments"
        path.write_bytes(path.read_bytes().replace(b"web-1", b"web-2"))
        async with node.agent() as supervisor:
            await asyncio.sleep(600)
            assert node.runs() == ["web-1"]
            assert supervisor.revision == 0
            await node.told(2, wanted)
            await node.until_phase("web-1", ReplicaPhase.READY)
            assert node.starts() == {"web-1": 1}
        path.write_bytes(path.read_bytes()[:-1])
        node.reboot()
        async with node.agent():
            await asyncio.sleep(600)
            assert node.runs() == []

    on_node(story)


def test_links_that_come_and_go_write_the_journal_seldom(on_node) -> None:
    async def story(node: LeasedNode) -> None:
        wanted = assignment()
        async with node.agent():
            await _started(node, wanted)
            writes: list[str] = []
            write = node.supervisor._journal._write

            async def counted(name: str, payload: bytes, **how: int) -> None:
                writes.append(name)
                await write(name, payload, **how)

            node.supervisor._journal._write = counted  # type: ignore[method-assign]
            for revision in range(2, 2 + 360):  # a new session each 10 s, for an hour
                await node.told(revision, wanted)
                await asyncio.sleep(10)
            assert writes.count("assignments") == 0
            assert writes.count("lease") <= 2
            assert writes.count("clock") <= 12

    on_node(story)


def test_a_renewal_of_another_set_changes_nothing(on_node) -> None:
    async def story(node: LeasedNode) -> None:
        async with node.agent() as supervisor:
            await _started(node, leased(assignment(), 60_000))
            renewal = node.grants.renewal(node.coordinator.renewal())
            await node.told(2, leased(assignment("web-2"), 60_000))
            await asyncio.sleep(50)
            assert not await supervisor.renew(renewal)
            await asyncio.sleep(20)
            assert node.runs() == []

    on_node(story)


def test_a_set_of_an_earlier_coordinator_never_expires_and_is_not_kept(on_node) -> None:
    async def story(node: LeasedNode) -> None:
        async with node.agent() as supervisor:
            assert await supervisor.assign(1, [leased(assignment(), 60_000)])
            await node.until_phase("web-1", ReplicaPhase.READY)
            await asyncio.sleep(3_600)
            assert node.runs() == ["web-1"]
        async with node.agent() as supervisor:
            assert supervisor.revision == 0
            assert node.runs() == ["web-1"]

    on_node(story)


def test_an_agent_that_was_down_for_longer_than_the_lease_stops_what_it_finds(on_node) -> None:
    async def story(node: LeasedNode) -> None:
        async with node.agent(settled=False):
            await _started(node, leased(assignment(), 600_000))
        await asyncio.sleep(3_600)
        assert node.runs() == ["web-1"]
        async with node.agent():
            await asyncio.sleep(20)
            assert node.runs() == []
            assert node.starts() == {"web-1": 1}

    on_node(story)


def test_the_boot_clock_counts_at_least_what_the_other_one_does() -> None:
    before_ms = time.monotonic_ns() // 1_000_000
    assert before_ms <= boottime_ms()
    assert boottime_ms() <= boottime_ms()
