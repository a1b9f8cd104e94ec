"""The contract of `agent/runtime/base.py`, for every runtime. A container's behaviour is a program of
`cloudless.testing.runtime_provider`; what is real about it is the provider's matter."""

import asyncio
import dataclasses
import os
import time
import uuid

import pytest

from cloudless.agent.runtime.base import (
    COMMAND_NOT_EXECUTABLE,
    COMMAND_NOT_FOUND,
    ContainerState,
    ExecRequest,
    Sandbox,
)
from cloudless.core.spec import ContainerPort, EnvVar, Protocol, ResourceAmounts, WorkloadSpec
from cloudless.errors import FailedPrecondition, InvalidArgument, NotFound
from cloudless.testing.runtime_provider import (
    Allocate,
    EchoStdin,
    IgnoreSigterm,
    NewUserNamespace,
    NoSuchProgram,
    Print,
    PrintEnvironment,
    PrintStatus,
    RunForever,
    ServeHttp,
    Spawn,
    Spin,
    TerminalSize,
)

MIB = 2**20
GRACE_MS = 5_000
RUN_FOREVER = RunForever()


def make_sandbox(*containers):
    return Sandbox(f"r{uuid.uuid4().hex[:12]}", "default", "web", 3, WorkloadSpec(containers=containers))


async def launch(device, runtime, program, *, attempt=0, **changes):
    """A sandbox with one container `main` that has been started."""
    sandbox = make_sandbox(device.container("main", program, **changes))
    await runtime.ensure_sandbox(sandbox)
    view = await runtime.start_container(sandbox, sandbox.spec.containers[0], attempt=attempt)
    return sandbox, view


async def look(runtime, sandbox, name="main"):
    for view in await runtime.list():
        if view.replica_id == sandbox.replica_id:
            return next((c for c in view.containers if c.name == name), None)
    return None


async def until(check, *, within_s=15.0):
    """Polls, for the few things that no event announces."""
    deadline = time.monotonic() + within_s
    while not (found := await check()):
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)
    return found


async def exited(runtime, sandbox, name="main"):
    async def check():
        view = await look(runtime, sandbox, name)
        return view if view and view.state is ContainerState.EXITED else None

    return await until(check)


def log(runtime, sandbox, name="main"):
    """All that was logged; a runtime may make the file with the first byte."""
    path = runtime.log_path(sandbox.replica_id, name)
    return path.read_text() if path.exists() else ""


async def logged(runtime, sandbox, text, name="main"):
    async def check():
        return text in log(runtime, sandbox, name)

    await until(check)


async def running(device, runtime, program=RUN_FOREVER, **changes):
    sandbox, view = await launch(device, runtime, program, **changes)
    await logged(runtime, sandbox, "ready")
    return sandbox, view


async def run_exec(runtime, sandbox, command, *, stdin=None, **changes):
    """(exit code, stdout, stderr) of an exec."""
    request = ExecRequest(sandbox.replica_id, "main", command, stdin=stdin is not None, **changes)
    session = await runtime.exec(request)
    try:
        if stdin is not None:
            await session.write_stdin(stdin)
            await session.close_stdin()
        streams = {False: b"", True: b""}
        async for is_stderr, data in session.output():
            streams[is_stderr] += data
        return await session.wait(), streams[False], streams[True]
    finally:
        await session.close()


# --- what it is ---


async def test_describe_names_the_runtime_and_explains_every_missing_feature(provider, runtime):
    info, features = await runtime.describe()
    assert info.name == runtime.name == (provider.runtime_name or provider.name)
    assert info.available
    assert info.version
    assert len({f.name for f in features}) == len(features)
    assert [f.name for f in features if not f.available and not f.detail] == []


async def test_start_and_close_may_be_repeated(device, runtime):
    await runtime.start()
    sandbox, _ = await running(device, runtime)
    await runtime.close()
    await runtime.close()
    await runtime.start()
    assert (await look(runtime, sandbox)).state is ContainerState.RUNNING


