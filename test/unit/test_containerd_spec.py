"""What containerd is told: capabilities, seccomp, users, resources, commands, ids and labels. No containerd here."""

import json

import pytest

from cloudless.agent.runtime.base import ContainerState, Sandbox
from cloudless.agent.runtime.containerd import host, images, labels, plans, security, spec, stats, users
from cloudless.agent.runtime.containerd.api import cgroup1_metrics_pb2, cgroup2_metrics_pb2
from cloudless.agent.runtime.containerd.tasks import start_failure
from cloudless.core.model import PortBinding
from cloudless.core.spec import (
    Capabilities,
    Container,
    EnvVar,
    Protocol,
    ResourceAmounts,
    Resources,
    SecurityContext,
    SecurityProfile,
    WorkloadSpec,
)
from cloudless.errors import FailedPrecondition, Internal, InvalidArgument

PROFILE = host.seccomp_profile()
HOST = spec.Host(
    architecture="amd64",
    capabilities=tuple(c for c in security.ALL_CAPABILITIES if c != "CAP_SYS_RESOURCE"),
    seccomp_profile=PROFILE,
    cgroup_prefix="cloudless/a",
)
PASSWD = "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102:web:/srv:/bin/false\nbad line\n"
GROUP = "root:x:0:\nweb:x:102:\nstaff:x:50:web,other\nwheel:x:10:root\n"


def build(container=None, *, workload=None, image=None, user=None, on=HOST, network=True):
    container = container or Container(name="main", command=("/bin/true",))
    sandbox = Sandbox("web-1", "default", "web", 1, WorkloadSpec(containers=(container,), security_context=workload))
    return spec.build(
        sandbox,
        container,
        image_config=image or {},
        user=user or users.User(0, 0),
        container_id="web-1.main",
        host=on,
        surroundings=spec.Surroundings("/netns/web-1" if network else None, "web-1"),
    )


def calls(document):
    """Names of calls that are allowed without condition."""
    return {
        name
        for rule in document["linux"]["seccomp"]["syscalls"]
        if rule["action"] == "SCMP_ACT_ALLOW" and "args" not in rule
        for name in rule["names"]
    }


def with_context(**fields):
    return Container(name="main", command=("/bin/true",), security_context=SecurityContext(**fields))


# --- security ---


def test_the_defaults_are_few_capabilities_no_new_privileges_and_a_filter():
    document = build()
    assert document["process"]["noNewPrivileges"] is True
    assert document["process"]["capabilities"]["bounding"] == list(security.DEFAULT_CAPABILITIES)
    assert "seccomp" in document["linux"]
    assert "/proc/kcore" in document["linux"]["maskedPaths"]
    assert document["linux"]["resources"]["devices"] == [{"allow": False, "access": "rwm"}]
    assert document["root"]["readonly"] is False


@pytest.mark.parametrize(
    ("wanted", "granted", "added"),
    [
        (Capabilities(), security.DEFAULT_CAPABILITIES, ()),
        (Capabilities(drop=("ALL",)), (), ()),
        (Capabilities(drop=("all",), add=("net_bind_service",)), ("CAP_NET_BIND_SERVICE",), ("CAP_NET_BIND_SERVICE",)),
        (
            Capabilities(drop=("CAP_KILL", "CHOWN")),
            tuple(c for c in security.DEFAULT_CAPABILITIES if c not in ("CAP_KILL", "CAP_CHOWN")),
            (),
        ),
        (Capabilities(drop=("ALL",), add=("SYS_TIME", "CHOWN")), ("CAP_CHOWN", "CAP_SYS_TIME"), None),
    ],
)
def test_capabilities_are_dropped_first_and_added_by_name(wanted, granted, added):
    found = security.effective_capabilities(wanted, host=HOST.capabilities, privileged=False)
    assert found.granted == granted
    assert added is None or found.added == added


@pytest.mark.parametrize("name", ["NET_ADMINN", "CAP_", "", "SYS_RESOURCE"])
def test_a_capability_that_cannot_be_granted_is_refused_not_ignored(name):
    with pytest.raises(InvalidArgument):
        security.effective_capabilities(Capabilities(add=(name,)), host=HOST.capabilities, privileged=False)


def test_privileged_has_every_capability_of_the_host_and_no_filter():
    document = build(with_context(privileged=True))
    assert document["process"]["capabilities"]["bounding"] == list(HOST.capabilities)
    assert document["process"]["noNewPrivileges"] is False
    assert "seccomp" not in document["linux"]
    assert "maskedPaths" not in document["linux"]


