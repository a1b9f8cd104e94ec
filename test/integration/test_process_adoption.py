"""Containers outlive their agent: killed at any moment, a new one finds what runs and how what ended has ended."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
import pytest_asyncio

from cloudless.agent.runtime.base import ContainerState, Sandbox
from cloudless.agent.runtime.process import records, state
from cloudless.agent.runtime.process.runtime import ProcessRuntime
from cloudless.clock import SystemClock
from cloudless.core.spec import Container, WorkloadSpec
from cloudless.errors import Unavailable

SHELL = ("/bin/busybox", "sh", "-c")

# An agent in a process of its own: starts one container, says where it is, and waits to be killed.
AGENT = """
import asyncio, structlog, sys
from pathlib import Path
from cloudless.agent.runtime.base import Sandbox
from cloudless.agent.runtime.process.runtime import ProcessRuntime
from cloudless.clock import SystemClock
from cloudless.core.spec import Container, WorkloadSpec

structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))

async def main(directory, prefix, script):
    runtime = ProcessRuntime(Path(directory), clock=SystemClock(), cgroup_prefix=prefix)
    await runtime.start()
    container = Container(name="main", process=("/bin/busybox", "sh", "-c", script))
    sandbox = Sandbox("r1", "default", "web", 1, WorkloadSpec(containers=(container,)))
    await runtime.ensure_sandbox(sandbox)
    print("starting", flush=True)
    await runtime.start_container(sandbox, container, attempt=0)
    print("started", flush=True)
    await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


