"""The agents of the load generator are treated by a coordinator as real ones are: what they are told is signed."""

import asyncio

from cloudless.api.v1 import types_pb2
from cloudless.coordinator.core.commands import PutWorkload, RemoveNode
from cloudless.core.model import NodeState
from cloudless.core.spec import Container, Disruption, Metadata, WorkloadSpec
from cloudless.testing.agent_load import LoadAgent
from cloudless.testing.coordinator import running_coordinator


def device() -> types_pb2.DeviceInfo:
    made = types_pb2.DeviceInfo(device_class=types_pb2.DEVICE_CLASS_SERVER, arch="amd64", os="linux")
    made.capacity.cpu_millis, made.capacity.memory_bytes = 4000, 2**33
    made.runtimes.add(name="containerd", version="1", available=True)
    return made


async def test_it_is_told_signed_sets_and_renewals_and_obeys(tmp_path):
    async with running_coordinator(tmp_path, session__heartbeat_interval_ms=200) as coordinator:
        heard = asyncio.Event()
        credentials = await coordinator.node("load-1")
        agent = await LoadAgent.connect("load-1", coordinator.api_address, credentials, device(), on_word=heard.set)

        async def until(condition):
            watch = coordinator.store.watch()
            async with asyncio.timeout(10):
                while not condition(coordinator.state):
                    await anext(watch)
            watch.close()

        try:
            await until(lambda state: state.nodes["load-1"].state is NodeState.READY)
            spec = WorkloadSpec(
                containers=(Container(name="main", image="web:1"),),
                replicas=2,
                disruption=Disruption(lease_duration_ms=10_000),
            )
            await coordinator.store.propose(PutWorkload(Metadata("web", "default"), spec), actor="user/admin")
            await until(lambda state: [r.status.phase.name for r in state.replicas.values()] == ["READY"] * 2)
            assert len(agent.assigned) == 2
            assert agent.signed_sets >= 2  # the empty one of the beginning, and those with something in them
            async with asyncio.timeout(10):
                while not agent.renewals:
                    heard.clear()
                    await heard.wait()
            assert agent.acknowledged > 5
            await coordinator.store.propose(RemoveNode("load-1", force=True), actor="user/admin")
            async with asyncio.timeout(5):
                while not agent.lost:
                    heard.clear()
                    await heard.wait()
        finally:
            agent.close()
