"""The fake runtime on virtual time, and its script: what other tests rely on. Its contract is the conformance
suite's matter."""

import asyncio

import pytest

from cloudless.agent.runtime.base import ContainerState, ExecRequest, Image, Sandbox
from cloudless.core.spec import Container, ContainerPort, WorkloadSpec
from cloudless.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from cloudless.testing import simloop
from cloudless.testing.runtime import Behaviour, FakeDevice, FakeRuntime

CONTAINER = Container(name="main", image="web:1", ports=(ContainerPort("http", 80),))


def sandbox(replica_id="r1", *containers):
    return Sandbox(replica_id, "default", "web", 1, WorkloadSpec(containers=containers or (CONTAINER,)))


def simulated(directory, scenario, **script):
    """Runs `scenario(runtime, device, loop)` on virtual time."""

    async def main(loop):
        device = FakeDevice(simloop.SimClock(loop), directory, **script)
        runtime = FakeRuntime(device)
        await runtime.start()
        return await scenario(runtime, device, loop)

    return simloop.run(main)


async def launch(runtime, box=None, attempt=0):
    box = box or sandbox()
    await runtime.ensure_sandbox(box)
    return await runtime.start_container(box, box.spec.containers[0], attempt=attempt)


async def view(runtime):
    return (await runtime.list())[0].containers[0]


def test_hours_of_a_container_pass_in_no_time(tmp_path):
    async def scenario(runtime, device, loop):
        started = await launch(runtime)
        events = runtime.events()
        event = await anext(events)
        assert (event.replica_id, event.container, event.kind) == ("r1", "main", "exit")
        ended = await view(runtime)
        assert (ended.exit_code, ended.oom_killed) == (3, False)
        assert ended.finished_at_ms - started.started_at_ms == 7_200_000
        return loop.time()

    behave = lambda *_: Behaviour(exit_after_ms=7_200_000, exit_code=3)  # noqa: E731
    assert simulated(tmp_path, scenario, behave=behave) == pytest.approx(7200)


def test_behaviour_depends_on_the_attempt(tmp_path):
    """Fails twice, then runs: what a restart test needs."""

    def behave(_sandbox, _container, attempt):
        return Behaviour(exit_after_ms=100, exit_code=1) if attempt < 2 else Behaviour()

    async def scenario(runtime, device, loop):
        box = sandbox()
        for attempt in range(3):
            await launch(runtime, box, attempt)
            await asyncio.sleep(1)
        seen = await view(runtime)
        assert (seen.state, seen.attempt) == (ContainerState.RUNNING, 2)

    simulated(tmp_path, scenario, behave=behave)


def test_slow_starts_and_failing_ones(tmp_path):
    async def scenario(runtime, device, loop):
        await launch(runtime)
        assert loop.time() == pytest.approx(5)
        device.behave = lambda *_: Behaviour(start_error=InvalidArgument("no such program"))
        with pytest.raises(InvalidArgument):
            await launch(runtime, sandbox("r2"))
        assert [len(v.containers) for v in await runtime.list()] == [1, 0]

    simulated(tmp_path, scenario, behave=lambda *_: Behaviour(start_delay_ms=5000))


def test_removed_while_it_starts(tmp_path):
    async def scenario(runtime, device, loop):
        starting = asyncio.ensure_future(launch(runtime))
        await asyncio.sleep(1)
        await runtime.remove_sandbox("r1")
        with pytest.raises(NotFound):
            await starting
        assert list(await runtime.list()) == []

    simulated(tmp_path, scenario, behave=lambda *_: Behaviour(start_delay_ms=5000))


def test_missing_images_can_be_imported(tmp_path):
    archive = tmp_path / "web.tar"
    archive.write_bytes(b"layers")

    async def scenario(runtime, device, loop):
        with pytest.raises(FailedPrecondition) as refused:
            await launch(runtime)
        assert refused.value.reason == "ImageMissing"
        (image,) = await runtime.import_image(archive, reference="web:1")
        assert image == Image("web:1", "sha256:web:1", 6)
        assert (await launch(runtime)).image_digest == "sha256:web:1"
        assert list(await runtime.images()) == [image]

    simulated(tmp_path / "device", scenario, images={})


