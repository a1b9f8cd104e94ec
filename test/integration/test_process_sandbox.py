"""What a sandboxed process may not do, tried for real."""

import asyncio
import contextlib
import dataclasses
import os
import uuid
from pathlib import Path

import pytest
import pytest_asyncio

from cloudless.agent.runtime.base import ContainerState, ExecRequest, Sandbox
from cloudless.agent.runtime.process import findings
from cloudless.agent.runtime.process.cgroups import Cgroups
from cloudless.agent.runtime.process.runtime import ProcessRuntime
from cloudless.clock import SystemClock
from cloudless.core.spec import (
    Capabilities,
    Container,
    ContainerPort,
    ResourceAmounts,
    Resources,
    SecurityContext,
    SecurityProfile,
    WorkloadSpec,
)
from cloudless.errors import FailedPrecondition, InvalidArgument

ROOT = os.geteuid() == 0
SHELL = ("/bin/busybox", "sh", "-c")
MIB = 2**20


class Bench:
    """A runtime, and a way to run scripts in it."""

    def __init__(self, directory, root):
        self.directory = directory
        self.prefix = f"cloudless-test-{uuid.uuid4().hex[:8]}"
        self.root = root
        self.runtime = ProcessRuntime(directory, clock=SystemClock(), cgroup_prefix=self.prefix, root=root)

    async def start(self, script, *, context=None, attempt=0, **changes):
        container = Container(name="main", process=(*SHELL, script), **changes)
        spec = WorkloadSpec(containers=(container,), security_context=context)
        sandbox = Sandbox(f"r{uuid.uuid4().hex[:8]}", "default", "web", 1, spec)
        await self.runtime.ensure_sandbox(sandbox)
        await self.runtime.start_container(sandbox, container, attempt=attempt)
        return sandbox

    async def end(self, sandbox):
        """The exited container."""
        async with asyncio.timeout(20):
            while True:
                for view in await self.runtime.list():
                    if view.replica_id == sandbox.replica_id and view.containers[0].state is ContainerState.EXITED:
                        return view.containers[0]
                await asyncio.sleep(0.01)

    def log(self, sandbox):
        return self.runtime.log_path(sandbox.replica_id, "main").read_text()

    async def run(self, script, **changes):
        """(exit code, output) of a script."""
        sandbox = await self.start(script, **changes)
        view = await self.end(sandbox)
        return view.exit_code, self.log(sandbox)

    async def remove(self):
        await self.runtime.purge()
        assert not self.directory.exists()


@pytest_asyncio.fixture(params=["with cgroups", "without cgroups"])
async def bench(request, tmp_path):
    bench = Bench(tmp_path / "state", Path("/") if request.param == "with cgroups" else tmp_path / "none")
    await bench.runtime.start()
    yield bench
    await bench.remove()


@pytest_asyncio.fixture
async def bare(tmp_path):
    bench = Bench(tmp_path / "state", tmp_path / "none")
    await bench.runtime.start()
    yield bench
    await bench.remove()


async def test_files_outside_its_folder_cannot_be_written_or_read(bench, tmp_path):
    """Landlock denies them even where the file's own mode would allow everybody."""
    outside = Path("/var/tmp") / f"cloudless-{uuid.uuid4().hex}"
    outside.mkdir()
    outside.chmod(0o777)
    secret = outside / "secret"
    secret.write_text("secret")
    secret.chmod(0o666)
    try:
        tried = (
            f"cat {secret}",
            f"echo x > {secret}",
            f"echo x > {outside}/new",
            f"mkdir {outside}/folder",
            f"rm {secret}",
            f"mv {secret} ./stolen",
            f"ln {secret} ./linked",
            f"ls {outside}",
            "ls /",
            "echo x > /dev/shm/../../etc/new",
            f"ls {tmp_path}",
            f"cp /bin/busybox {outside}/run",
        )
        script = "; ".join(f"({command}) 2>/dev/null && echo 'done: {command}'" for command in tried)
        code, output = await bench.run(script + "; true")
        assert (code, output) == (0, "")
        assert sorted(os.listdir(outside)) == ["secret"]
        assert secret.read_text() == "secret"
    finally:
        for path in outside.iterdir():
            path.unlink()
        outside.rmdir()


async def test_its_own_folder_is_all_its_own(bench):
    script = (
        "set -e; echo one > file; mkdir -p a/b; mv file a/b/; cat a/b/file; echo two > $HOME/home; cat home;"
        "echo three > $TMPDIR/t; cat t; cp /bin/busybox ./echo; ./echo four; echo five > /dev/null"
    )
    assert await bench.run(script) == (0, "one\ntwo\nthree\nfour\n")


