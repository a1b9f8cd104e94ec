"""What the node itself ends: replicas that are evicted for good, and those that are held for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cloudless.core.model import ReplicaPhase, ReplicaStatus
from cloudless.core.spec import RestartPolicyKind
from cloudless.testing.runtime import Behaviour
from cloudless.testing.supervised import Node, assignment, tell

Story = Callable[[Node], Awaitable[None]]


@pytest.fixture
def on_node(tmp_path: Path) -> Callable[[Story], None]:
    return lambda story: tell(tmp_path, story)


def status(node: Node, replica_id: str = "web-1") -> ReplicaStatus:
    observation = node.supervisor.reports.get(replica_id)
    assert observation is not None
    return observation.status


def states(node: Node) -> list[str]:
    return [container.state for container in status(node).containers]


def test_an_evicted_replica_fails_at_once_and_its_containers_get_their_grace(on_node) -> None:
    async def story(node: Node) -> None:
        node.device.behave = lambda s, c, a: Behaviour(term_delay_ms=3_000, term_exit_code=0)
        async with node.agent() as supervisor:
            await supervisor.assign(1, [assignment()])
            await node.until_phase("web-1", ReplicaPhase.READY)
            began = asyncio.get_running_loop().time()
            assert supervisor.evict("web-1", "Evicted", "the node is out of memory")
            assert (status(node).phase, status(node).reason) == (ReplicaPhase.FAILED, "Evicted")
            assert status(node).message == "the node is out of memory"
            assert not status(node).containers[0].ready
            await node.until(lambda: states(node) == ["exited"])
            assert 2.9 <= asyncio.get_running_loop().time() - began < 3.5
            assert status(node).containers[0].last_reason == "Evicted"
            assert not supervisor.evict("web-1", "Evicted", "again")
            await asyncio.sleep(1_000)
            assert node.starts()["web-1"] == 1
            await supervisor.assign(2, [replace(assignment(), stopping=True)])
            await node.until(lambda: supervisor.reports.get("web-1").gone)

    on_node(story)


def test_an_eviction_outlives_the_agent(on_node) -> None:
    async def story(node: Node) -> None:
        node.device.behave = lambda s, c, a: Behaviour(term_delay_ms=3_000)
        async with node.agent() as supervisor:
            await supervisor.assign(1, [assignment(names=("main", "side"))])
            await node.until_phase("web-1", ReplicaPhase.READY)
            assert supervisor.evict("web-1", "Evicted", "the disk is full")
            await asyncio.sleep(0.2)
        async with node.agent():
            await node.until(lambda: states(node) == ["exited", "exited"])
            assert (status(node).phase, status(node).reason) == (ReplicaPhase.FAILED, "Evicted")
            assert status(node).message == "the disk is full"
            assert node.starts()["web-1"] == 2

    on_node(story)


def test_what_is_not_there_or_over_is_not_evicted(on_node) -> None:
    async def story(node: Node) -> None:
        node.device.behave = lambda s, c, a: Behaviour(exit_after_ms=10)
        async with node.agent() as supervisor:
            assert not supervisor.evict("web-1", "Evicted", "")
            await supervisor.assign(1, [assignment(policy=RestartPolicyKind.NEVER)])
            await node.until_phase("web-1", ReplicaPhase.SUCCEEDED)
            assert not supervisor.evict("web-1", "Evicted", "")
            assert status(node).phase is ReplicaPhase.SUCCEEDED

    on_node(story)


def test_a_held_replica_stops_in_good_order_waits_and_goes_on(on_node) -> None:
    async def story(node: Node) -> None:
        node.device.behave = lambda s, c, a: Behaviour(term_delay_ms=2_000, term_exit_code=0)
        async with node.agent() as supervisor:
            await supervisor.assign(1, [assignment(policy=RestartPolicyKind.ON_FAILURE)])
            await node.until_phase("web-1", ReplicaPhase.READY)
            supervisor.hold("OwnerTerms", "outside of the owner's hours")
            assert not status(node).containers[0].ready
            await node.until(lambda: states(node) == ["waiting"])
            assert (status(node).phase, status(node).reason) == (ReplicaPhase.STARTING, "OwnerTerms")
            assert status(node).message == "outside of the owner's hours"
            assert status(node).containers[0].reason == "OwnerTerms"
            await asyncio.sleep(3_600)
            await supervisor.assign(2, [assignment(policy=RestartPolicyKind.ON_FAILURE), assignment("web-2")])
            await node.until(lambda: supervisor.reports.get("web-2") is not None)
            await asyncio.sleep(100)
            assert status(node, "web-2").reason == "OwnerTerms"
            assert node.starts() == {"web-1": 1}
            supervisor.release()
            began = asyncio.get_running_loop().time()
            await node.until_phase("web-1", ReplicaPhase.READY)
            await node.until_phase("web-2", ReplicaPhase.READY)
            assert asyncio.get_running_loop().time() - began < 1, "what was held owes no backoff"
            assert status(node).reason == ""

    on_node(story)


def test_a_hold_for_some_leaves_the_others_running_and_may_change(on_node) -> None:
    async def story(node: Node) -> None:
        async with node.agent() as supervisor:
            await supervisor.assign(1, [assignment(), assignment("web-2")])
            await node.until_phase("web-2", ReplicaPhase.READY)
            await node.until_phase("web-1", ReplicaPhase.READY)
            supervisor.hold("OwnerTerms", "", only=lambda wanted: wanted.replica_id == "web-1")
            await node.until(lambda: states(node) == ["waiting"])
            assert supervisor.phase("web-2") is ReplicaPhase.READY
            supervisor.hold("OwnerTerms", "", only=lambda wanted: wanted.replica_id == "web-2")
            await node.until_phase("web-1", ReplicaPhase.READY)
            await node.until(lambda: status(node, "web-2").containers[0].state == "waiting")

    on_node(story)


def test_what_may_not_be_started_twice_fails_with_the_reason_of_the_hold(on_node) -> None:
    async def story(node: Node) -> None:
        async with node.agent() as supervisor:
            await supervisor.assign(1, [assignment(policy=RestartPolicyKind.NEVER)])
            await node.until_phase("web-1", ReplicaPhase.READY)
            supervisor.hold("OwnerTerms", "")
            await node.until_phase("web-1", ReplicaPhase.FAILED)
            assert status(node).reason == "OwnerTerms"

    on_node(story)


def test_a_hold_before_the_agent_runs_keeps_it_from_starting_and_stops_what_it_finds(on_node) -> None:
    async def story(node: Node) -> None:
        async with node.agent() as supervisor:
            await supervisor.assign(1, [assignment()])
            await node.until_phase("web-1", ReplicaPhase.READY)
        before = node.starts()
        async with node.agent(hold="OwnerTerms") as supervisor:
            await node.until(lambda: states(node) == ["waiting"])
            assert node.starts() == before
            await supervisor.assign(2, [replace(assignment(), stopping=True)])
            await node.until(lambda: supervisor.reports.get("web-1").gone)

    on_node(story)