# --- sandboxes ---


async def test_a_new_sandbox_is_listed_without_containers(device, runtime):
    assert list(await runtime.list()) == []
    sandbox = make_sandbox(device.container("main", RunForever()))
    made = await runtime.ensure_sandbox(sandbox)
    assert (made.replica_id, made.namespace, made.workload, made.generation) == (
        sandbox.replica_id,
        "default",
        "web",
        3,
    )
    assert made.address
    assert made.containers == ()
    assert list(await runtime.list()) == [made]


async def test_ensure_sandbox_changes_nothing_when_repeated(device, runtime):
    sandbox, _ = await running(device, runtime)
    before = list(await runtime.list())
    assert await runtime.ensure_sandbox(sandbox) == before[0]
    assert list(await runtime.list()) == before


async def test_remove_leaves_nothing_and_may_be_repeated(device, runtime):
    one, _ = await running(device, runtime, IgnoreSigterm())
    two, _ = await launch(device, runtime, Print("x", exit_code=1))
    await exited(runtime, two)
    three = make_sandbox(device.container("main", RunForever()))
    await runtime.ensure_sandbox(three)
    assert device.leftovers()
    for sandbox in (one, two, three, one):
        await runtime.remove_sandbox(sandbox.replica_id)
    assert list(await runtime.list()) == []
    assert list(device.leftovers()) == []
    assert not runtime.log_path(one.replica_id, "main").exists()
    await runtime.remove_sandbox("never-was")


async def test_a_removed_sandbox_can_be_made_again(device, runtime):
    sandbox, _ = await launch(device, runtime, Print("once\n"), attempt=4)
    await exited(runtime, sandbox)
    await runtime.remove_sandbox(sandbox.replica_id)
    await runtime.ensure_sandbox(sandbox)
    again = await runtime.start_container(sandbox, sandbox.spec.containers[0], attempt=0)
    assert again.attempt == 0
    await exited(runtime, sandbox)
    assert log(runtime, sandbox) == "once\n"


# --- containers ---


async def test_a_started_container_runs(device, runtime):
    before_ms = time.time_ns() // 1_000_000
    sandbox, view = await running(device, runtime)
    assert (view.replica_id, view.name, view.state, view.attempt) == (
        sandbox.replica_id,
        "main",
        ContainerState.RUNNING,
        0,
    )
    assert view.pid > 0
    assert before_ms - 1000 <= view.started_at_ms <= time.time_ns() // 1_000_000 + 1000
    assert view.finished_at_ms == 0
    assert await look(runtime, sandbox) == view


async def test_starting_a_running_container_leaves_it_alone(device, runtime):
    sandbox, view = await running(device, runtime)
    for attempt in (0, 1):
        assert await runtime.start_container(sandbox, sandbox.spec.containers[0], attempt=attempt) == view


@pytest.mark.parametrize("code", [0, 1, 42, 255])
async def test_the_exit_code_is_kept(device, runtime, code):
    sandbox, _ = await launch(device, runtime, Print(exit_code=code))
    view = await exited(runtime, sandbox)
    assert view.exit_code == code
    assert not view.oom_killed
    assert view.finished_at_ms >= view.started_at_ms > 0


async def test_an_attempt_that_has_exited_does_not_run_twice(device, runtime):
    """An agent that was killed after the start repeats it."""
    sandbox, _ = await launch(device, runtime, Print("x", exit_code=3), attempt=2)
    view = await exited(runtime, sandbox)
    assert await runtime.start_container(sandbox, sandbox.spec.containers[0], attempt=2) == view
    assert log(runtime, sandbox) == "x"


async def test_a_later_attempt_replaces_an_exited_one_and_the_log_goes_on(device, runtime):
    sandbox, _ = await launch(device, runtime, Print("out\n", "err\n", 1))
    for attempt in (1, 2, 5):
        await exited(runtime, sandbox)
        started = await runtime.start_container(sandbox, sandbox.spec.containers[0], attempt=attempt)
        assert started.attempt == attempt
    assert (await exited(runtime, sandbox)).attempt == 5
    text = log(runtime, sandbox)
    assert text.count("out\n") == text.count("err\n") == 4


