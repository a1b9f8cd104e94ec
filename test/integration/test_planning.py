"""Explanations, plans and simulations of a real coordinator with agents that obey, held to what then happens."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cloudless.api.v1 import types_pb2
from cloudless.core.model import NodeState
from cloudless.errors import FailedPrecondition
from cloudless.testing.agent_load import LoadAgent
from cloudless.testing.coordinator import RunningCoordinator, eventually, running_coordinator

NODES = {"desk": ("home", "study", 1000), "laptop": ("home", "kitchen", 2000), "vps": ("cloud", "fsn1", 4000)}
WORKLOAD = """\
apiVersion: cloudless.dev/v1
kind: Workload
metadata: {name: %s}
spec:
  replicas: %d
  %s
  containers: [{name: main, image: 'docker.io/library/web:1', resources: {requests: {cpu: %s, memory: 64Mi}}}]
"""


def device(cpu_millis: int) -> types_pb2.DeviceInfo:
    made = types_pb2.DeviceInfo(device_class=types_pb2.DEVICE_CLASS_SERVER, arch="amd64", os="linux")
    made.capacity.cpu_millis, made.capacity.memory_bytes = cpu_millis, 8 * 2**30
    made.runtimes.add(name="containerd", version="1", available=True)
    return made


class Fabric:
    """A coordinator, three devices, and cloudlessctl."""

    def __init__(self, running: RunningCoordinator, directory: Path) -> None:
        self.running = running
        self.directory = directory
        self.agents: list[LoadAgent] = []

    async def join(self) -> None:
        for name, (region, zone, cpu_millis) in NODES.items():
            jwt = await self.running.token(node_pattern=name, region=region, zone=zone)
            credentials = await self.running.node(name, jwt=jwt)
            self.agents.append(await LoadAgent.connect(name, self.running.api_address, credentials, device(cpu_millis)))
        await eventually(
            lambda: [n.state for n in self.running.state.nodes.values()] == [NodeState.READY] * len(NODES) or None,
            what="all devices to be ready",
        )

    async def ctl(self, *arguments: str, stdin: str = "", code: int = 0) -> str:
        """What it prints; on stderr where it is to fail."""
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).parent / "cloudlessctl"),
            *arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "CLOUDLESS_CONFIG": str(self.directory / "config.yaml"), "COLUMNS": "200"},
        )
        out, errors = await process.communicate(stdin.encode())
        assert process.returncode == code, errors.decode()
        return (errors if code else out).decode()

    async def apply(self, name: str, *, replicas: int = 1, more: str = "", cpu: str = "100m") -> None:
        await self.ctl("apply", "-f", "-", stdin=WORKLOAD % (name, replicas, more, cpu))

    def places(self, name: str) -> list[str]:
        return sorted(
            r.node_id for r in self.running.state.replicas_of("default", name) if r.node_id and not r.stopping
        )

    async def placed(self, name: str, count: int) -> list[str]:
        await eventually(lambda: len(self.places(name)) == count or None, what=f"{count} of {name}")
        return self.places(name)


@pytest.fixture
async def fabric(tmp_path: Path) -> AsyncIterator[Fabric]:
    async with running_coordinator(tmp_path) as running:
        made = Fabric(running, tmp_path)
        await made.ctl("config", "import", str(running.admin_context))
        await made.join()
        yield made
        for agent in made.agents:
            agent.close()


async def test_what_fits_nowhere_is_explained_and_the_change_that_is_named_makes_it_fit(fabric: Fabric) -> None:
    await fabric.apply("big", cpu="3", more="placement: {regions: [home], required: true}")
    shown = await fabric.ctl("explain", "placement", "big")
    assert "insufficient cpu" in shown
    assert "not in the required regions home" in shown
    for name in NODES:
        assert name in shown, "each node has its reasons"
    answer: dict[str, Any] = json.loads(await fabric.ctl("explain", "placement", "big", "-o", "json"))
    reasons = {node for rejection in answer["decision"]["rejections"] for node in rejection["nodeIds"]}
    assert reasons == set(NODES)
    remedies = {remedy["path"]: remedy for remedy in answer["remedies"]}
    assert remedies
    # Each that is a change of the manifest is done, and then it is where it was said to be.
    for path, more, cpu in (
        ("spec.placement.required", "", "3"),
        ("spec.containers[0].resources.requests.cpu", "placement: {regions: [home], required: true}", "2"),
    ):
        remedy = next((r for p, r in remedies.items() if p.startswith(path) or path.startswith(p)), None)
        assert remedy is not None, f"{path} is not among {sorted(remedies)}"
        await fabric.apply("big", more=more, cpu=cpu)
        assert await fabric.placed("big", 1) == [remedy["nodeId"]]
        await fabric.ctl("delete", "workload", "big", "--wait")
        await fabric.apply("big", cpu="3", more="placement: {regions: [home], required: true}")


async def test_a_placed_replica_is_explained_as_it_was_decided_and_as_it_would_be_now(fabric: Fabric) -> None:
    await fabric.apply("web", replicas=2)
    await fabric.placed("web", 2)
    replica = fabric.running.state.replicas_of("default", "web")[0].id
    shown = await fabric.ctl("explain", "placement", f"web/{replica}")
    assert f"Replica {replica}, as it was decided" in shown
    assert "One more replica of web, now" in shown
    for word in ("LOCALITY", "RELIABILITY", "COST", "UTILIZATION", "NETWORK PENALTY", "Weights"):
        assert word in shown
    assert "was not found" in await fabric.ctl("explain", "placement", "nothing", code=3)
    assert "not of the form" in await fabric.ctl("explain", "placement", "web/", code=2)


async def test_a_plan_says_what_an_apply_then_does(fabric: Fabric) -> None:
    manifest = WORKLOAD % ("web", 3, "placement: {spread: [{topologyKey: node}]}", "100m")
    planned = json.loads(await fabric.ctl("plan", "-f", "-", "-o", "json", stdin=manifest))
    assert not fabric.running.state.workloads, "a plan changes nothing"
    await fabric.ctl("apply", "-f", "-", stdin=manifest)
    assert sorted(c["toNode"] for c in planned["changes"]) == await fabric.placed("web", 3)
    (row,) = planned["workloads"]
    assert (row["desired"], row["placedBefore"], row["placedAfter"], row["message"]) == (3, 0, 3, "")
    shown = await fabric.ctl("plan", "-f", "-", stdin=manifest.replace("replicas: 3", "replicas: 1"))
    assert shown.count("stops") == 2
    again = await fabric.ctl("plan", "-f", "-", stdin=manifest)
    assert "no replica would start, stop or move" in again
    wrong = await fabric.ctl("plan", "-f", "-", stdin=manifest.replace("replicas: 3", "replicas: x"), code=2)
    assert "spec.replicas: expected" in wrong


async def test_a_simulation_says_what_would_move_and_what_would_no_longer_fit(fabric: Fabric) -> None:
    await fabric.apply("web", replicas=3, more="placement: {spread: [{topologyKey: node}]}")
    await fabric.apply("big", cpu="3")
    await fabric.placed("web", 3)
    assert await fabric.placed("big", 1) == ["vps"]
    shown = await fabric.ctl("simulate", "--drop-zone", "fsn1")
    assert shown.startswith("away: vps\n")
    assert "moves" in shown
    assert "1 replica fits nowhere: no node fits: insufficient cpu on 2 nodes" in shown
    assert len(fabric.places("web")) == 3, "nothing happened"
    answer = json.loads(await fabric.ctl("simulate", "--drop-node", "desk,laptop", "--at", "+2h", "-o", "json"))
    assert answer["nodesAway"] == ["desk", "laptop"]
    assert {(c["workload"], c["change"], c["toNode"]) for c in answer["changes"]} == {("web", "move", "vps")}
    assert "was not found" in await fabric.ctl("simulate", "--drop-node", "nobody", code=3)
    assert "there are: fsn1, kitchen, study" in await fabric.ctl("simulate", "--drop-zone", "attic", code=3)
    assert "nothing is supposed to happen" in await fabric.ctl("simulate", code=2)
    assert "is no time" in await fabric.ctl("simulate", "--at", "teatime", code=2)


async def test_rollouts_are_steered_from_the_command_line(fabric: Fabric) -> None:
    await fabric.apply("web", replicas=2)
    await fabric.ctl("rollout", "status", "web", "--timeout", "20s")
    await fabric.ctl("rollout", "pause", "web")
    await fabric.apply("web", replicas=2, cpu="200m")
    assert "is paused" in await fabric.ctl("rollout", "status", "web")
    assert {r.generation for r in fabric.running.state.replicas_of("default", "web")} == {1}
    await fabric.ctl("rollout", "resume", "web")
    await fabric.ctl("rollout", "status", "web", "--timeout", "20s")
    history = await fabric.ctl("rollout", "history", "web", "--no-headers")
    assert [line.split()[0] for line in history.splitlines()] == ["1", "2"]
    assert "cpu: 200m" in await fabric.ctl("rollout", "history", "web", "--revision", "2")
    undone = await fabric.ctl("rollout", "undo", "web", "--wait", "--timeout", "20s")
    assert undone.startswith("workload/web goes back as generation 3")
    record = fabric.running.state.workloads["default", "web"]
    assert record.spec.containers[0].resources.requests.cpu_millis == 100
    refused = await fabric.ctl("rollout", "promote", "web", code=FailedPrecondition.exit_code)
    assert "waits for no promotion" in refused