def test_a_user_that_is_not_root_keeps_only_what_was_asked_for_by_name():
    document = build(with_context(capabilities=Capabilities(add=("NET_ADMIN",))), user=users.User(1000, 1000))
    capabilities = document["process"]["capabilities"]
    assert capabilities["effective"] == capabilities["ambient"] == ["CAP_NET_ADMIN"]
    assert "CAP_CHOWN" in capabilities["bounding"]


def test_a_containers_context_overrides_the_workloads_field_by_field():
    merged = security.merge(
        SecurityContext(run_as_user=1, run_as_group=2, privileged=True, runtime_class_name="crun"),
        SecurityContext(run_as_user=5, privileged=False),
    )
    assert (merged.run_as_user, merged.run_as_group, merged.privileged, merged.runtime_class_name) == (
        5,
        2,
        False,
        "crun",
    )


def test_the_filter_allows_programs_and_refuses_what_changes_the_machine():
    allowed = calls(build())
    assert {"read", "openat", "execve", "futex", "epoll_wait", "accept4", "arch_prctl", "mmap"} <= allowed
    dangerous = {"mount", "unshare", "setns", "bpf", "kexec_load", "init_module", "reboot", "keyctl", "io_uring_setup"}
    assert not allowed & (dangerous | {"clone3", "userfaultfd", "perf_event_open", "pivot_root", "swapon"})


def test_a_capability_opens_the_calls_that_need_it():
    allowed = calls(build(with_context(capabilities=Capabilities(add=("SYS_ADMIN",)))))
    assert {"mount", "unshare", "clone"} <= allowed
    assert "reboot" not in allowed


