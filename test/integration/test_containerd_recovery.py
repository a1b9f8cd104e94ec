"""A real containerd that is killed, shims that are killed, agents that are killed: what runs goes on, nothing is lost
and nothing is left."""

import asyncio
import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import pytest_asyncio

from cloudless.agent.network import namespaces
from cloudless.agent.network.netlink import Netlink
from cloudless.agent.runtime.base import ContainerState, ExecRequest, Sandbox
from cloudless.agent.runtime.containerd import ContainerdRuntime, labels
from cloudless.agent.runtime.containerd.api import leases_pb2, snapshots_pb2
from cloudless.clock import SystemClock
from cloudless.core.spec import Container, ContainerPort, Protocol, SecurityContext, WorkloadSpec
from cloudless.dev import mounts
from cloudless.errors import FailedPrecondition, NotFound, Unavailable
from cloudless.testing.containerd import BOX, ContainerdMachine
from cloudless.testing.fabric import require_containerd

pytestmark = [pytest.mark.containerd, pytest.mark.xdist_group("containerd-recovery")]

WAIT = "trap 'exit 5' TERM; echo ready; while :; do sleep 100 & wait $!; done"
COUNT = "i=0; while :; do i=$((i+1)); echo line $i; busybox usleep 5000; done"


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    require_containerd()
    machine = ContainerdMachine(tmp_path_factory.mktemp("recovery"))
    machine.start()
    try:
        yield machine
    finally:
        machine.stop()
    assert not machine.daemon.directory.exists()
    assert mounts.mounted_below(machine.box_archive.parent) == []


@pytest.fixture
def place(machine, tmp_path):
    return machine.agent(tmp_path / "agent")


def connect(place):
    return ContainerdRuntime(place.config, data_dir=place.data_dir, clock=SystemClock())


@pytest_asyncio.fixture
async def runtime(machine, place):
    runtime = connect(place)
    await runtime.start()
    await runtime.import_image(machine.box_archive)
    try:
        yield runtime
    finally:
        await runtime.close()
        machine.daemon.start()
        await place.purge()
    assert place.leftovers() == []


def make(name="r1", script=WAIT, **fields):
    container = Container(name="main", image=BOX, command=("/bin/sh", "-c", script), **fields)
    return Sandbox(name, "default", "web", 1, WorkloadSpec(containers=(container,)))


async def launch(runtime, sandbox, *, attempt=0):
    await runtime.ensure_sandbox(sandbox)
    return await runtime.start_container(sandbox, sandbox.spec.containers[0], attempt=attempt)


async def look(runtime, replica="r1"):
    for view in await runtime.list():
        if view.replica_id == replica:
            return view.containers[0]
    raise AssertionError(replica)


