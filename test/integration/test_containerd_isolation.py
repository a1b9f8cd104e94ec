"""What a container on a real containerd may and may not: limits, capabilities, system calls, files, users."""

import asyncio
import time

import pytest
import pytest_asyncio

from cloudless.agent.runtime.base import ContainerState, ExecRequest, Sandbox
from cloudless.agent.runtime.containerd import ContainerdRuntime
from cloudless.clock import SystemClock
from cloudless.core.spec import (
    Capabilities,
    Container,
    EnvVar,
    ResourceAmounts,
    Resources,
    SecurityContext,
    SecurityProfile,
    WorkloadSpec,
)
from cloudless.dev.image import build_image
from cloudless.errors import FailedPrecondition, InvalidArgument
from cloudless.testing.containerd import BOX, ContainerdMachine
from cloudless.testing.fabric import require_containerd

pytestmark = [pytest.mark.containerd, pytest.mark.xdist_group("containerd-isolation")]

MIB = 2**20
SERVER = "cloudless.test/server:1"  # with a user, an entrypoint and settings of its own
SHOW = "id -u; id -g; id -G; pwd; echo $GREETING; echo $HOME; hostname; echo args: $0 $@"
WAIT = "trap 'exit 0' TERM; echo ready; while :; do sleep 100 & wait $!; done"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    require_containerd()
    directory = tmp_path_factory.mktemp("isolation")
    machine = ContainerdMachine(directory)
    machine.start()
    place = machine.agent(directory / "agent")
    try:
        asyncio.run(prepare(machine, place, directory))
        yield place
        asyncio.run(place.purge())
        assert place.leftovers() == []
    finally:
        machine.stop()


async def prepare(machine, place, directory):
    build_image(
        directory / "server.tar",
        SERVER,
        entrypoint=["/bin/sh", "-c", SHOW, "entry"],
        cmd=["from-image"],
        env={"GREETING": "hello"},
        user="web:staff",
        working_dir="/www",
        stop_signal="SIGQUIT",
    )
    runtime = ContainerdRuntime(place.config, data_dir=place.data_dir, clock=SystemClock(), node_name="n1")
    await runtime.start()
    await runtime.import_image(machine.box_archive)
    await runtime.import_image(directory / "server.tar")
    await runtime.close()


@pytest_asyncio.fixture
async def runtime(place):
    runtime = ContainerdRuntime(place.config, data_dir=place.data_dir, clock=SystemClock(), node_name="n1")
    await runtime.start()
    yield runtime
    for view in await runtime.list():
        await runtime.remove_sandbox(view.replica_id)
    await runtime.close()
    assert place.replica_leftovers() == []


def make(script, *, name="r1", limits=None, image=BOX, workload_context=None, **fields):
    if limits is not None:
        fields["resources"] = Resources(limits, limits)
    if script:
        fields["command"] = ("/bin/sh", "-c", script)
    container = Container(name="main", image=image, **fields)
    spec = WorkloadSpec(containers=(container,), security_context=workload_context)
    return Sandbox(name, "default", "web", 1, spec)


async def start(runtime, sandbox):
    await runtime.ensure_sandbox(sandbox)
    await runtime.start_container(sandbox, sandbox.spec.containers[0], attempt=0)


async def finished(runtime, sandbox):
    """The container once it has exited, and what it printed."""
    async with asyncio.timeout(20):
        while True:
            (view,) = [v for v in await runtime.list() if v.replica_id == sandbox.replica_id]
            if view.containers[0].state is ContainerState.EXITED:
                return view.containers[0], runtime.log_path(sandbox.replica_id, "main").read_text()
            await asyncio.sleep(0.01)


async def run(runtime, script, **changes):
    sandbox = make(script, **changes)
    await start(runtime, sandbox)
    return await finished(runtime, sandbox)