async def test_output_is_complete_when_the_exit_is_seen(device, runtime):
    sandbox, _ = await launch(device, runtime, Print("a" * 50_000))
    await exited(runtime, sandbox)
    assert log(runtime, sandbox) == "a" * 50_000


async def test_containers_of_a_sandbox_are_separate(device, runtime):
    sandbox = make_sandbox(device.container("main", RunForever()), device.container("side", Print("side", exit_code=9)))
    await runtime.ensure_sandbox(sandbox)
    for container in sandbox.spec.containers:
        await runtime.start_container(sandbox, container, attempt=0)
    assert (await exited(runtime, sandbox, "side")).exit_code == 9
    assert (await look(runtime, sandbox)).state is ContainerState.RUNNING
    assert log(runtime, sandbox, "side") == "side"


async def test_a_program_that_does_not_exist_can_never_start(device, runtime):
    with pytest.raises(InvalidArgument):
        await launch(device, runtime, NoSuchProgram())


async def test_unknown_names_are_not_found(device, runtime):
    sandbox = make_sandbox(device.container("main", RunForever()))
    with pytest.raises(NotFound):
        await runtime.start_container(sandbox, sandbox.spec.containers[0], attempt=0)
    for replica_id in ("never-was", (await running(device, runtime))[0].replica_id):
        with pytest.raises(NotFound):
            await runtime.stop_container(replica_id, "no-such", grace_ms=0)
        with pytest.raises(NotFound):
            await runtime.stats(replica_id, "no-such")
        with pytest.raises(NotFound):
            await runtime.exec(ExecRequest(replica_id, "no-such", device.command(EchoStdin())))


# --- stopping ---


async def test_sigterm_lets_a_container_end_by_itself(device, runtime):
    sandbox, _ = await running(device, runtime)
    await runtime.stop_container(sandbox.replica_id, "main", grace_ms=GRACE_MS)
    view = await look(runtime, sandbox)
    assert (view.state, view.exit_code, view.attempt) == (ContainerState.EXITED, 0, 0)
    await runtime.stop_container(sandbox.replica_id, "main", grace_ms=GRACE_MS)
    assert await look(runtime, sandbox) == view


@pytest.mark.parametrize("grace_ms", [0, 300])
async def test_sigkill_follows_after_the_grace_period(device, runtime, grace_ms):
    sandbox, _ = await running(device, runtime, IgnoreSigterm())
    started = time.monotonic()
    await runtime.stop_container(sandbox.replica_id, "main", grace_ms=grace_ms)
    assert grace_ms / 1000 <= time.monotonic() - started + 0.01 < grace_ms / 1000 + 3
    view = await look(runtime, sandbox)
    assert (view.state, view.exit_code, view.oom_killed) == (ContainerState.EXITED, 137, False)


async def test_a_stopped_container_can_be_started_again(device, runtime):
    sandbox, _ = await running(device, runtime)
    await runtime.stop_container(sandbox.replica_id, "main", grace_ms=GRACE_MS)
    view = await runtime.start_container(sandbox, sandbox.spec.containers[0], attempt=1)
    assert (view.state, view.attempt, view.finished_at_ms, view.exit_code) == (ContainerState.RUNNING, 1, 0, 0)


# --- a restarted agent ---


@pytest.mark.parametrize("orderly", [True, False], ids=["closed", "killed"])
async def test_a_restarted_agent_adopts_what_runs(device, runtime, orderly):
    sandbox, _ = await running(device, runtime, attempt=3)
    before = list(await runtime.list())
    if orderly:
        await runtime.close()
    adopted = await device.open()
    try:
        assert list(await adopted.list()) == before
        assert await adopted.start_container(sandbox, sandbox.spec.containers[0], attempt=3) == before[0].containers[0]
        await adopted.stop_container(sandbox.replica_id, "main", grace_ms=GRACE_MS)
        assert (await look(adopted, sandbox)).exit_code == 0
        await adopted.remove_sandbox(sandbox.replica_id)
        assert list(device.leftovers()) == []
    finally:
        await adopted.close()