async def answering(runtime):
    """The list, as soon as containerd answers again."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await runtime.list()
            except Unavailable:
                await asyncio.sleep(0.02)


async def until(check):
    async with asyncio.timeout(20):
        while not (found := await check()):
            await asyncio.sleep(0.01)
    return found


async def state_is(runtime, state, replica="r1"):
    async def check():
        view = await look(runtime, replica)
        return view if view.state is state else None

    return await until(check)


async def test_containers_survive_a_killed_containerd_and_are_known_again(machine, runtime):
    before = await launch(runtime, make(script=COUNT))
    machine.daemon.kill()
    with pytest.raises(Unavailable):
        await runtime.list()
    assert Path(f"/proc/{before.pid}").exists()
    machine.daemon.start()
    await answering(runtime)
    assert await look(runtime) == before
    await runtime.stop_container("r1", "main", grace_ms=0)
    assert (await look(runtime)).exit_code == 137
    lines = runtime.log_path("r1", "main").read_text().splitlines()
    assert lines == [f"line {n}" for n in range(1, len(lines) + 1)]


async def test_an_exit_while_containerd_is_away_is_kept(machine, runtime):
    view = await launch(runtime, make())

    async def ready():
        return "ready" in runtime.log_path("r1", "main").read_text()

    await until(ready)
    machine.daemon.kill()
    os.kill(view.pid, signal.SIGTERM)
    await until(lambda: gone(view.pid))
    machine.daemon.start()
    await answering(runtime)
    ended = await state_is(runtime, ContainerState.EXITED)
    assert ended.exit_code == 5


async def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


async def test_events_end_with_the_connection_and_come_again(machine, runtime):
    await launch(runtime, make())
    events = runtime.events()
    waiting = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0.05)
    machine.daemon.kill()
    with pytest.raises(Unavailable):
        await asyncio.wait_for(waiting, 10)
    machine.daemon.start()
    await answering(runtime)
    again = runtime.events()
    waiting = asyncio.ensure_future(anext(again))
    await asyncio.sleep(0.05)
    await runtime.stop_container("r1", "main", grace_ms=0)
    event = await asyncio.wait_for(waiting, 10)
    assert (event.replica_id, event.container) == ("r1", "main")
    await again.aclose()


async def test_an_exec_outlives_a_killed_containerd(machine, runtime):
    await launch(runtime, make())
    command = ("/bin/sh", "-c", "echo begun; read line; echo got $line; exit 9")
    session = await runtime.exec(ExecRequest("r1", "main", command, stdin=True))
    stream = session.output()
    assert (await anext(stream))[1] == b"begun\n"
    machine.daemon.kill()
    machine.daemon.start()
    await answering(runtime)
    await session.write_stdin(b"on\n")
    rest = b"".join([data async for _, data in stream])
    assert rest == b"got on\n"
    assert await asyncio.wait_for(session.wait(), 10) == 9
    await session.close()


async def test_a_killed_shim_ends_its_container_and_the_next_attempt_runs(runtime):
    view = await launch(runtime, make())
    shim = int(Path(f"/proc/{view.pid}/stat").read_text().rpartition(")")[2].split()[1])
    assert b"containerd-shim" in Path(f"/proc/{shim}/cmdline").read_bytes()
    socket = runtime._started_tasks()._shim_socket("r1.main")
    assert socket.is_socket()
    os.kill(shim, signal.SIGKILL)
    ended = await state_is(runtime, ContainerState.EXITED)
    assert ended.exit_code in (137, labels.LOST_EXIT_CODE)
    again = await runtime.start_container(make(), make().spec.containers[0], attempt=1)
    assert again.state is ContainerState.RUNNING
    await runtime.remove_sandbox("r1")
    assert not socket.exists()


async def test_a_new_agent_adopts_everything_from_containerd_alone(place, runtime, unused_tcp_port):
    port = ContainerPort("http", 80, Protocol.TCP, unused_tcp_port)
    sandbox = make("r1", ports=(port,))
    running = await launch(runtime, sandbox, attempt=3)
    ended = make("r2", script="exit 4")
    await launch(runtime, ended, attempt=1)
    await state_is(runtime, ContainerState.EXITED, "r2")
    before = list(await runtime.list())
    await runtime.close()
    # its own files are gone as well, except for the mounted namespaces
    adopted = connect(place)
    await adopted.start()
    try:
        assert list(await adopted.list()) == before
        assert await adopted.ensure_sandbox(sandbox) == before[0]
        assert await adopted.start_container(sandbox, sandbox.spec.containers[0], attempt=3) == running
        with pytest.raises(FailedPrecondition) as refused:
            await adopted.ensure_sandbox(dataclasses.replace(make("r3", ports=(port,)), workload="other"))
        assert refused.value.reason == "HostPortInUse"
        await adopted.ensure_sandbox(make("r4", ports=(port,)))  # another replica of the workload that has it
    finally:
        await adopted.close()


async def test_an_agent_killed_in_the_middle_of_a_start_repeats_it(place, runtime):
    """Between the record and the task, and between the task's creation and its start."""
    sandbox = make()
    await runtime.ensure_sandbox(sandbox)
    tasks = runtime._started_tasks()
    for cut in ("Create", "Start"):
        stub, whole = runtime._client.tasks, getattr(runtime._client.tasks, cut)
        dying = asyncio.get_running_loop().create_future()

        def hang(*_arguments, dying=dying, **_more):
            dying.set_result(None)
            return asyncio.get_running_loop().create_future()

        setattr(stub, cut, hang)
        tasks._give_up = abandon
        start = asyncio.ensure_future(runtime.start_container(sandbox, sandbox.spec.containers[0], attempt=0))
        await dying
        start.cancel()
        await asyncio.gather(start, return_exceptions=True)
        setattr(stub, cut, whole)
        second = connect(place)
        await second.start()
        assert (await look(second)).exit_code == labels.LOST_EXIT_CODE
        view = await second.start_container(sandbox, sandbox.spec.containers[0], attempt=0)
        assert view.state is ContainerState.RUNNING
        await second.remove_sandbox("r1")
        await second.ensure_sandbox(sandbox)
        await second.close()


async def abandon(_container_id):
    """What an agent that is dead does about a start that failed."""