async def run_exec(runtime, sandbox, script, **changes):
    session = await runtime.exec(ExecRequest(sandbox.replica_id, "main", ("/bin/sh", "-c", script), **changes))
    try:
        output = b"".join([data async for _, data in session.output()])
        return await session.wait(), output.decode()
    finally:
        await session.close()


# --- limits ---


async def test_memory_over_the_limit_is_oom_killed_even_if_no_event_is_read(runtime):
    limits = ResourceAmounts(memory_bytes=32 * MIB)
    view, _ = await run(runtime, "busybox dd if=/dev/zero of=/dev/null bs=120M count=1", limits=limits)
    assert (view.exit_code, view.oom_killed) == (137, True)


async def test_a_child_that_is_oom_killed_is_reported_if_the_program_fails_for_it(runtime):
    limits = ResourceAmounts(memory_bytes=32 * MIB)
    failing = "busybox dd if=/dev/zero of=/dev/null bs=120M count=1; exit 3"
    view, _ = await run(runtime, failing, limits=limits)
    assert (view.exit_code, view.oom_killed) == (3, True)
    view, _ = await run(runtime, failing.replace("exit 3", "exit 0"), name="r2", limits=limits)
    assert (view.exit_code, view.oom_killed) == (0, False)


async def test_a_killed_container_is_not_called_oom_killed(runtime):
    view, _ = await run(runtime, "exit 137", limits=ResourceAmounts(memory_bytes=32 * MIB))
    assert (view.exit_code, view.oom_killed) == (137, False)


async def test_the_cpu_quota_holds_within_a_tenth(runtime):
    sandbox = make("while :; do :; done", limits=ResourceAmounts(cpu_millis=250))
    await start(runtime, sandbox)

    async def share():
        before, began = await runtime.stats("r1", "main"), time.monotonic()
        await asyncio.sleep(1.2)
        after, ended = await runtime.stats("r1", "main"), time.monotonic()
        return (after.cpu_usage_us - before.cpu_usage_us) / 1e6 / (ended - began) / 0.25

    shares = []
    for _ in range(4):  # a busy machine may give less than the quota; never more
        shares.append(await share())
        assert shares[-1] < 1.1
        if shares[-1] > 0.9:
            return
    raise AssertionError(shares)


async def test_the_pids_limit_holds_for_execs_as_well(runtime):
    sandbox = make(WAIT, limits=ResourceAmounts(pids=8))
    await start(runtime, sandbox)
    spawn = "i=0; while [ $i -lt 20 ]; do sleep 50 & i=$((i+1)); done; echo all-started"
    code, output = await run_exec(runtime, sandbox, spawn)
    assert code != 0
    assert "all-started" not in output
    assert (await runtime.stats("r1", "main")).pids <= 8


async def test_limits_are_in_the_agents_own_cgroup(runtime, place):
    await start(runtime, make(WAIT))
    assert any(path.endswith("/r1.main") for path in map(str, place.replica_leftovers()))
    code, output = await run_exec(runtime, make(WAIT), "cat /proc/self/cgroup; ls /sys/fs/cgroup")
    assert code == 0
    assert place.config.cgroup_prefix not in output, "the cgroup namespace hides where it is"


# --- privileges ---


def status(text):
    return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


@pytest.mark.parametrize("context", [None, SecurityContext(capabilities=Capabilities(drop=("ALL",)))])
async def test_capabilities_and_no_new_privileges_for_container_and_exec(runtime, context):
    sandbox = make(f"cat /proc/self/status; {WAIT}", security_context=context)
    await start(runtime, sandbox)
    _, by_exec = await run_exec(runtime, sandbox, "cat /proc/self/status")
    # chown, dac_override, fowner, fsetid, kill, setgid, setuid, net_bind_service
    expected = 0 if context else sum(1 << n for n in (0, 1, 3, 4, 5, 6, 7, 10))
    own = runtime.log_path("r1", "main").read_text()
    for text in (own, by_exec):
        found = status(text)
        assert found["NoNewPrivs"] == "1"
        assert found["Seccomp"] == "2"
        assert int(found["CapBnd"], 16) == int(found["CapEff"], 16) == expected