async def test_a_restarted_agent_learns_how_containers_ended_meanwhile(device, runtime):
    ended, _ = await launch(device, runtime, Print("bye", exit_code=7), attempt=2)
    await runtime.close()
    adopted = await device.open()
    try:
        view = await exited(adopted, ended)
        assert (view.attempt, view.exit_code) == (2, 7)
        assert view.finished_at_ms >= view.started_at_ms > 0
        assert log(adopted, ended) == "bye"
    finally:
        await adopted.close()


# --- events ---


async def next_event(events, replica_id, kind):
    async with asyncio.timeout(10):
        async for event in events:
            if event.replica_id == replica_id and event.kind == kind:
                return event
    raise AssertionError("the events ended")


async def test_start_and_exit_are_announced(device, runtime):
    events = runtime.events()
    ticks = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0.05)  # a listener is there once its first wait began
    sandbox, _ = await running(device, runtime)
    first = await asyncio.wait_for(ticks, 10)
    assert first.replica_id == sandbox.replica_id
    await runtime.stop_container(sandbox.replica_id, "main", grace_ms=GRACE_MS)
    event = first if first.kind == "exit" else await next_event(events, sandbox.replica_id, "exit")
    assert event.container == "main"
    assert (await look(runtime, sandbox)).state is ContainerState.EXITED
    await events.aclose()


async def test_an_exit_after_a_restart_is_announced(device, runtime):
    sandbox, _ = await running(device, runtime)
    await runtime.close()
    adopted = await device.open()
    try:
        events = adopted.events()
        seen = asyncio.ensure_future(next_event(events, sandbox.replica_id, "exit"))
        await asyncio.sleep(0.05)
        await adopted.stop_container(sandbox.replica_id, "main", grace_ms=GRACE_MS)
        assert (await seen).container == "main"
        await events.aclose()
    finally:
        await adopted.close()


async def test_closing_ends_the_events(runtime):
    events = runtime.events()
    waiting = asyncio.ensure_future(anext(events, None))
    await asyncio.sleep(0.05)
    await runtime.close()
    assert await asyncio.wait_for(waiting, 5) is None


# --- exec ---


async def test_exec_has_separate_streams_and_an_exit_code(device, runtime):
    sandbox, _ = await running(device, runtime)
    command = device.command(Print("out", "err", 12))
    assert await run_exec(runtime, sandbox, command) == (12, b"out", b"err")


async def test_exec_echoes_stdin_to_its_end(device, runtime):
    sandbox, _ = await running(device, runtime)
    data = os.urandom(300_000)
    assert await run_exec(runtime, sandbox, device.command(EchoStdin()), stdin=data) == (0, data, b"")


async def test_exec_without_stdin_reads_its_end_at_once(device, runtime):
    sandbox, _ = await running(device, runtime)
    assert await run_exec(runtime, sandbox, device.command(EchoStdin())) == (0, b"", b"")


async def test_exec_with_a_terminal_can_be_resized(device, runtime):
    sandbox, _ = await running(device, runtime)
    command = device.command(TerminalSize())
    session = await runtime.exec(ExecRequest(sandbox.replica_id, "main", command, tty=True, stdin=True))
    try:
        await session.resize(columns=132, rows=43)
        await session.write_stdin(b"\n")
        output = b""
        async for is_stderr, data in session.output():
            assert not is_stderr
            output += data
        assert b"43 132" in output
        assert await session.wait() == 0
    finally:
        await session.close()