async def test_a_power_cut_takes_tasks_and_networks_and_the_agent_makes_them_again(machine, place, runtime):
    sandbox = make()
    made = await runtime.ensure_sandbox(sandbox)
    await runtime.start_container(sandbox, sandbox.spec.containers[0], attempt=0)
    await runtime.close()
    machine.daemon.stop()  # ends the shims, as a reboot does
    namespaces.remove(place.data_dir / "netns" / "r1")
    (place.data_dir / "netns" / "r1").touch()
    with Netlink() as kernel:
        for name in (*place.links(), place.config.bridge):
            if link := kernel.link(name):
                kernel.delete_link(link.index)
    machine.daemon.start()
    again = connect(place)
    await again.start()
    try:
        lost = await look(again)
        assert (lost.state, lost.exit_code, lost.attempt) == (ContainerState.EXITED, labels.LOST_EXIT_CODE, 0)
        assert (await again.ensure_sandbox(sandbox)).address == made.address
        view = await again.start_container(sandbox, sandbox.spec.containers[0], attempt=1)
        assert view.state is ContainerState.RUNNING
        session = await again.exec(ExecRequest("r1", "main", ("busybox", "ip", "-4", "addr", "show", "eth0")))
        output = b"".join([data async for _, data in session.output()])
        assert f"inet {made.address}/24".encode() in output
        await session.close()
    finally:
        await again.close()


async def test_leftovers_of_a_killed_agent_are_removed_at_the_next_start(place, runtime):
    await launch(runtime, make("keep"))
    await launch(runtime, make("half"))
    # killed in the middle of a removal: the sandbox's own record is gone, the rest is not
    await runtime._started_tasks().remove(labels.sandbox_id("half"))
    await runtime.close()
    namespaces.create(place.data_dir / "netns" / "stray")
    (place.data_dir / "logs" / "stray").mkdir()
    again = connect(place)
    await again.start()
    try:
        assert [view.replica_id for view in await again.list()] == ["keep"]
        left = place.replica_leftovers()
        assert not [line for line in left if "half" in line or "stray" in line]
        assert (await look(again, "keep")).state is ContainerState.RUNNING
        assert len(place.links()) == 1
    finally:
        await again.close()


async def test_two_agents_on_one_machine_do_not_see_each_other(machine, place, runtime, tmp_path):
    other_place = machine.agent(tmp_path / "other")
    other = connect(other_place)
    await other.start()
    try:
        await other.import_image(machine.box_archive)
        one, two = await asyncio.gather(launch(runtime, make()), launch(other, make()))
        assert one.pid != two.pid
        assert len(await runtime.list()) == len(await other.list()) == 1
        await other.remove_sandbox("r1")
        assert (await look(runtime)).state is ContainerState.RUNNING
    finally:
        await other.close()
        await other_place.purge()
    assert other_place.leftovers() == []
    assert (await look(runtime)).state is ContainerState.RUNNING
    assert len(place.links()) == 1


async def test_host_network_has_no_namespace_of_its_own(place, runtime):
    container = make().spec.containers[0]
    spec = WorkloadSpec(containers=(container,), security_context=SecurityContext(host_network=True))
    sandbox = Sandbox("r1", "default", "web", 1, spec)
    view = await runtime.ensure_sandbox(sandbox)
    started = await runtime.start_container(sandbox, container, attempt=0)
    assert view.address == "127.0.0.1"
    assert place.links() == []
    assert os.readlink(f"/proc/{started.pid}/ns/net") == os.readlink("/proc/self/ns/net")


async def test_purge_as_a_program_removes_what_runs(place, runtime):
    await launch(runtime, make())
    await runtime.close()
    config = place.config
    command = [sys.executable, "-m", "cloudless.agent.purge", f"--data-dir={place.data_dir}"]
    command += [
        f"--runtime-{field.name.replace('_', '-')}={getattr(config, field.name)}"
        for field in dataclasses.fields(config)
        if isinstance(getattr(config, field.name), str)
    ]
    asked = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert asked.returncode == 2
    assert "--yes" in asked.stderr
    for _ in range(2):
        done = await asyncio.to_thread(subprocess.run, [*command, "--yes"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert place.leftovers() == []


async def test_calls_before_start_and_without_containerd_say_so(place, tmp_path):
    absent = dataclasses.replace(place.config, containerd_address=str(tmp_path / "none.sock"))
    runtime = ContainerdRuntime(absent, data_dir=tmp_path / "data", clock=SystemClock())
    with pytest.raises(Unavailable):
        await runtime.list()
    with pytest.raises(Unavailable) as refused:
        await runtime.start()
    assert refused.value.reason == "RuntimeUnavailable"
    info, features = await runtime.describe()
    assert not info.available
    assert info.detail
    assert features
    await runtime.close()


async def test_an_unknown_replica_is_not_found(runtime):
    with pytest.raises(NotFound):
        await runtime.start_container(make("none"), make().spec.containers[0], attempt=0)


async def test_no_lease_or_view_stays_behind(runtime):
    await launch(runtime, make())
    client = runtime._client
    assert not (await client.call(client.leases.List, leases_pb2.ListRequest())).leases
    request = snapshots_pb2.ListSnapshotsRequest(snapshotter="overlayfs")
    infos = [info async for answer in client.stream(client.snapshots.List, request) for info in answer.info]
    assert [info.name for info in infos if info.kind == snapshots_pb2.VIEW] == []