@pytest.mark.parametrize(
    "script",
    [
        "busybox unshare -U true",
        "busybox unshare -m true",
        "busybox mount -t tmpfs none /tmp",
        "busybox chroot / true",
        "busybox hostname changed",
        "busybox date -s 2001-01-01 2>&1 | grep -q permitted && exit 1",
        "busybox mknod /tmp/sda b 8 0",
        "echo 1 > /proc/sys/kernel/panic",
        "echo 1 > /sys/kernel/profiling",
        "cat /proc/kcore | head -c 1 | grep -q . && exit 0; exit 1",
        "busybox ip link add d0 type dummy",
    ],
)
async def test_what_would_reach_beyond_the_container_fails(runtime, script):
    view, output = await run(runtime, script)
    assert view.exit_code != 0, output


async def test_unshare_is_refused_by_the_filter_with_eperm(runtime):
    view, output = await run(runtime, "busybox unshare -U true")
    assert view.exit_code != 0
    assert "Operation not permitted" in output
    free = SecurityContext(seccomp_profile=SecurityProfile("Unconfined"))
    _, output = await run(runtime, "busybox unshare -U true && echo made", name="r2", security_context=free)
    assert "made" in output, "without the filter this kernel allows it: it was the filter"


async def test_a_strict_filter_still_runs_a_shell(runtime):
    context = SecurityContext(seccomp_profile=SecurityProfile("Strict"), capabilities=Capabilities(drop=("ALL",)))
    view, output = await run(runtime, "echo $((1+1)) | cat; ls / | wc -l", security_context=context)
    assert view.exit_code == 0
    assert output.startswith("2\n")


async def test_a_read_only_root_has_writable_memory_only(runtime):
    context = SecurityContext(read_only_root_filesystem=True)
    view, output = await run(
        runtime, "echo x > /dev/shm/ok && echo shm; touch /etc/no; touch /root/no", security_context=context
    )
    assert view.exit_code != 0
    assert "shm\n" in output
    assert output.count("Read-only file system") == 2


async def test_writes_of_one_attempt_are_gone_with_the_next(runtime):
    sandbox = make("test -e /marker && exit 7; touch /marker; exit 1")
    await start(runtime, sandbox)
    assert (await finished(runtime, sandbox))[0].exit_code == 1
    await runtime.start_container(sandbox, sandbox.spec.containers[0], attempt=1)
    assert (await finished(runtime, sandbox))[0].exit_code == 1


# --- users, command, environment ---


async def test_the_images_own_settings_are_used(runtime):
    view, output = await run(runtime, "", image=SERVER)
    assert view.exit_code == 0
    lines = output.splitlines()
    assert lines == ["10001", "50", "50", "/www", "hello", "/", "r1", "args: entry from-image"]


async def test_args_command_directory_and_environment_override_the_image(runtime):
    _, output = await run(runtime, "", image=SERVER, args=("other", "two"), env=(EnvVar("GREETING", "hi"),))
    assert output.splitlines()[-1] == "args: entry other two"
    assert "hi" in output.splitlines()
    _, output = await run(
        runtime, "pwd; echo $CLOUDLESS_REPLICA $CLOUDLESS_WORKLOAD $CLOUDLESS_NODE", name="r2", working_dir="/tmp"
    )
    assert output.splitlines() == ["/tmp", "r2 web n1"]


async def test_run_as_user_and_the_refusal_of_root(runtime):
    context = SecurityContext(run_as_user=4242, run_as_group=4343, run_as_non_root=True)
    _, output = await run(runtime, "id -u; id -g", workload_context=context)
    assert output.splitlines() == ["4242", "4343"]
    with pytest.raises(InvalidArgument) as refused:
        await run(runtime, "id", name="r2", workload_context=SecurityContext(run_as_non_root=True))
    assert refused.value.reason == "RunAsNonRoot"