async def test_the_folder_is_kept_over_attempts_and_shared_by_its_containers(bench):
    first, second = (Container(name=n, process=(*SHELL, f"echo {n} >> shared; cat shared")) for n in ("one", "two"))
    sandbox = Sandbox("shared", "default", "web", 1, WorkloadSpec(containers=(first, second)))
    await bench.runtime.ensure_sandbox(sandbox)
    for container, attempt in ((first, 0), (second, 0), (first, 1)):
        events = bench.runtime.events()
        await bench.runtime.start_container(sandbox, container, attempt=attempt)
        async with asyncio.timeout(10):
            async for event in events:
                if (event.container, event.kind) == (container.name, "exit"):
                    break
        await events.aclose()
    assert bench.runtime.log_path("shared", "one").read_text() == "one\none\ntwo\none\n"


@pytest.mark.skipif(not ROOT, reason="another user needs root")
async def test_it_is_another_user_without_capabilities(bench):
    code, output = await bench.run("id -u; id -g; id -G; grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status")
    assert code == 0
    lines = output.split("\n")
    assert lines[:3] == ["65534", "65534", "65534"]
    assert all(int(line.split()[1], 16) == 0 for line in lines[3:8])
    context = SecurityContext(run_as_user=12345, run_as_group=23456)
    assert (await bench.run("id -u; id -g; echo x > f; cat f", context=context))[1] == "12345\n23456\nx\n"


@pytest.mark.skipif(not ROOT, reason="capabilities need root")
async def test_the_one_capability_that_may_be_kept(bench):
    context = SecurityContext(capabilities=Capabilities(drop=("ALL",), add=("NET_BIND_SERVICE",)))
    script = "grep -E 'Cap(Prm|Eff|Bnd)' /proc/self/status; id -u"
    _, output = await bench.run(script, context=context)
    *sets, user = output.split("\n")[:-1]
    assert [int(line.split()[1], 16) for line in sets] == [1 << 10] * 3
    assert user == "65534"


async def test_other_processes_are_out_of_reach(bench):
    """The agent's environment and memory cannot be read, nor its processes signalled."""
    me = os.getpid()
    script = f"cat /proc/{me}/environ; cat /proc/{me}/maps; ls /proc/{me}/fd; kill -0 {me}; ls /proc/{me}/cwd/; true"
    code, output = await bench.run(f"({script}) 2>/dev/null; echo end")
    assert (code, output) == (0, "end\n")


@pytest.mark.skipif(not ROOT, reason="a mount namespace needs root")
async def test_the_devices_shared_folders_are_hidden(bench):
    mark = Path("/tmp") / f"cloudless-{uuid.uuid4().hex}"
    mark.write_text("")
    try:
        code, output = await bench.run(
            "ls -A /tmp; ls -A /dev/shm; echo x > /dev/shm/x && echo shm; mount | grep -c ' /tmp '"
        )
        assert (code, output) == (0, "shm\n1\n")
        assert not Path("/dev/shm/x").exists()
    finally:
        mark.unlink()


@pytest.mark.parametrize(
    "command",
    [
        "mount -t tmpfs none .",
        "umount /tmp",
        "chroot . /bin/true",
        "unshare -U true",
        "unshare -m true",
        "unshare -n true",
        "nsenter -t 1 -m true",
        "swapoff -a /dev/null",
        "hostname x",
        "rmmod loop",
        "mknod dev c 1 3",
        "dmesg",
        "reboot -f",
    ],
)
async def test_dangerous_commands_fail(bare, command):
    code, output = await bare.run(f"busybox {command} && echo done")
    assert code != 0
    assert "done" not in output


async def test_a_container_leaves_no_process_behind(bench):
    """Not even one that has its own session and a dead parent."""
    mark = uuid.uuid4().hex
    sandbox = await bench.start(f"setsid sh -c 'setsid sleep 1000.{int(mark[:6], 16)} & exit' & sleep 0.2; echo end")
    view = await bench.end(sandbox)
    assert view.exit_code == 0
    seen = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if readable(path)]
    assert not any(f"1000.{int(mark[:6], 16)}".encode() in cmdline for cmdline in seen)


def readable(path):
    with contextlib.suppress(OSError):
        return path.read_bytes() is not None
    return False


@pytest.mark.parametrize(
    ("context", "error"),
    [
        (SecurityContext(privileged=True), InvalidArgument),
        (SecurityContext(run_as_user=0), InvalidArgument),
        (SecurityContext(run_as_group=0), InvalidArgument),
        (SecurityContext(seccomp_profile=SecurityProfile("Unconfined")), FailedPrecondition),
        (SecurityContext(app_armor_profile=SecurityProfile("Localhost")), FailedPrecondition),
        (SecurityContext(capabilities=Capabilities(add=("SYS_ADMIN",))), FailedPrecondition),
    ],
)
async def test_what_cannot_be_honoured_is_refused(bare, context, error):
    with pytest.raises(error):
        await bare.start("true", context=context)


async def test_a_moved_port_is_refused(bare):
    await bare.start("true", ports=(ContainerPort("a", 8080, host_port=8080), ContainerPort("b", 8081)))
    with pytest.raises(FailedPrecondition, match="80"):
        await bare.start("true", ports=(ContainerPort("http", 80, host_port=8080),))


