"""The supervisor with the runtime in memory, on virtual time: what it starts, adopts, restarts and removes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import structlog.testing

from cloudless.core.model import ReplicaPhase
from cloudless.core.spec import (
    RestartPolicyKind,
)
from cloudless.errors import FailedPrecondition, InvalidArgument, Unavailable
from cloudless.testing.runtime import Behaviour
from cloudless.testing.supervised import PROBE, Node, assignment, tell

ALWAYS = Behaviour()


@pytest.fixture
def on_node(tmp_path: Path) -> Callable[[Callable[[Node], Awaitable[None]]], None]:
    def go(story: Callable[[Node], Awaitable[None]]) -> None:
        tell(tmp_path, story)

    return go


def test_an_assignment_becomes_ready_and_is_reported_with_its_address(on_node) -> None:
    async def story(node: Node) -> None:
        async with node.agent() as supervisor:
            assert await supervisor.assign(5, [assignment()])
            await node.until_phase("web-1", ReplicaPhase.READY)
            status = supervisor.reports.get("web-1").status
            assert (status.address, status.runtime, status.restart_count) == ("127.0.0.1", "fake", 0)
            assert status.containers[0].ready
            assert status.containers[0].state == "running"
            assert status.since_ms == node.clock.now_ms()

    on_node(story)


def test_a_killed_agent_adopts_what_runs_and_starts_nothing_twice(on_node) -> None:
    async def story(node: Node) -> None:
        node.device.behave = lambda s, c, a: Behaviour(exit_after_ms=100, exit_code=3) if a < 2 else ALWAYS
        async with node.agent() as supervisor:
            await supervisor.assign(5, [assignment(), assignment("web-2")])
            await node.until(
                lambda: all(
                    supervisor.phase(r) is ReplicaPhase.READY and node.restarts(r) == 2 for r in ("web-1", "web-2")
                )
            )
        before = {r: s.containers["main"].view for r, s in node.device.sandboxes.items()}
        starts = node.starts()
        async with node.agent() as supervisor:
            assert supervisor.revision == 5
            await node.until_phase("web-1", ReplicaPhase.READY)
            assert node.restarts() == 2
            status = supervisor.reports.get("web-1").status.containers[0]
            assert (status.last_reason, status.last_exit_code) == ("Error", 3)
            await asyncio.sleep(120)
            assert {r: s.containers["main"].view for r, s in node.device.sandboxes.items()} == before
            assert node.starts() == starts

    on_node(story)


def test_an_exit_while_no_agent_ran_counts_once(on_node) -> None:
    async def story(node: Node) -> None:
        async with node.agent() as supervisor:
            await supervisor.assign(1, [assignment()])
            await node.until_phase("web-1", ReplicaPhase.READY)
        node.device.exit("web-1", "main", code=137, oom_killed=True)
        for _ in range(3):  # the agent crashes again and again within the backoff
            async with node.agent():
                await asyncio.sleep(0.3)
        async with node.agent():
            await node.until_phase("web-1", ReplicaPhase.READY)
            assert node.restarts() == 1
            status = node.supervisor.reports.get("web-1").status.containers[0]
            assert (status.last_reason, status.last_exit_code) == ("OOMKilled", 137)

    on_node(story)


def test_the_device_restarts_without_a_coordinator_and_work_comes_back(on_node) -> None:
    async def story(node: Node) -> None:
        async with node.agent() as supervisor:
            await supervisor.assign(1, [assignment(), assignment("job-1", policy=RestartPolicyKind.ON_FAILURE)])
            await node.until_phase("job-1", ReplicaPhase.READY)
            node.device.exit("job-1", "main", code=0)
            await node.until_phase("job-1", ReplicaPhase.SUCCEEDED)
            await node.until_phase("web-1", ReplicaPhase.READY)
            await asyncio.sleep(1)
        node.device.power_cycle()
        node.device.sandboxes.clear()  # the runtime forgot everything
        async with node.agent():
            await node.until_phase("web-1", ReplicaPhase.READY)
            assert node.restarts() == 1
            assert node.supervisor.phase("job-1") is ReplicaPhase.SUCCEEDED  # and is not run again
            await asyncio.sleep(60)
            assert set(node.device.sandboxes) == {"web-1"}

    on_node(story)


def test_restarts_back_off_and_start_afresh_after_ten_good_minutes(on_node) -> None:
    async def story(node: Node) -> None:
        node.device.behave = lambda s, c, a: Behaviour(exit_after_ms=10, exit_code=1) if a < 12 else ALWAYS
        async with node.agent() as supervisor:
            began = asyncio.get_running_loop().time()
            await supervisor.assign(1, [assignment()])
            await node.until(lambda: node.restarts() >= 1)
            await node.until(
                lambda: supervisor.phase("web-1") is ReplicaPhase.READY and node.restarts() == 12, limit_s=5_000
            )
            waited = asyncio.get_running_loop().time() - began
            # 1 2 4 ... 256 s, then 300 s three times
            # doubling from 1 s; at the limit of 5 min the delay is from the fifth below it
            expected = 255 + 252.4 + 3 * 270
            assert expected <= waited < expected + 5
            await asyncio.sleep(601)
            node.device.exit("web-1", "main", code=1)
            at = asyncio.get_running_loop().time()
            await node.until(lambda: node.restarts() == 13)
            assert asyncio.get_running_loop().time() - at < 1.5

    on_node(story)


@pytest.mark.parametrize("code", [0, 1])
def test_the_first_restarts_are_no_crash_loop(on_node, code: int) -> None:
    async def story(node: Node) -> None:
        async with node.agent() as supervisor:
            await supervisor.assign(1, [assignment()])
            said = []
            for restarts in range(4):
                await node.until_phase("web-1", ReplicaPhase.READY)
                assert node.restarts() == restarts
                node.device.exit("web-1", "main", code=code)
                await node.until(lambda: supervisor.phase("web-1") is ReplicaPhase.STARTING and node.reason() != "")
                said.append(node.reason())
            assert said == ["Restarting", "Restarting", "CrashLoopBackOff", "CrashLoopBackOff"]
            await node.until_phase("web-1", ReplicaPhase.READY)
            await asyncio.sleep(601)  # it ran well for long: the count starts afresh
            node.device.exit("web-1", "main", code=code)
            await node.until(lambda: node.reason() == "Restarting")

    on_node(story)


def test_crash_loop_is_reported_with_what_happened(on_node) -> None:
    async def story(node: Node) -> None:
        node.device.behave = lambda s, c, a: Behaviour(exit_after_ms=10, exit_code=137, oom_killed=True)
        async with node.agent() as supervisor:
            await supervisor.assign(1, [assignment(memory_bytes=128 * 2**20)])
            await node.until(lambda: node.reason() == "CrashLoopBackOff")
            container = supervisor.reports.get("web-1").status.containers[0]
            assert (container.state, container.last_reason, container.last_exit_code) == ("waiting", "OOMKilled", 137)
            assert container.message == (
                "ended 3 times in a row, last with OOMKilled (exit code 137): it needed more than its memory limit of"
                " 128Mi; starts again after 4.0 s"
            )
            assert 3_900 <= container.retry_at_ms - node.clock.now_ms() <= 4_000
        async with node.agent() as supervisor:  # another agent waits for what is left of it
            await asyncio.sleep(1)
            began, starts = node.clock.now_ms(), node.starts()["web-1"]
            await node.until(lambda: node.starts()["web-1"] > starts)
            assert node.clock.now_ms() - began < 3_100

    on_node(story)


@pytest.mark.parametrize(
    ("policy", "retries", "code", "phase", "reason", "starts"),
    [
        (RestartPolicyKind.NEVER, 0, 0, ReplicaPhase.SUCCEEDED, "Completed", 1),
        (RestartPolicyKind.NEVER, 0, 2, ReplicaPhase.FAILED, "Error", 1),
        (RestartPolicyKind.ON_FAILURE, 0, 0, ReplicaPhase.SUCCEEDED, "Completed", 1),
        (RestartPolicyKind.ON_FAILURE, 2, 2, ReplicaPhase.FAILED, "RetriesExhausted", 3),
        (RestartPolicyKind.ALWAYS, 1, 0, ReplicaPhase.FAILED, "RetriesExhausted", 2),
    ],
)
def test_policies(on_node, policy, retries, code, phase, reason, starts) -> None:
    async def story(node: Node) -> None:
        node.device.behave = lambda s, c, a: Behaviour(exit_after_ms=10, exit_code=code)
        async with node.agent() as supervisor:
            await supervisor.assign(1, [assignment(policy=policy, retries=retries)])
            await node.until_phase("web-1", phase)
            assert supervisor.reports.get("web-1").status.reason == reason
            await asyncio.sleep(1_000)
            assert node.starts()["web-1"] == starts

    on_node(story)


def test_a_container_that_fails_for_good_stops_its_companions(on_node) -> None:
    async def story(node: Node) -> None:
        node.device.behave = lambda s, c, a: Behaviour(exit_after_ms=10, exit_code=1) if c.name == "main" else ALWAYS
        async with node.agent() as supervisor:
            await supervisor.assign(1, [assignment(policy=RestartPolicyKind.NEVER, names=("main", "side"))])
            await node.until(
                lambda: (
                    (o := supervisor.reports.get("web-1")) is not None
                    and o.status.phase is ReplicaPhase.FAILED
                    and o.status.containers[1].state == "exited"
                )
            )
            assert supervisor.reports.get("web-1").status.message.startswith("main:")

    on_node(story)


def test_stopping_gives_grace_removes_and_reports_gone_until_released(on_node) -> None:
    async def story(node: Node) -> None:
        node.device.behave = lambda s, c, a: Behaviour(term_delay_ms=3_000)
        async with node.agent() as supervisor:
            await supervisor.assign(1, [assignment()])
            await node.until_phase("web-1", ReplicaPhase.READY)
            began = asyncio.get_running_loop().time()
            stopping = replace(assignment(), stopping=True, stop_reason="ScaledDown")
            await supervisor.assign(2, [stopping])
            await node.until_phase("web-1", ReplicaPhase.STOPPING)
            assert supervisor.reports.get("web-1").status.reason == "ScaledDown"
            await node.until(lambda: supervisor.reports.get("web-1").gone)
            assert 2.9 <= asyncio.get_running_loop().time() - began < 3.5
            assert not node.device.sandboxes
            supervisor.reports.acknowledge(supervisor.reports.version)
            assert supervisor.reports.get("web-1").gone  # said again for as long as it is assigned
            await supervisor.assign(3, [])
            assert supervisor.reports.get("web-1") is None
            assert supervisor.running() == {}

    on_node(story)


def test_what_is_no_longer_assigned_is_stopped_reported_and_forgotten(on_node) -> None:
    async def story(node: Node) -> None:
        async with node.agent() as supervisor:
            await supervisor.assign(1, [assignment()])
            await node.until_phase("web-1", ReplicaPhase.READY)
            await supervisor.assign(2, [])
            await node.until(lambda: (o := supervisor.reports.get("web-1")) is not None and o.gone)
            supervisor.reports.acknowledge(supervisor.reports.version)
            assert supervisor.reports.everything() == ()

    on_node(story)


def test_strangers_are_left_alone_before_the_first_word_and_removed_after(on_node) -> None:
    async def story(node: Node) -> None:
        async with node.agent() as supervisor:
            await supervisor.assign(1, [assignment(), assignment("web-2")])
            await node.until_phase("web-2", ReplicaPhase.READY)
        async with node.agent(fabric="another") as supervisor:  # its journal does not count
            await asyncio.sleep(100)
            assert set(node.device.sandboxes) == {"web-1", "web-2"}
            starts = node.starts()
            await supervisor.assign(1, [assignment()])
            await node.until_phase("web-1", ReplicaPhase.READY)
            await asyncio.sleep(20)
            assert set(node.device.sandboxes) == {"web-1"}
            assert node.starts() == starts

    on_node(story)


def test_the_first_line_of_the_log_makes_no_number_up(on_node) -> None:
    async def story(node: Node) -> None:
        for assignments in (None, 0):
            with structlog.testing.capture_logs() as lines:
                async with node.agent() as supervisor:
                    await supervisor.assign(1, [])
            assert [line["assignments"] for line in lines if line["event"] == "supervisor.loaded"] == [assignments]

    on_node(story)


def test_an_older_set_is_ignored(on_node) -> None:
    async def story(node: Node) -> None:
        async with node.agent() as supervisor:
            await supervisor.assign(7, [assignment()])
            assert not await supervisor.assign(6, [])
            await node.until_phase("web-1", ReplicaPhase.READY)
        async with node.agent() as supervisor:
            assert not await supervisor.assign(6, [])
            assert await supervisor.assign(7, [assignment()])

    on_node(story)


def test_a_missing_image_is_reported_and_tried_again(on_node) -> None:
    async def story(node: Node) -> None:
        node.device.images = {}
        async with node.agent() as supervisor:
            await supervisor.assign(1, [assignment()])
            await node.until(lambda: node.reason() == "ImageMissing")
            assert supervisor.phase("web-1") is ReplicaPhase.STARTING
            await asyncio.sleep(5)
            node.device.images = None
            await node.until_phase("web-1", ReplicaPhase.READY)
            assert node.restarts() == 0

    on_node(story)


def test_a_spec_that_can_never_start_fails_the_replica(on_node) -> None:
    async def story(node: Node) -> None:
        node.device.fail("ensure_sandbox", InvalidArgument("no", reason="BadPort"))
        async with node.agent() as supervisor:
            await supervisor.assign(1, [assignment()])
            await node.until_phase("web-1", ReplicaPhase.FAILED)
            assert supervisor.reports.get("web-1").status.reason == "BadPort"
            await supervisor.assign(2, [replace(assignment(), stopping=True)])
            await node.until(lambda: supervisor.reports.get("web-1").gone)

    on_node(story)


@pytest.mark.parametrize("call", ["ensure_sandbox", "start_container", "stop_container", "remove_sandbox", "list"])
def test_each_call_may_fail_for_a_while(on_node, call: str) -> None:
    async def story(node: Node) -> None:
        for _ in range(4):
            node.device.fail(call, Unavailable("no answer", reason="RuntimeUnavailable"))
        node.device.fail(call, FailedPrecondition("not yet", reason="RuntimeUnavailable"))
        async with node.agent() as supervisor:
            await supervisor.assign(1, [assignment()])
            await node.until_phase("web-1", ReplicaPhase.READY)
            await supervisor.assign(2, [])
            await node.until(lambda: supervisor.reports.get("web-1").gone)
            assert not node.device.sandboxes
            assert node.starts()["web-1"] <= 6

    on_node(story)


def test_an_exit_that_no_event_told_of_is_found_by_the_resync(on_node) -> None:
    async def story(node: Node) -> None:
        async with node.agent() as supervisor:
            await supervisor.assign(1, [assignment()])
            await node.until_phase("web-1", ReplicaPhase.READY)
            node.device.events.publish = lambda event: None  # events are lost from now on
            node.device.exit("web-1", "main", code=1)
            await node.until(lambda: node.restarts() == 1, limit_s=40)

    on_node(story)


def test_startup_gates_and_liveness_restarts(on_node) -> None:
    async def story(node: Node) -> None:
        up = False
        alive = True
        node.healthy = lambda check: up if check.kind == "startup" else alive
        async with node.agent() as supervisor:
            startup = replace(PROBE, failure_threshold=30)
            await supervisor.assign(1, [assignment(startup=startup, liveness=PROBE, readiness=PROBE)])
            await asyncio.sleep(5)
            assert supervisor.phase("web-1") is ReplicaPhase.STARTING
            up = True
            await node.until_phase("web-1", ReplicaPhase.READY)
            alive = False
            await node.until(lambda: node.restarts() == 1)
            status = supervisor.reports.get("web-1").status.containers[0]
            assert status.last_reason == "LivenessProbeFailed"
            alive = True
            await node.until_phase("web-1", ReplicaPhase.READY)

    on_node(story)


def test_readiness_only_gates_traffic(on_node) -> None:
    async def story(node: Node) -> None:
        ready = False
        node.healthy = lambda check: ready
        async with node.agent() as supervisor:
            await supervisor.assign(1, [assignment(readiness=PROBE)])
            await node.until(lambda: node.reason() == "NotReady")
            assert supervisor.phase("web-1") is ReplicaPhase.RUNNING
            ready = True
            await node.until_phase("web-1", ReplicaPhase.READY)
            ready = False
            await node.until_phase("web-1", ReplicaPhase.RUNNING)
            assert node.starts()["web-1"] == 1

    on_node(story)


def test_an_agents_restart_does_not_take_a_ready_replica_out_of_traffic(on_node) -> None:
    async def story(node: Node) -> None:
        async with node.agent() as supervisor:
            await supervisor.assign(1, [assignment(startup=PROBE, readiness=PROBE)])
            await node.until_phase("web-1", ReplicaPhase.READY)
            await asyncio.sleep(1)
        async with node.agent() as supervisor:
            assert supervisor.phase("web-1") is ReplicaPhase.READY

    on_node(story)


def test_fifty_start_four_at_a_time_and_slow_stops_do_not_hold_starts_up(on_node) -> None:
    async def story(node: Node) -> None:
        node.device.behave = lambda s, c, a: Behaviour(
            start_delay_ms=100, ignores_sigterm=s.replica_id.startswith("old")
        )
        async with node.agent() as supervisor:
            old = [assignment(f"old-{i}") for i in range(8)]
            await supervisor.assign(1, old)
            await node.until(lambda: all(supervisor.phase(a.replica_id) is ReplicaPhase.READY for a in old))
            new = [assignment(f"new-{i}") for i in range(50)]
            began = asyncio.get_running_loop().time()
            await supervisor.assign(2, new)
            await node.until(lambda: all(supervisor.phase(a.replica_id) is ReplicaPhase.READY for a in new))
            assert 1.2 <= asyncio.get_running_loop().time() - began < 2.0  # 50 / 4 x 0.1 s; stops take 5 s
            await node.until(lambda: len(node.device.sandboxes) == 50)

    on_node(story)