async def test_a_capability_that_was_asked_for_by_name_reaches_a_user_that_is_not_root(runtime):
    context = SecurityContext(run_as_user=4242, capabilities=Capabilities(drop=("ALL",), add=("CHOWN",)))
    view, output = await run(
        runtime, "cp /bin/busybox /tmp/x; chown 1:1 /tmp/x && echo owned", security_context=context
    )
    assert "owned" in output, view


async def test_a_low_port_needs_no_privilege(runtime):
    context = SecurityContext(run_as_user=4242, capabilities=Capabilities(drop=("ALL",)))
    script = "busybox httpd -p 80 -h / && echo listening"
    _, output = await run(runtime, script, security_context=context)
    assert "listening" in output


async def test_an_exec_runs_as_the_containers_user_with_its_groups(runtime):
    sandbox = make(WAIT, image=SERVER, workload_context=SecurityContext(run_as_user=10001))
    await start(runtime, sandbox)
    assert await run_exec(runtime, sandbox, "id -u; id -G; echo $GREETING") == (0, "10001\n10001 50\nhello\n")


async def test_the_images_stop_signal_is_used(runtime):
    script = "trap 'exit 33' QUIT; trap '' TERM; echo ready; while :; do sleep 100 & wait $!; done"
    sandbox = make(script, image=SERVER)
    await start(runtime, sandbox)
    async with asyncio.timeout(10):
        while "ready" not in runtime.log_path("r1", "main").read_text():
            await asyncio.sleep(0.01)
    await runtime.stop_container("r1", "main", grace_ms=10_000)
    assert (await finished(runtime, sandbox))[0].exit_code == 33


async def test_the_last_words_of_a_program_are_kept_in_both_streams(runtime):
    """A shim that is told one name for both streams loses the end of stderr about once in twenty."""
    names = [f"r{n}" for n in range(40)]
    outputs = await asyncio.gather(*(run(runtime, "echo out; echo err >&2; exit 3", name=name) for name in names))
    assert {"".join(sorted(text.splitlines(keepends=True))) for _, text in outputs} == {"err\nout\n"}


# --- refusals ---


def container(**fields):
    return Container(**({"name": "main", "image": BOX, "command": ("/bin/true",)} | fields))


def secured(**fields):
    return container(security_context=SecurityContext(**fields))


@pytest.mark.parametrize(
    ("refused_container", "error", "reason"),
    [
        (secured(capabilities=Capabilities(add=("NOT_THERE",))), InvalidArgument, "UnknownCapability"),
        (secured(runtime_class_name="kata"), FailedPrecondition, "FeatureMissing"),
        (secured(seccomp_profile=SecurityProfile("Other")), InvalidArgument, "UnknownProfile"),
        (container(command=()), InvalidArgument, "NoCommand"),
        (container(command=("/no/such/program",)), InvalidArgument, "CommandNotFound"),
        (container(command=("/etc/passwd",)), InvalidArgument, "CommandNotExecutable"),
        (container(working_dir="relative"), InvalidArgument, "BadWorkingDirectory"),
        (container(working_dir="/etc/passwd/x"), InvalidArgument, "StartFailed"),
        (container(image="cloudless.test/absent:1"), FailedPrecondition, "ImageMissing"),
    ],
)
async def test_what_cannot_start_is_refused_with_its_reason(runtime, refused_container, error, reason):
    sandbox = Sandbox("r1", "default", "web", 1, WorkloadSpec(containers=(refused_container,)))
    await runtime.ensure_sandbox(sandbox)
    with pytest.raises(error) as refused:
        await runtime.start_container(sandbox, refused_container, attempt=0)
    assert refused.value.reason == reason
    (view,) = await runtime.list()
    assert view.containers == ()


async def test_a_missing_image_says_how_to_bring_it(runtime):
    with pytest.raises(FailedPrecondition, match=r"cloudless\.test/absent:1") as refused:
        await run(runtime, "true", image="cloudless.test/absent:1")
    assert "cloudlessctl image import" in refused.value.remedy