def test_clone_may_not_make_namespaces_and_clone3_says_it_does_not_exist():
    rules = build()["linux"]["seccomp"]["syscalls"]
    (clone,) = [rule for rule in rules if "clone" in rule["names"]]
    assert clone["args"] == [{"index": 0, "value": 0x7E020000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]
    (clone3,) = [rule for rule in rules if "clone3" in rule["names"]]
    assert (clone3["action"], clone3["errnoRet"]) == ("SCMP_ACT_ERRNO", 38)


def test_seccomp_profiles_strict_unconfined_and_unknown():
    strict = calls(build(with_context(seccomp_profile=SecurityProfile("Strict"))))
    assert strict < calls(build())
    assert "ptrace" not in strict
    assert "seccomp" not in build(with_context(seccomp_profile=SecurityProfile("Unconfined")))["linux"]
    with pytest.raises(InvalidArgument):
        build(with_context(seccomp_profile=SecurityProfile("Localhost")))


@pytest.mark.parametrize("architecture", ["amd64", "arm64", "arm", "386", "riscv64"])
def test_the_filter_knows_every_architecture(architecture):
    found = security.seccomp_filter(PROFILE, architecture=architecture, capabilities=())
    assert found["architectures"]
    names = [name for rule in found["syscalls"] for name in rule["names"]]
    assert "read" in names
    assert ("arch_prctl" in names) == (architecture == "amd64")


def test_every_capability_in_the_profile_exists():
    for rule in PROFILE["syscalls"]:
        for side in ("includes", "excludes"):
            assert set(rule.get(side, {}).get("caps", ())) <= set(security.ALL_CAPABILITIES)


def test_a_kernel_without_seccomp_refuses_only_who_asks_for_it():
    bare = spec.Host("amd64", HOST.capabilities, None)
    assert "seccomp" not in build(on=bare)["linux"]
    with pytest.raises(FailedPrecondition):
        build(with_context(seccomp_profile=SecurityProfile("RuntimeDefault")), on=bare)


def test_apparmor_is_named_only_where_the_kernel_has_it():
    assert "apparmorProfile" not in build()["process"]
    has = spec.Host("amd64", HOST.capabilities, PROFILE, app_armor_profile="cloudless-default")
    assert build(on=has)["process"]["apparmorProfile"] == "cloudless-default"
    with pytest.raises(FailedPrecondition):
        build(with_context(app_armor_profile=SecurityProfile("mine")), on=has)


def test_host_network_has_no_network_namespace_and_no_sysctls():
    linux = build(network=False)["linux"]
    assert "network" not in [n["type"] for n in linux["namespaces"]]
    assert "sysctl" not in linux
    assert {"type": "network", "path": "/netns/web-1"} in build()["linux"]["namespaces"]


# --- resources ---


@pytest.mark.parametrize(
    ("request_millis", "limit_millis", "shares", "quota", "period"),
    [
        (0, 0, 2, None, None),
        (250, 0, 256, None, None),
        (0, 500, 512, 50_000, 100_000),
        (1000, 2000, 1024, 200_000, 100_000),
        (1, 10, 2, 1000, 100_000),
        (1, 9, 2, 9000, 1_000_000),
        (1, 1, 2, 1000, 1_000_000),
        (1_000_000, 0, 262_144, None, None),
    ],
)
def test_requests_are_shares_and_limits_are_quotas(request_millis, limit_millis, shares, quota, period):
    wanted = Resources(ResourceAmounts(cpu_millis=request_millis), ResourceAmounts(cpu_millis=limit_millis))
    cpu = spec.resources(wanted, swap_accounting=False)["cpu"]
    assert (cpu["shares"], cpu.get("quota"), cpu.get("period")) == (shares, quota, period)


def test_memory_limits_swap_where_that_can_be_counted():
    wanted = Resources(limits=ResourceAmounts(memory_bytes=1000, pids=7))
    assert spec.resources(wanted, swap_accounting=True)["memory"] == {"limit": 1000, "swap": 1000}
    assert spec.resources(wanted, swap_accounting=False)["memory"] == {"limit": 1000}
    assert spec.resources(wanted, swap_accounting=False)["pids"] == {"limit": 7}
    assert spec.resources(Resources(), swap_accounting=False)["pids"] == {"limit": spec.DEFAULT_PIDS}


# --- process ---

IMAGE = {"Entrypoint": ["/entry"], "Cmd": ["a", "b"], "Env": ["PATH=/bin", "A=1", "B=x=y"], "WorkingDir": "/srv"}


@pytest.mark.parametrize(
    ("command", "args", "expected"),
    [
        ((), (), ["/entry", "a", "b"]),
        ((), ("c",), ["/entry", "c"]),
        (("/other",), (), ["/other"]),
        (("/other",), ("c", "d"), ["/other", "c", "d"]),
    ],
)
def test_command_replaces_the_entrypoint_and_args_the_arguments(command, args, expected):
    document = build(Container(name="main", command=command, args=args), image=IMAGE)
    assert document["process"]["args"] == expected


def test_environment_and_working_directory_come_from_the_image_and_are_overridden():
    container = Container(name="main", env=(EnvVar("A", "2"), EnvVar("EMPTY", "")), working_dir="/tmp/x")
    process = build(container, image=IMAGE, user=users.User(5, 5, home="/home/x"))["process"]
    assert process["env"] == ["PATH=/bin", "A=2", "B=x=y", "HOME=/home/x", "EMPTY="]
    assert process["cwd"] == "/tmp/x"
    assert build(Container(name="main"), image=IMAGE)["process"]["cwd"] == "/srv"


@pytest.mark.parametrize(
    "container",
    [
        Container(name="main"),
        Container(name="main", command=("x",), working_dir="relative"),
        Container(name="main", command=("x",), env=(EnvVar("A\0B", ""),)),
        Container(name="main", command=("x",), env=(EnvVar("", "x"),)),
        Container(name="main", command=("x",), env=(EnvVar("A=B", "x"),)),
    ],
)
def test_what_can_never_start_is_an_invalid_argument(container):
    with pytest.raises(InvalidArgument):
        build(container)


def test_an_exec_has_the_restrictions_of_its_container():
    stored = build(Container(name="main", command=("x",), env=(EnvVar("A", "1"),)), user=users.User(7, 8, (9,)))
    process = spec.exec_process(stored, command=("sh", "-c", "id"), env={"B": "2"}, terminal=True)
    assert process["args"] == ["sh", "-c", "id"]
    assert process["terminal"] is True
    assert {"A=1", "B=2", "TERM=xterm"} <= set(process["env"])
    for key in ("user", "capabilities", "noNewPrivileges", "cwd"):
        assert process[key] == stored["process"][key]
    assert stored["process"]["args"] == ["x"]
    with pytest.raises(InvalidArgument):
        spec.exec_process(stored, command=(), env={}, terminal=False)


def test_a_spec_is_json():
    assert json.loads(json.dumps(build())) == build()


# --- users ---


@pytest.mark.parametrize(
    ("image_user", "context", "expected"),
    [
        ("", {}, users.User(0, 0, (10,), "/root")),
        ("web", {}, users.User(101, 102, (50,), "/srv")),
        ("101", {}, users.User(101, 102, (50,), "/srv")),
        ("web:staff", {}, users.User(101, 50, (), "/srv")),
        ("web:7", {}, users.User(101, 7, (), "/srv")),
        ("4000", {}, users.User(4000, 0, (), "/")),
        ("4000:4001", {}, users.User(4000, 4001, (), "/")),
        ("web", {"run_as_user": 10001}, users.User(10001, 0, (), "/")),
        ("web:staff", {"run_as_user": 101, "run_as_group": 9}, users.User(101, 9, (50,), "/srv")),
        ("", {"run_as_group": 10}, users.User(0, 10, (), "/root")),
    ],
)
def test_users_are_resolved_in_the_images_own_files(image_user, context, expected):
    asked = {"run_as_user": None, "run_as_group": None, "non_root": False, **context}
    assert users.resolve(image_user, passwd=PASSWD, group=GROUP, **asked) == expected


@pytest.mark.parametrize(
    ("image_user", "context"),
    [
        ("nobody-there", {}),
        ("web:nobody-there", {}),
        ("", {"non_root": True}),
        ("root", {"non_root": True}),
        ("0", {"non_root": True}),
        ("web", {"non_root": True, "run_as_user": 0}),
        ("99999999999999", {}),
    ],
)
def test_unknown_users_and_root_where_it_is_not_allowed_are_refused(image_user, context):
    asked = {"run_as_user": None, "run_as_group": None, "non_root": False, **context}
    with pytest.raises(InvalidArgument):
        users.resolve(image_user, passwd=PASSWD, group=GROUP, **asked)


class Mount:
    def __init__(self, kind, source="", options=()):
        self.type, self.source, self.options = kind, source, options


def test_account_files_are_read_through_the_layers_without_following_links(tmp_path):
    top, bottom, outside = (tmp_path / name for name in ("top", "bottom", "outside"))
    for directory in (top / "etc", bottom / "etc", outside):
        directory.mkdir(parents=True)
    (bottom / "etc" / "passwd").write_text("below")
    (bottom / "etc" / "group").write_text("below")
    (top / "etc" / "group").write_text("above")
    (outside / "secret").write_text("host")
    mounts = [Mount("overlay", options=("index=off", f"lowerdir={top}:{bottom}"))]
    assert users.read_from_mounts(mounts, "/etc/passwd") == "below"
    assert users.read_from_mounts(mounts, "/etc/group") == "above"
    assert users.read_from_mounts(mounts, "/etc/none") == ""
    (top / "etc" / "passwd").symlink_to(outside / "secret")
    assert users.read_from_mounts(mounts, "/etc/passwd") == ""
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "etc").symlink_to(outside)
    assert users.read_from_mounts([Mount("bind", str(linked), ("ro",))], "/etc/secret") == ""