async def test_exec_starts_with_the_terminal_size_that_was_asked_for(device, runtime):
    sandbox, _ = await running(device, runtime)
    command = device.command(TerminalSize())
    request = ExecRequest(sandbox.replica_id, "main", command, tty=True, stdin=True, columns=100, rows=30)
    session = await runtime.exec(request)
    try:
        await session.write_stdin(b"\n")
        assert b"30 100" in b"".join([data async for _, data in session.output()])
    finally:
        await session.close()


async def test_exec_can_be_signalled(device, runtime):
    sandbox, _ = await running(device, runtime)
    request = ExecRequest(sandbox.replica_id, "main", device.command(Spin()))
    session = await runtime.exec(request)
    try:
        async for _, data in session.output():
            if b"ready" in data:
                await session.signal(15)
        assert await session.wait() == 128 + 15
    finally:
        await session.close()


async def test_closing_an_exec_kills_it(device, runtime):
    sandbox, _ = await running(device, runtime)
    session = await runtime.exec(ExecRequest(sandbox.replica_id, "main", device.command(Spin())))
    await session.close()
    await session.close()
    assert await session.wait() == 137


async def test_an_exec_ends_with_its_container(device, runtime):
    sandbox, _ = await running(device, runtime)
    session = await runtime.exec(ExecRequest(sandbox.replica_id, "main", device.command(Spin())))
    try:
        await runtime.stop_container(sandbox.replica_id, "main", grace_ms=GRACE_MS)
        assert await asyncio.wait_for(session.wait(), 10) == 137
    finally:
        await session.close()


async def test_exec_needs_a_running_container_and_a_program(device, runtime):
    sandbox, _ = await running(device, runtime)
    with pytest.raises(InvalidArgument):
        await runtime.exec(ExecRequest(sandbox.replica_id, "main", ()))
    await runtime.stop_container(sandbox.replica_id, "main", grace_ms=GRACE_MS)
    with pytest.raises(FailedPrecondition):
        await runtime.exec(ExecRequest(sandbox.replica_id, "main", device.command(EchoStdin())))


@pytest.mark.needs("real-processes")
async def test_exec_of_a_program_that_does_not_exist_says_so(device, runtime):
    sandbox, _ = await running(device, runtime)
    for command in (device.command(NoSuchProgram()), ("no-such-program",), ("/etc/passwd/x",)):
        with pytest.raises(InvalidArgument) as refused:
            await runtime.exec(ExecRequest(sandbox.replica_id, "main", command))
        assert refused.value.reason == COMMAND_NOT_FOUND


@pytest.mark.needs("real-processes")
async def test_exec_of_what_is_no_program_says_so(device, runtime):
    sandbox, _ = await running(device, runtime)
    for command in (("/etc/passwd",), ("/etc",)):
        with pytest.raises(InvalidArgument) as refused:
            await runtime.exec(ExecRequest(sandbox.replica_id, "main", command))
        assert refused.value.reason == COMMAND_NOT_EXECUTABLE


# --- many at once ---


async def test_operations_at_the_same_time(device, runtime):
    sandboxes = [make_sandbox(device.container("main", RunForever())) for _ in range(6)]

    async def live(sandbox):
        await asyncio.gather(*(runtime.ensure_sandbox(sandbox) for _ in range(2)))
        container = sandbox.spec.containers[0]
        views = await asyncio.gather(*(runtime.start_container(sandbox, container, attempt=0) for _ in range(3)))
        assert views[0] == views[1] == views[2]
        await logged(runtime, sandbox, "ready")
        await asyncio.gather(
            *(runtime.stop_container(sandbox.replica_id, "main", grace_ms=GRACE_MS) for _ in range(2)),
        )
        assert (await look(runtime, sandbox)).exit_code == 0
        await asyncio.gather(*(runtime.remove_sandbox(sandbox.replica_id) for _ in range(2)))

    await asyncio.gather(*map(live, sandboxes))
    assert list(await runtime.list()) == []
    assert list(device.leftovers()) == []


# --- limits ---


