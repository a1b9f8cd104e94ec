"""The router: which runtime runs what, and what it makes of several."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cloudless.agent.runtime.base import RuntimeEvent, Sandbox
from cloudless.agent.runtime.router import RouterRuntime
from cloudless.clock import SystemClock
from cloudless.core.spec import Container, WorkloadSpec
from cloudless.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from cloudless.testing.runtime import FakeDevice, FakeRuntime

IMAGE = Container("main", "image")
PROCESS = Container("main", process=("sleep", "9"))


def sandbox(replica_id: str, *containers: Container) -> Sandbox:
    return Sandbox(replica_id, "default", "web", 1, WorkloadSpec(containers=containers))


@pytest.fixture
def two(tmp_path: Path) -> tuple[RouterRuntime, FakeDevice, FakeDevice]:
    one, other = (FakeDevice(SystemClock(), tmp_path / name, images={}) for name in ("c", "p"))
    one.images = None
    runtimes = [FakeRuntime(one, name="containerd"), FakeRuntime(other, name="process")]
    return RouterRuntime(runtimes), one, other


async def test_images_and_processes_go_where_they_run(two) -> None:
    router, one, other = two
    for name, container in (("r1", IMAGE), ("r2", PROCESS)):
        await router.ensure_sandbox(sandbox(name, container))
        await router.start_container(sandbox(name, container), container, attempt=0)
    assert (set(one.sandboxes), set(other.sandboxes)) == ({"r1"}, {"r2"})
    assert [view.replica_id for view in await router.list()] == ["r1", "r2"]
    assert router.log_path("r2", "main").is_relative_to(other.directory)
    assert router.runtime_name(sandbox("x", PROCESS).spec) == "process"
    await router.stop_container("r2", "main", grace_ms=100)
    await router.remove_sandbox("r2")
    await router.remove_sandbox("r2")
    assert not other.sandboxes
    with pytest.raises(NotFound):
        await router.stop_container("r2", "main", grace_ms=100)


async def test_a_restarted_agent_finds_the_holder_by_listing(two) -> None:
    router, one, other = two
    await router.ensure_sandbox(sandbox("r2", PROCESS))
    again = RouterRuntime([FakeRuntime(one, name="containerd"), FakeRuntime(other, name="process")])
    await again.list()
    assert again.log_path("r2", "main").is_relative_to(other.directory)
    unlisted = RouterRuntime([FakeRuntime(one, name="containerd"), FakeRuntime(other, name="process")])
    await unlisted.remove_sandbox("r2")
    assert not other.sandboxes


async def test_refusals(two) -> None:
    router, one, _ = two
    with pytest.raises(InvalidArgument, match="both"):
        await router.ensure_sandbox(sandbox("r", IMAGE, Container("b", process=("x",))))
    lonely = RouterRuntime([FakeRuntime(one, name="containerd")])
    with pytest.raises(FailedPrecondition, match="processes"):
        await lonely.ensure_sandbox(sandbox("r", PROCESS))
    assert lonely.runtime_name(sandbox("r", PROCESS).spec) == ""


async def test_half_a_list_is_no_list(two) -> None:
    router, _, other = two
    other.reachable = False
    with pytest.raises(Unavailable):
        await router.list()
    infos, features = await router.describe_all()
    assert [(i.name, i.available) for i in infos] == [("containerd", True), ("process", False)]
    assert [f.available for f in features] == [True]


async def test_events_of_all_and_an_end_when_one_ends_or_joins(two) -> None:
    router, one, other = two
    events = router.events()
    first = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0.01)
    other.events.publish(RuntimeEvent("r2"))
    assert (await first).replica_id == "r2"
    second = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0.01)
    one.events.publish(RuntimeEvent("r1"))
    assert (await second).replica_id == "r1"
    third = asyncio.ensure_future(anext(events, None))
    await asyncio.sleep(0.01)
    router.add(FakeRuntime(one, name="more"))
    assert await third is None