# --- ids, labels, names ---


@pytest.mark.parametrize("replica", ["web-1", "a", "x" * 63, "a--b", "a.b", "A_b", "w" * 128])
@pytest.mark.parametrize("container", ["main", "c" * 63, "a--b"])
def test_ids_fit_containerd_and_are_distinct(replica, container):
    ids = {labels.sandbox_id(replica), labels.container_id(replica, container), labels.container_id(replica, "other")}
    assert len(ids) == 3
    for one in ids:
        assert len(one) <= 76
        assert labels._IDENTIFIER.fullmatch(one)


@pytest.mark.parametrize("replica", ["", "..", "../x", "a/b", "-a", "a-", "x" * 200, "a b"])
def test_an_id_that_would_leave_its_folder_is_refused(replica):
    with pytest.raises(InvalidArgument):
        labels.check_replica_id(replica)


def test_a_sandbox_is_read_back_from_its_labels():
    ports = (PortBinding("http", 80, 8080, Protocol.TCP), PortBinding("", 53, 0, Protocol.UDP), PortBinding("x", 1))
    sandbox = Sandbox("web-1", "prod", "web", 12, WorkloadSpec())
    written = labels.sandbox_labels(sandbox, address="10.0.0.7", ports=ports, host_network=False)
    found = labels.read_sandbox(written)
    assert (found.replica_id, found.namespace, found.workload, found.generation) == ("web-1", "prod", "web", 12)
    assert (found.address, found.ports, found.host_network) == ("10.0.0.7", ports, False)