@pytest.mark.needs("memory-limit")
async def test_over_the_memory_limit_is_reported_as_oom_killed(device, runtime):
    limits = ResourceAmounts(memory_bytes=48 * MIB)
    sandbox, _ = await launch(device, runtime, Allocate(160 * MIB), limits=limits)
    view = await exited(runtime, sandbox)
    assert (view.exit_code, view.oom_killed) == (137, True)
    within, _ = await launch(device, runtime, Allocate(16 * MIB), limits=limits)
    view = await exited(runtime, within)
    assert (view.exit_code, view.oom_killed) == (0, False)


@pytest.mark.needs("memory-limit")
async def test_a_new_attempt_after_oom_starts_clean(device, runtime):
    sandbox, _ = await launch(device, runtime, Allocate(160 * MIB), limits=ResourceAmounts(memory_bytes=48 * MIB))
    await exited(runtime, sandbox)
    await runtime.start_container(sandbox, device.container("main", Print(exit_code=4)), attempt=1)
    view = await exited(runtime, sandbox)
    assert (view.exit_code, view.oom_killed) == (4, False)


@pytest.mark.needs("pids-limit")
async def test_the_pids_limit_holds(device, runtime):
    limits = ResourceAmounts(pids=12)
    within, _ = await launch(device, runtime, Spawn(6), limits=limits)
    await logged(runtime, within, "all-started")
    over, _ = await launch(device, runtime, Spawn(40), limits=limits)
    assert (await exited(runtime, over)).exit_code != 0
    assert "all-started" not in log(runtime, over)


@pytest.mark.needs("cpu-limit", "real-processes")
async def test_the_cpu_quota_holds_within_a_tenth(device, runtime):
    sandbox, _ = await running(device, runtime, Spin(), limits=ResourceAmounts(cpu_millis=200))

    async def measure():
        """Share of the quota that was used in a while; less than 0.9 only where the machine itself is busy."""
        before, at = await runtime.stats(sandbox.replica_id, "main"), time.monotonic()
        await asyncio.sleep(1.5)
        after, then = await runtime.stats(sandbox.replica_id, "main"), time.monotonic()
        return (after.cpu_usage_us - before.cpu_usage_us) / 1e6 / (then - at) / 0.2

    for _ in range(4):
        share = await measure()
        assert share < 1.1
        if share > 0.9:
            return
    raise AssertionError(f"only {share:.2f} of the quota was given")


@pytest.mark.needs("real-processes")
async def test_stats_tell_cpu_memory_and_processes(device, runtime):
    sandbox, _ = await running(device, runtime, Spin())

    async def used():
        stats = await runtime.stats(sandbox.replica_id, "main")
        return stats if stats.cpu_usage_us > 50_000 else None

    stats = await until(used)
    assert stats.pids >= 1
    assert 10_000 < stats.memory_bytes < 500 * MIB


async def test_stats_need_a_running_container(device, runtime):
    sandbox, _ = await launch(device, runtime, Print())
    await exited(runtime, sandbox)
    with pytest.raises(FailedPrecondition):
        await runtime.stats(sandbox.replica_id, "main")


# --- isolation ---


@pytest.mark.needs("real-processes")
async def test_the_environment_is_the_containers_own(device, runtime, monkeypatch):
    monkeypatch.setenv("AGENT_SECRET", "do-not-leak")
    sandbox, _ = await launch(device, runtime, PrintEnvironment(), env=(EnvVar("MODE", "a=b c"), EnvVar("EMPTY", "")))
    await exited(runtime, sandbox)
    lines = log(runtime, sandbox).splitlines()
    assert "MODE=a=b c" in lines
    assert "EMPTY=" in lines
    assert not any("AGENT_SECRET" in line or "PYTHON" in line for line in lines)
    assert any(line.startswith("PATH=") for line in lines)