class Device:
    def __init__(self, directory):
        self.directory = directory
        self.prefix = f"cloudless-test-{uuid.uuid4().hex[:8]}"
        self.mark = str(uuid.uuid4().int % 10**9)  # found in the command line of what the container runs
        self.agents = []

    def agent(self, script):
        process = subprocess.Popen(
            [sys.executable, "-c", AGENT, str(self.directory), self.prefix, script],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"AGENT_SECRET": "1"},
        )
        self.agents.append(process)
        return process

    async def open(self):
        runtime = ProcessRuntime(self.directory, clock=SystemClock(), cgroup_prefix=self.prefix)
        await runtime.start()
        return runtime

    def running(self):
        """Processes of the container."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                arguments = path.read_bytes().split(b"\0")
            except OSError:
                continue
            if arguments[0] == b"/bin/busybox" and any(self.mark.encode() in a for a in arguments):
                found.append(int(path.parent.name))
        return found


@pytest_asyncio.fixture
async def device(tmp_path):
    device = Device(tmp_path / "state")
    yield device
    for process in device.agents:
        process.kill()
        process.wait()
        process.stdout.close()
    await (await device.open()).purge()
    assert device.running() == []
    assert not device.directory.exists()


async def only(runtime):
    """The one container of the device."""
    (sandbox,) = await runtime.list()
    (container,) = sandbox.containers
    return container


async def exited(runtime):
    async with asyncio.timeout(10):
        while (view := await only(runtime)).state is not ContainerState.EXITED:
            await asyncio.sleep(0.01)
    return view


async def test_what_runs_outlives_a_killed_agent_and_its_log_goes_on(device):
    script = f"trap 'exit 3' TERM; i=0; while :; do echo line-$i; i=$((i+1)); sleep 0.02; done; : {device.mark}"
    agent = device.agent(script)
    assert agent.stdout.readline() == "starting\n"
    assert agent.stdout.readline() == "started\n"
    pid = state.ReplicaFolder(device.directory, "r1").attempt("main").program.pid
    agent.send_signal(signal.SIGKILL)
    agent.wait()
    runtime = await device.open()
    view = await only(runtime)
    assert (view.state, view.pid, view.attempt) == (ContainerState.RUNNING, pid, 0)
    log = runtime.log_path("r1", "main")
    seen = log.read_text().count("\n")
    async with asyncio.timeout(10):
        while log.read_text().count("\n") < seen + 5:
            await asyncio.sleep(0.01)
    await runtime.stop_container("r1", "main", grace_ms=5000)
    assert (await only(runtime)).exit_code == 3
    lines = log.read_text().split()
    assert lines == [f"line-{i}" for i in range(len(lines))]
    await runtime.close()


async def test_what_ended_while_no_agent_was_there_is_known(device):
    agent = device.agent(f"sleep 0.4; echo bye; exit 9; : {device.mark}")
    assert agent.stdout.readline() == "starting\n"
    assert agent.stdout.readline() == "started\n"
    agent.kill()
    agent.wait()
    while device.running():
        await asyncio.sleep(0.02)
    runtime = await device.open()
    view = await exited(runtime)
    assert (view.exit_code, view.attempt, view.oom_killed) == (9, 0, False)
    assert view.finished_at_ms - view.started_at_ms >= 390
    assert runtime.log_path("r1", "main").read_text() == "bye\n"
    await runtime.close()


@pytest.mark.parametrize("delay_ms", [0, 5, 10, 15, 20, 25, 30, 40, 60])
async def test_an_agent_killed_while_it_starts_a_container_leaves_one_or_none(device, delay_ms):
    agent = device.agent(f"exec /bin/busybox sleep 1000.{device.mark}")
    assert agent.stdout.readline() == "starting\n"
    await asyncio.sleep(delay_ms / 1000)
    agent.kill()
    agent.wait()
    runtime = await device.open()
    container = Container(name="main", process=(*SHELL, f"exec /bin/busybox sleep 1000.{device.mark}"))
    sandbox = Sandbox("r1", "default", "web", 1, WorkloadSpec(containers=(container,)))
    await runtime.ensure_sandbox(sandbox)
    async with asyncio.timeout(10):
        while True:  # a shim that is just starting holds the lock: the agent repeats, as it does after any failure
            try:
                view = await runtime.start_container(sandbox, container, attempt=0)
                break
            except Unavailable:
                await asyncio.sleep(0.02)
    assert (view.state, view.attempt) == (ContainerState.RUNNING, 0)
    async with asyncio.timeout(10):
        while not (running := device.running()):  # the command line of a process is empty while it executes
            await asyncio.sleep(0.01)
    assert running == [view.pid]
    assert await only(runtime) == view
    await runtime.close()


async def test_a_killed_supervisor_takes_its_container_with_it(device):
    runtime = await device.open()
    container = Container(name="main", process=(*SHELL, f"exec /bin/busybox sleep 1000.{device.mark}"))
    sandbox = Sandbox("r1", "default", "web", 1, WorkloadSpec(containers=(container,)))
    await runtime.ensure_sandbox(sandbox)
    await runtime.start_container(sandbox, container, attempt=0)
    events = runtime.events()
    attempt = state.ReplicaFolder(device.directory, "r1").attempt("main")
    os.kill(attempt.shim.pid, signal.SIGKILL)
    async with asyncio.timeout(10):
        async for event in events:
            if event.kind == "exit":
                break
    view = await only(runtime)
    assert (view.state, view.exit_code) == (ContainerState.EXITED, 137)
    assert device.running() == []
    again = await runtime.start_container(sandbox, container, attempt=1)
    assert (again.state, again.attempt) == (ContainerState.RUNNING, 1)
    await events.aclose()
    await runtime.close()


async def test_after_a_reboot_nothing_runs_and_no_stranger_is_touched(device):
    """The pids in the files belong to others now: here, to a process of ours with the very pid and start time."""
    runtime = await device.open()
    container = Container(name="main", process=(*SHELL, f"sleep 1000; : {device.mark}"))
    sandbox = Sandbox("r1", "default", "web", 1, WorkloadSpec(containers=(container,)))
    await runtime.ensure_sandbox(sandbox)
    await runtime.start_container(sandbox, container, attempt=0)
    await runtime.stop_container("r1", "main", grace_ms=0)
    await runtime.close()
    with subprocess.Popen(["sleep", "1000"]) as stranger:
        try:
            attempt = state.ReplicaFolder(device.directory, "r1").attempt("main")
            attempt.file("exit").unlink()
            start = records.start_time(stranger.pid)
            fields = {key: values[0] for key, values in attempt.status.items()}
            fields |= {"pid": stranger.pid, "start": start, "shim_pid": stranger.pid, "shim_start": start}
            records.write(attempt.file("status"), fields | {"boot": "another"})
            runtime = await device.open()
            view = await only(runtime)
            assert (view.state, view.exit_code) == (ContainerState.EXITED, 137)
            assert stranger.poll() is None
            await runtime.close()
        finally:
            stranger.kill()


async def test_a_record_cut_short_is_no_record(tmp_path):
    records.write(tmp_path / "r", {"pid": 7, "env": ["A=b=c", "D="]})
    whole = (tmp_path / "r").read_bytes()
    assert records.read(tmp_path / "r") == {"pid": ["7"], "env": ["A=b=c", "D="]}
    for length in range(len(whole)):
        assert records.decode(whole[:length]) is None
    with pytest.raises(ValueError, match="NUL"):
        records.encode({"a": "b\0c"})


async def test_a_supervisor_is_small(device):
    """Its memory is paid once per container."""
    runtime = await device.open()
    container = Container(name="main", process=(*SHELL, f"sleep 1000; : {device.mark}"))
    sandbox = Sandbox("r1", "default", "web", 1, WorkloadSpec(containers=(container,)))
    await runtime.ensure_sandbox(sandbox)
    await runtime.start_container(sandbox, container, attempt=0)
    attempt = state.ReplicaFolder(device.directory, "r1").attempt("main")
    rollup = dict(
        line.split(":", 1) for line in Path(f"/proc/{attempt.shim.pid}/smaps_rollup").read_text().splitlines()[1:]
    )
    own_kib = sum(int(rollup[key].split()[0]) for key in ("Private_Dirty", "Private_Clean"))
    assert own_kib < 8 * 1024
    await runtime.close()


UNPRIVILEGED = """
import asyncio, json, os, structlog, sys, tempfile, pathlib, concurrent.futures.thread, encodings.idna, uuid
import cloudless.agent.runtime.process.runtime as module
from cloudless.agent.runtime.base import ContainerState, ExecRequest, Sandbox
from cloudless.agent.device import System
from cloudless.clock import SystemClock
from cloudless.core.spec import Container, WorkloadSpec

structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))

async def main(directory, interpreter):
    sys.executable = interpreter
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, int)
    os.setgroups([])
    os.setresgid(54321, 54321, 54321)
    os.setresuid(54321, 54321, 54321)
    runtime = module.ProcessRuntime(pathlib.Path(directory), clock=SystemClock())
    await runtime.start()
    info, features = await runtime.describe()
    script = (
        "id -u; echo x > own && cat own; echo x 2>/dev/null > /var/tmp/x || echo denied;"
        "busybox unshare -U true 2>/dev/null || echo denied; (sleep 1000 &);"
        "mkdir -p closed/inner; echo x > closed/inner/f; ln -s /etc closed/link; chmod 0 closed/inner closed;"
        "echo $HOME | grep -c r1"
    )
    container = Container(name="main", process=("/bin/busybox", "sh", "-c", script))
    side = Container(name="side", process=("/bin/busybox", "sleep", "1000"))
    sandbox = Sandbox("r1", "default", "web", 1, WorkloadSpec(containers=(container, side)))
    await runtime.ensure_sandbox(sandbox)
    await runtime.start_container(sandbox, container, attempt=0)
    await runtime.start_container(sandbox, side, attempt=0)
    while True:
        view = (await runtime.list())[0]
        if view.containers[0].state is ContainerState.EXITED:
            break
        await asyncio.sleep(0.01)
    session = await runtime.exec(ExecRequest("r1", "side", ("/bin/busybox", "id", "-u")))
    output = b"".join([data async for _, data in session.output()]).decode()
    await session.close()
    stats = await runtime.stats("r1", "side")
    log = runtime.log_path("r1", "main").read_text()
    await runtime.stop_container("r1", "side", grace_ms=0)
    await runtime.remove_sandbox("r1")
    left = os.listdir(directory)
    await runtime.close()
    found = {f.name: f.available for f in features}
    print(json.dumps([view.containers[0].exit_code, log, output, stats.pids, left, found]))

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
async def test_an_agent_that_is_not_root_has_fewer_features_and_says_so(tmp_path):
    interpreter = next(p for p in ("/usr/bin/python3", shutil.which("python3")) if p and os.path.exists(p))
    directory = Path("/var/tmp") / f"cloudless-{uuid.uuid4().hex}"
    directory.mkdir(mode=0o700)
    os.chown(directory, 54321, 54321)
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", UNPRIVILEGED, str(directory), interpreter, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await asyncio.wait_for(process.communicate(), 30)
        code, log, executed, pids, left, features = json.loads(output)
        assert (code, log) == (0, "54321\nx\ndenied\ndenied\n1\n")
        assert executed == "54321\n"
        assert pids == 1
        assert left == []
        assert features["process.files"]
        assert features["process.syscalls"]
        assert not any(features[f"process.{name}"] for name in ("user", "private-tmp", "cpu-limit", "memory-limit"))
    finally:
        shutil.rmtree(directory)