def test_oom_and_sudden_ends(tmp_path):
    async def scenario(runtime, device, loop):
        await launch(runtime)
        device.exit("r1", "main", code=137, oom_killed=True)
        seen = await view(runtime)
        assert (seen.state, seen.exit_code, seen.oom_killed) == (ContainerState.EXITED, 137, True)
        device.exit("r1", "main", code=0)  # an exited container stays as it ended
        assert (await view(runtime)).exit_code == 137

    simulated(tmp_path, scenario)


def test_an_earlier_attempts_timer_does_not_end_a_later_one(tmp_path):
    def behave(_sandbox, _container, attempt):
        return Behaviour(exit_after_ms=1000) if attempt == 0 else Behaviour()

    async def scenario(runtime, device, loop):
        box = sandbox()
        await launch(runtime, box)
        device.exit("r1", "main", code=1)
        await launch(runtime, box, 1)
        await asyncio.sleep(10)
        assert (await view(runtime)).state is ContainerState.RUNNING

    simulated(tmp_path, scenario, behave=behave)


def test_an_agent_restarts_on_the_same_device(tmp_path):
    async def scenario(runtime, device, loop):
        started = await launch(runtime, attempt=4)
        events = runtime.events()
        await runtime.close()
        assert [event.kind async for event in events][-1:] in ([], ["start"])
        adopted = FakeRuntime(device)
        await adopted.start()
        assert await view(adopted) == started
        device.power_cycle()
        assert (await view(adopted)).exit_code == 137

    simulated(tmp_path, scenario)


def test_failures_are_injected_once_and_outages_last(tmp_path):
    async def scenario(runtime, device, loop):
        device.fail("ensure_sandbox", Unavailable("busy"))
        with pytest.raises(Unavailable):
            await launch(runtime)
        await launch(runtime)
        device.reachable = False
        for call in (runtime.list(), runtime.stats("r1", "main"), runtime.remove_sandbox("r1")):
            with pytest.raises(Unavailable):
                await call
        info, _ = await runtime.describe()
        assert not info.available
        device.reachable = True
        assert [name for name, _ in device.calls][-4:] == ["start_container", "list", "stats", "remove_sandbox"]
        assert (await view(runtime)).state is ContainerState.RUNNING

    simulated(tmp_path, scenario)


def test_output_is_in_a_real_file_and_only_when_there_is_any(tmp_path):
    def behave(_sandbox, _container, attempt):
        return Behaviour(output=b"" if attempt == 0 else b"hello\n", exit_after_ms=0)

    async def scenario(runtime, device, loop):
        box = sandbox()
        await launch(runtime, box)
        await asyncio.sleep(1)
        assert not tmp_path.joinpath("device").exists()
        await launch(runtime, box, 1)
        assert runtime.log_path("r1", "main").read_bytes() == b"hello\n"

    simulated(tmp_path / "device", scenario, behave=behave)


def test_the_default_exec_prints_its_arguments(tmp_path):
    async def scenario(runtime, device, loop):
        await launch(runtime)
        session = await runtime.exec(ExecRequest("r1", "main", ("echo", "a")))
        assert [item async for item in session.output()] == [(False, b"echo a\n")]
        assert await session.wait() == 0

    simulated(tmp_path, scenario)


def test_a_broken_exec_program_is_loud(tmp_path):
    async def program(_request, _streams):
        raise ZeroDivisionError

    async def scenario(runtime, device, loop):
        await launch(runtime)
        session = await runtime.exec(ExecRequest("r1", "main", ("x",)))
        with pytest.raises(ZeroDivisionError):
            await session.wait()

    simulated(tmp_path, scenario, program=program)


def test_the_same_script_gives_the_same_run(tmp_path):
    def behave(box, _container, attempt):
        return Behaviour(exit_after_ms=10 * (attempt + len(box.replica_id)), exit_code=attempt)

    async def scenario(runtime, device, loop):
        for number in range(20):
            await launch(runtime, sandbox(f"r{number}"))
        seen = []
        events = runtime.events()
        while len(seen) < 20:
            event = await anext(events)
            seen.append((loop.time(), event))
        return seen, list(await runtime.list())

    assert simulated(tmp_path / "a", scenario, behave=behave) == simulated(tmp_path / "b", scenario, behave=behave)