async def test_an_image_is_refused(bare):
    container = Container(name="main", image="docker.io/library/nginx:1.27")
    sandbox = Sandbox("imaged", "default", "web", 1, WorkloadSpec(containers=(container,)))
    await bare.runtime.ensure_sandbox(sandbox)
    with pytest.raises(InvalidArgument) as refused:
        await bare.runtime.start_container(sandbox, container, attempt=0)
    assert refused.value.reason == "NoImages"
    with pytest.raises(FailedPrecondition):
        await bare.runtime.import_image(Path("/dev/null"))
    assert list(await bare.runtime.images()) == []


@pytest.mark.parametrize("name", ["../escape", "a/b", "", ".hidden", "x" * 200])
async def test_names_cannot_leave_the_folder(bare, name):
    sandbox = Sandbox(name, "default", "web", 1, WorkloadSpec())
    with pytest.raises(InvalidArgument):
        await bare.runtime.ensure_sandbox(sandbox)


async def test_a_program_that_may_not_be_executed_is_named(bare):
    container = Container(name="main", process=("/etc/passwd",))
    sandbox = Sandbox("notexec", "default", "web", 1, WorkloadSpec(containers=(container,)))
    await bare.runtime.ensure_sandbox(sandbox)
    with pytest.raises(InvalidArgument, match="/etc/passwd"):
        await bare.runtime.start_container(sandbox, container, attempt=0)
    missing = dataclasses.replace(container, process=("no-such-command",))
    with pytest.raises(InvalidArgument, match="no-such-command"):
        await bare.runtime.start_container(sandbox, missing, attempt=0)
    with pytest.raises(InvalidArgument, match="/no/where"):
        await bare.runtime.start_container(
            sandbox, dataclasses.replace(container, process=(*SHELL, "true"), working_dir="/no/where"), attempt=0
        )
    with pytest.raises(InvalidArgument):
        await bare.runtime.start_container(
            sandbox, dataclasses.replace(container, process=(*SHELL, "nul\0byte")), attempt=0
        )
    ok = await bare.runtime.start_container(
        sandbox, dataclasses.replace(container, process=(*SHELL, "true")), attempt=0
    )
    assert ok.attempt == 0


async def test_rlimits(bench):
    _, output = await bench.run("ulimit -c; ulimit -n")
    core, files = output.split()
    assert core == "0"
    assert 0 < int(files) <= 65_536


async def test_growing_over_the_limit_without_cgroups_is_reported_as_oom(bare):
    """Slowly, as a leak does; a single allocation of twice the limit fails by itself."""
    limits = ResourceAmounts(memory_bytes=24 * MIB)
    resources = Resources(requests=limits, limits=limits)
    double, keep = "x=$x$x", "eval v$i=$x"
    loop = f"while [ $i -lt 46 ]; do i=$((i+1)); [ $i -lt 17 ] && {double} || {keep}; done"
    leak = f"x=0123456789abcdef; i=0; {loop}; sleep 100; exit"
    sandbox = await bare.start(leak, resources=resources)
    view = await bare.end(sandbox)
    assert (view.exit_code, view.oom_killed) == (137, True)
    code, _ = await bare.run("exec busybox dd if=/dev/zero of=/dev/null bs=200M count=1", resources=resources)
    assert code not in (0, 137)


@pytest.mark.skipif(not ROOT, reason="the limit counts all of the user's processes")
async def test_a_fork_bomb_without_cgroups_is_bounded(bare):
    limits = ResourceAmounts(pids=10)
    script = "i=0; while [ $i -lt 60 ]; do sleep 100 & i=$((i+1)); done; echo all"
    resources = Resources(requests=limits, limits=limits)
    context = SecurityContext(run_as_user=54_321)
    code, output = await bare.run(script, resources=resources, context=context)
    assert code != 0
    assert "all" not in output


async def test_describe_is_honest(bench):
    info, features = await bench.runtime.describe()
    assert info.available
    found = {f.name: f for f in features}
    limited = bench.root == Path("/") and ROOT and "cpu" in Cgroups.prepare(bench.prefix).parents
    for name in ("process.cpu-limit", "process.memory-limit", "process.pids-limit"):
        assert found[name].available is limited
        assert found[name].detail
    assert found["process.user"].available is ROOT
    assert found["process.files"].available is findings.run()["landlock"].available
    assert not found["process.network"].available


async def test_an_exec_is_as_confined_as_its_container(bench):
    sandbox = await bench.start("sleep 1000")
    denied = ("echo x > /var/tmp/x", "busybox unshare -U true")
    script = "id -u; echo y > y; cat y; " + "; ".join(f"({command}) 2>/dev/null || echo denied" for command in denied)
    session = await bench.runtime.exec(ExecRequest(sandbox.replica_id, "main", (*SHELL, script)))
    try:
        output = b"".join([data async for _, data in session.output()]).decode().split()
        assert output == [str(65534 if ROOT else os.geteuid()), "y", "denied", "denied"]
    finally:
        await session.close()