def test_a_container_is_read_back_in_every_state():
    base = labels.container_labels("r", "c", attempt=3, image_digest="sha256:x", started_at_ms=1000, stop_signal="")
    assert labels.container_view(base, starting=True).state is ContainerState.CREATED
    running = labels.container_view(base, pid=7)
    assert (running.state, running.pid, running.started_at_ms, running.attempt) == (ContainerState.RUNNING, 7, 1000, 3)
    lost = labels.container_view(base)
    assert (lost.state, lost.exit_code) == (ContainerState.EXITED, labels.LOST_EXIT_CODE)
    ended = labels.container_view(base | labels.exit_labels(labels.Exit(137, 2000, True)))
    assert (ended.state, ended.exit_code, ended.oom_killed, ended.finished_at_ms) == (
        ContainerState.EXITED,
        137,
        True,
        2000,
    )


@pytest.mark.parametrize(
    ("reference", "full", "short"),
    [
        ("nginx", "docker.io/library/nginx:latest", "nginx:latest"),
        ("nginx:1.27", "docker.io/library/nginx:1.27", "nginx:1.27"),
        ("docker.io/library/nginx:1.27", "docker.io/library/nginx:1.27", "nginx:1.27"),
        ("user/app", "docker.io/user/app:latest", "user/app:latest"),
        ("localhost/app:1", "localhost/app:1", "localhost/app:1"),
        ("host:5000/app", "host:5000/app:latest", "host:5000/app:latest"),
        ("ghcr.io/a/b@sha256:" + "0" * 64, "ghcr.io/a/b@sha256:" + "0" * 64, "ghcr.io/a/b@sha256:" + "0" * 64),
    ],
)
def test_an_image_is_looked_for_under_its_names(reference, full, short):
    assert images.reference_candidates(reference) == tuple(dict.fromkeys((reference, full, short)))


@pytest.mark.parametrize(
    ("name", "number"), [("", 15), ("SIGQUIT", 3), ("INT", 2), ("9", 9), ("0", 15), ("99999", 15), ("SIGFOO", 15)]
)
def test_stop_signals(name, number):
    assert plans.signal_number(name) == number


@pytest.mark.parametrize(
    ("message", "kind", "reason"),
    [
        (
            "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container "
            'process: exec: "/nope": stat /nope: no such file or directory: unknown',
            InvalidArgument,
            "CommandNotFound",
        ),
        (
            "OCI runtime exec failed: exec failed: unable to start container process: "
            'exec: "nosuch": executable file not found in $PATH: unknown',
            InvalidArgument,
            "CommandNotFound",
        ),
        (
            "OCI runtime exec failed: exec failed: unable to start container process: "
            'exec: "/etc/passwd": permission denied: unknown',
            InvalidArgument,
            "CommandNotExecutable",
        ),
        (
            'OCI runtime exec failed: exec failed: unable to start container process: exec: "/etc": is a directory',
            InvalidArgument,
            "CommandNotExecutable",
        ),
        (
            "OCI runtime exec failed: exec failed: unable to start container process: exec /x: exec format error",
            InvalidArgument,
            "CommandNotExecutable",
        ),
        (
            "OCI runtime exec failed: exec failed: chdir to cwd (/x) set in config.json failed: permission denied",
            InvalidArgument,
            "StartFailed",
        ),
        (
            "failed to create shim task: OCI runtime create failed: no space left on device",
            FailedPrecondition,
            "StartFailed",
        ),
    ],
)
def test_whose_fault_a_failed_start_is(message, kind, reason):
    error = start_failure(message)
    assert isinstance(error, kind)
    assert error.reason == reason
    assert "OCI runtime" not in error.message


# --- counters ---


def test_metrics_of_both_cgroup_versions():
    first = cgroup1_metrics_pb2.Metrics()
    first.cpu.usage.total, first.memory.usage.usage, first.memory.total_inactive_file = 5_000_000, 1000, 300
    first.pids.current = 4
    found = stats.decode("io.containerd.cgroups.v1.Metrics", first.SerializeToString())
    assert (found.cpu_usage_us, found.memory_bytes, found.pids) == (5000, 700, 4)
    second = cgroup2_metrics_pb2.Metrics()
    second.cpu.usage_usec, second.memory.usage, second.memory.inactive_file, second.pids.current = 5, 10, 20, 1
    found = stats.decode("type.googleapis.com/io.containerd.cgroups.v2.Metrics", second.SerializeToString())
    assert (found.cpu_usage_us, found.memory_bytes, found.pids) == (5, 0, 1)
    with pytest.raises(Internal):
        stats.decode("something.else", b"")
