"""The owner's word holds on the node alone: across restarts of the agent, and without any coordinator."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cloudless.agent.core.owner import Terms, Verdict
from cloudless.agent.owner_rules import OwnerRules
from cloudless.core.model import ReplicaPhase
from cloudless.core.spec import ResourceAmounts, Resources
from cloudless.testing.supervised import Node, assignment, tell

PAUSED = Verdict(False, "Paused", "the owner has paused this device", evicting=True)

Story = Callable[[Node], Awaitable[None]]


@dataclass
class Word:
    """What the owner says now."""

    terms: Terms = Terms()
    verdict: Verdict = Verdict()


@pytest.fixture
def on_node(tmp_path: Path) -> Callable[[Story], None]:
    return lambda story: tell(tmp_path, story)


def reason(node: Node, replica_id: str = "web-1") -> str:
    observation = node.supervisor.reports.get(replica_id)
    return observation.status.reason if observation else ""


def test_a_paused_device_that_boots_without_a_coordinator_starts_nothing_until_it_is_resumed(on_node) -> None:
    async def story(node: Node) -> None:
        async with node.agent() as supervisor:
            await supervisor.assign(1, [assignment()])
            await node.until_phase("web-1", ReplicaPhase.READY)
        node.device.power_cycle()
        word = Word(verdict=PAUSED)
        async with node.agent(ready=False) as supervisor:
            rules = OwnerRules(word, supervisor)
            rules.apply()
            await supervisor.ready.wait()
            await asyncio.sleep(3_600)
            assert node.starts()["web-1"] == 1
            assert reason(node) == "Paused"
            word.verdict = Verdict()
            rules.apply()
            await node.until_phase("web-1", ReplicaPhase.READY)
            assert node.starts()["web-1"] == 2

    on_node(story)


def test_an_agent_that_starts_while_paused_stops_what_it_finds(on_node) -> None:
    async def story(node: Node) -> None:
        async with node.agent() as supervisor:
            await supervisor.assign(1, [assignment()])
            await node.until_phase("web-1", ReplicaPhase.READY)
        async with node.agent(ready=False) as supervisor:
            OwnerRules(Word(verdict=PAUSED), supervisor).apply()
            await node.until(lambda: reason(node) == "Paused")
            await node.until(lambda: node.supervisor.reports.get("web-1").status.containers[0].state == "waiting")
            assert node.starts()["web-1"] == 1

    on_node(story)


def test_a_foreign_namespace_is_never_started_and_fails_with_the_owners_reason(on_node) -> None:
    async def story(node: Node) -> None:
        async with node.agent() as supervisor:
            rules = OwnerRules(Word(terms=Terms(namespaces=("home",))), supervisor)
            rules.apply()
            running = asyncio.ensure_future(rules.run())
            home = replace(assignment("home-1"), namespace="home")
            await supervisor.assign(1, [assignment(), home])
            await node.until_phase("home-1", ReplicaPhase.READY)
            await node.until_phase("web-1", ReplicaPhase.FAILED)
            running.cancel()
            assert reason(node) == "OwnerTerms"
            assert node.starts() == {"home-1": 1}

    on_node(story)


def test_what_exceeds_the_share_ends_when_the_share_is_lowered(on_node) -> None:
    def wanting(replica_id: str, priority: int) -> object:
        given = assignment(replica_id)
        requests = Resources(requests=ResourceAmounts(cpu_millis=500, memory_bytes=1))
        containers = tuple(replace(container, resources=requests) for container in given.spec.containers)
        return replace(given, spec=replace(given.spec, priority=priority, containers=containers))

    async def story(node: Node) -> None:
        async with node.agent() as supervisor:
            word = Word()
            rules = OwnerRules(word, supervisor)
            await supervisor.assign(1, [wanting("high", 90), wanting("low", 10)])
            await node.until_phase("high", ReplicaPhase.READY)
            await node.until_phase("low", ReplicaPhase.READY)
            word.terms = Terms(share=0.5)
            rules.apply()
            rules.fit(ResourceAmounts(cpu_millis=600, memory_bytes=100))
            await node.until_phase("low", ReplicaPhase.FAILED)
            assert reason(node, "low") == "OwnerTerms"
            assert supervisor.phase("high") is ReplicaPhase.READY

    on_node(story)