@pytest.mark.needs("real-processes")
async def test_an_exec_has_the_containers_environment_and_its_own(device, runtime, monkeypatch):
    monkeypatch.setenv("AGENT_SECRET", "do-not-leak")
    sandbox, _ = await running(device, runtime, env=(EnvVar("MODE", "prod"),))
    _, output, _ = await run_exec(runtime, sandbox, device.command(PrintEnvironment()), env={"MORE": "1"})
    lines = output.decode().splitlines()
    assert {"MODE=prod", "MORE=1"} <= set(lines)
    assert not any("AGENT_SECRET" in line for line in lines)


def _status(text):
    return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


@pytest.mark.needs("real-processes")
async def test_no_new_privileges_and_no_dangerous_capabilities(device, runtime):
    sandbox, _ = await running(device, runtime)
    once, _ = await launch(device, runtime, PrintStatus())
    await exited(runtime, once)
    _, by_exec, _ = await run_exec(runtime, sandbox, device.command(PrintStatus()))
    for text in (log(runtime, once), by_exec.decode()):
        status = _status(text)
        assert status["NoNewPrivs"] == "1"
        sys_admin, sys_ptrace, sys_module, net_admin = 1 << 21, 1 << 19, 1 << 16, 1 << 12
        for key in ("CapEff", "CapPrm"):
            assert int(status[key], 16) & (sys_admin | sys_ptrace | sys_module | net_admin) == 0


@pytest.mark.needs("real-processes", "seccomp")
async def test_dangerous_system_calls_are_refused(device, runtime):
    sandbox, _ = await running(device, runtime)
    _, output, _ = await run_exec(runtime, sandbox, device.command(PrintStatus()))
    assert _status(output.decode())["Seccomp"] == "2"
    code, output, errors = await run_exec(runtime, sandbox, device.command(NewUserNamespace()))
    assert code != 0
    assert b"not permitted" in (output + errors).lower()
    once, _ = await launch(device, runtime, NewUserNamespace())
    assert (await exited(runtime, once)).exit_code != 0
    assert "not permitted" in log(runtime, once).lower()


# --- network ---


@pytest.mark.needs("network")
async def test_a_listening_container_is_reached_at_its_address(device, runtime, unused_tcp_port):
    port = ContainerPort("http", unused_tcp_port, Protocol.TCP)
    container = device.container("main", ServeHttp(unused_tcp_port), ports=(port,))
    sandbox = make_sandbox(container)
    view = await runtime.ensure_sandbox(sandbox)
    await runtime.start_container(sandbox, container, attempt=0)
    assert [(p.name, p.container_port) for p in view.ports] == [("http", unused_tcp_port)]

    async def fetch():
        try:
            reader, writer = await asyncio.open_connection(view.address, unused_tcp_port)
        except OSError:
            return b""
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        line = await reader.readline()
        writer.close()
        return line

    assert (await until(fetch)).startswith(b"HTTP/1.")


# --- images ---


@pytest.mark.needs("images")
async def test_an_imported_image_is_listed_and_a_broken_archive_leaves_nothing(device, runtime, tmp_path):
    before = list(await runtime.images())
    broken = tmp_path / "broken.tar"
    broken.write_bytes(b"not a tar archive")
    with pytest.raises(InvalidArgument):
        await runtime.import_image(broken)
    assert list(await runtime.images()) == before
    reference = "conformance.test/hello:1"
    (image,) = await runtime.import_image(device.image_archive(reference), reference=reference)
    assert image.reference == reference
    assert image.digest.startswith("sha256:")
    assert image.size_bytes > 0
    assert image in await runtime.images()
    assert list(await runtime.import_image(device.image_archive(reference), reference=reference)) == [image]


@pytest.mark.needs("images")
async def test_a_container_whose_image_is_missing_waits_for_it(device, runtime):
    container = dataclasses.replace(device.container("main", RunForever()), image="conformance.test/absent:1")
    sandbox = make_sandbox(container)
    await runtime.ensure_sandbox(sandbox)
    with pytest.raises(FailedPrecondition) as refused:
        await runtime.start_container(sandbox, container, attempt=0)
    assert refused.value.reason == "ImageMissing"
