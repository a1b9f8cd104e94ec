"""Which replicas get new connections: those that are ready, withdrawn before they are asked to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cloudless.core.model import ReplicaPhase
from cloudless.core.spec import ExecProbe, PreStop
from cloudless.errors import Internal
from cloudless.testing.supervised import PROBE, Node, assignment, tell

Story = Callable[[Node], Awaitable[None]]


@pytest.fixture
def on_node(tmp_path: Path) -> Callable[[Story], None]:
    return lambda story: tell(tmp_path, story)


def web(name: str = "web-1", **changes):
    return assignment(name, host_port=8080, **changes)


async def served(node: Node, *names: str) -> None:
    async with asyncio.timeout(100):
        while node.device.serving != frozenset(names):
            await asyncio.sleep(0.01)


def test_only_ready_replicas_with_host_ports_serve(on_node) -> None:
    async def story(node: Node) -> None:
        ready = False
        node.healthy = lambda check: ready
        async with node.agent() as supervisor:
            await supervisor.assign(1, [web(readiness=PROBE), assignment("inner")])
            await node.until_phase("web-1", ReplicaPhase.RUNNING)
            await served(node)
            ready = True
            await node.until_phase("web-1", ReplicaPhase.READY)
            await served(node, "web-1")
            ready = False
            await node.until_phase("web-1", ReplicaPhase.RUNNING)
            await served(node)

    on_node(story)


def test_a_replica_is_withdrawn_before_it_is_asked_to_stop(on_node) -> None:
    async def story(node: Node) -> None:
        async with node.agent() as supervisor:
            await supervisor.assign(1, [web(), web("web-2")])
            await served(node, "web-1", "web-2")
            node.device.calls.clear()
            await supervisor.assign(2, [replace(web(), stopping=True), web("web-2")])
            await node.until(lambda: supervisor.reports.get("web-1").gone)
            calls = [call for call, _ in node.device.calls if call in ("set_serving", "stop_container")]
            assert calls == ["set_serving", "stop_container"]
            assert node.device.serving == frozenset({"web-2"})

    on_node(story)


@pytest.mark.parametrize("another", [True, False])
def test_while_its_hook_runs_it_gets_connections_only_where_nobody_else_would(on_node, another: bool) -> None:
    async def story(node: Node) -> None:
        async with node.agent() as supervisor:
            first, second = web(pre_stop=PreStop(sleep_ms=1500)), [web("web-2")] * another
            await supervisor.assign(1, [first, *second])
            await served(node, "web-1", *(a.replica_id for a in second))
            node.device.calls.clear()
            await supervisor.assign(2, [replace(first, stopping=True), *second])
            await asyncio.sleep(1)
            assert supervisor.phase("web-1") is ReplicaPhase.STOPPING
            await served(node, "web-2" if another else "web-1")
            await node.until(lambda: supervisor.reports.get("web-1").gone)
            calls = [call for call, _ in node.device.calls if call in ("set_serving", "stop_container")]
            assert (calls[0], calls[-1]) == ("set_serving", "stop_container")
            await served(node, *(a.replica_id for a in second))

    on_node(story)


def test_what_is_evicted_gets_no_connection_while_its_hook_runs(on_node) -> None:
    async def story(node: Node) -> None:
        async with node.agent() as supervisor:
            hook = PreStop(exec=ExecProbe(("drain",)))
            await supervisor.assign(1, [web(pre_stop=hook), web("web-2")])
            await served(node, "web-1", "web-2")
            asked = asyncio.Event()

            def check(_check: object) -> bool:
                asked.set()
                return True

            node.healthy = check
            supervisor.evict("web-1", "Evicted", "")
            await asked.wait()
            await served(node, "web-2")

    on_node(story)


def test_an_agents_restart_takes_nobody_out_of_traffic(on_node) -> None:
    async def story(node: Node) -> None:
        async with node.agent() as supervisor:
            await supervisor.assign(1, [web(readiness=PROBE)])
            await served(node, "web-1")
            await asyncio.sleep(1)
        said = []
        enter = node.device.enter

        def watch(call: str, replica_id: str = "") -> None:
            enter(call, replica_id)
            if call == "set_serving":
                said.append(node.supervisor.phase("web-1"))

        node.device.enter = watch  # type: ignore[method-assign]
        async with node.agent():
            async with asyncio.timeout(10):
                while not said:
                    await asyncio.sleep(0.01)
            assert said == [ReplicaPhase.READY]
            assert node.device.serving == frozenset({"web-1"})

    on_node(story)


def test_a_runtime_that_cannot_be_told_is_told_again_and_keeps_nothing_from_stopping(on_node) -> None:
    async def story(node: Node) -> None:
        async with node.agent() as supervisor:
            await supervisor.assign(1, [web(), web("web-2")])
            await served(node, "web-1", "web-2")
            for _ in range(5):
                node.device.fail("set_serving", Internal("nft refused"))
            began = asyncio.get_running_loop().time()
            await supervisor.assign(2, [replace(web(), stopping=True), web("web-2")])
            await node.until(lambda: supervisor.reports.get("web-1").gone)
            assert asyncio.get_running_loop().time() - began < 3
            await served(node, "web-2")

    on_node(story)


def test_it_is_called_ready_when_connections_lead_to_it(on_node) -> None:
    async def story(node: Node) -> None:
        said: list[tuple[ReplicaPhase, frozenset[str]]] = []
        async with node.agent() as supervisor:
            put = supervisor.reports.put

            def watch(replica_id: str, status) -> None:
                said.append((status.phase, node.device.serving))
                put(replica_id, status)

            supervisor.reports.put = watch  # type: ignore[method-assign]
            await supervisor.assign(1, [web()])
            await node.until_phase("web-1", ReplicaPhase.READY)
            await node.until(lambda: supervisor.reports.get("web-1").status.phase is ReplicaPhase.READY)
        assert [served for phase, served in said if phase is ReplicaPhase.READY] == [frozenset({"web-1"})]

    on_node(story)
