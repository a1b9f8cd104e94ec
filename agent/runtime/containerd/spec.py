"""From what a workload asks for to the OCI runtime spec. Pure: everything of the host comes in as an argument."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cloudless.agent.runtime.base import Sandbox
from cloudless.agent.runtime.containerd import security
from cloudless.agent.runtime.containerd.users import User
from cloudless.core.spec import Container, ResourceAmounts, Resources, SecurityContext
from cloudless.errors import FailedPrecondition, InvalidArgument

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# of a container that states none: enough for any server, not enough for a fork bomb to hurt the node
DEFAULT_PIDS = 4096
_PERIOD_US = 100_000
_LONG_PERIOD_US = 1_000_000
_QUOTA_US_MIN = 1000  # the kernel refuses less
_SHARES_PER_CPU = 1024
_SHARES_MIN, _SHARES_MAX = 2, 262_144

_MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
_READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@dataclass(frozen=True, slots=True)
class Host:
    """What this node can do, found out once."""

    architecture: str
    capabilities: tuple[str, ...]
    seccomp_profile: Mapping[str, Any] | None  # None: the kernel has no seccomp
    app_armor_profile: str = ""  # a loaded profile; empty: the kernel has none
    swap_accounting: bool = False
    cgroup_prefix: str = "cloudless"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the sandbox gives to its containers."""

    network_namespace: Path | None  # None: the host's
    hostname: str
    files: Mapping[str, Path] = field(default_factory=dict)  # by path in the container, e.g. /etc/hosts
    environment: Mapping[str, str] = field(default_factory=dict)


def build(
    sandbox: Sandbox,
    container: Container,
    *,
    image_config: Mapping[str, Any],
    user: User,
    container_id: str,
    host: Host,
    surroundings: Surroundings,
) -> dict[str, Any]:
    """The spec of one container. Raises InvalidArgument where it can never start, FailedPrecondition where another
    node could start it."""
    context = security.merge(sandbox.spec.security_context, container.security_context)
    privileged = bool(context.privileged)
    capabilities = security.effective_capabilities(context.capabilities, host=host.capabilities, privileged=privileged)
    process = _process(container, image_config, user, capabilities, surroundings)
    process["noNewPrivileges"] = not privileged
    if profile := _app_armor(context, host):
        process["apparmorProfile"] = profile
    linux: dict[str, Any] = {
        "cgroupsPath": cgroup_path(host.cgroup_prefix, container_id),
        "namespaces": _namespaces(surroundings),
        "resources": resources(container.resources, swap_accounting=host.swap_accounting, privileged=privileged),
        "rootfsPropagation": "rprivate",
    }
    if not privileged:
        linux["maskedPaths"] = list(_MASKED_PATHS)
        linux["readonlyPaths"] = list(_READONLY_PATHS)
        if (seccomp := _seccomp(context, host, capabilities.granted)) is not None:
            linux["seccomp"] = seccomp
    if surroundings.network_namespace is not None:
        # of the replica's own network: ping and low ports need no capability there
        linux["sysctl"] = {"net.ipv4.ping_group_range": "0 2147483647", "net.ipv4.ip_unprivileged_port_start": "0"}
    return {
        "ociVersion": "1.0.2",
        "process": process,
        "root": {"path": "rootfs", "readonly": bool(context.read_only_root_filesystem)},
        "hostname": surroundings.hostname,
        "mounts": _mounts(surroundings, writable_sys=privileged),
        "linux": linux,
        "annotations": {
            "dev.cloudless.replica": sandbox.replica_id,
            "dev.cloudless.container": container.name,
        },
    }


def cgroup_path(prefix: str, container_id: str) -> str:
    return f"/{prefix.strip('/')}/{container_id}"


def resources(wanted: Resources, *, swap_accounting: bool, privileged: bool = False) -> dict[str, Any]:
    """Requests become CPU shares, limits become quota, memory and pids."""
    cpu: dict[str, int] = {"shares": _shares(wanted.requests, wanted.limits)}
    if limit := wanted.limits.cpu_millis:
        # ten milliseconds of a CPU are the least that a period of 100 ms can express
        period = _PERIOD_US if limit * _PERIOD_US >= _QUOTA_US_MIN * 1000 else _LONG_PERIOD_US
        cpu |= {"period": period, "quota": max(_QUOTA_US_MIN, limit * period // 1000)}
    limits: dict[str, Any] = {
        "cpu": cpu,
        "pids": {"limit": wanted.limits.pids or DEFAULT_PIDS},
        "devices": [{"allow": privileged, "access": "rwm"}],
    }
    if memory := wanted.limits.memory_bytes:
        limits["memory"] = {"limit": memory} | ({"swap": memory} if swap_accounting else {})
    return limits


def exec_process(
    stored: Mapping[str, Any], *, command: Sequence[str], env: Mapping[str, str], terminal: bool
) -> dict[str, Any]:
    """The process of an exec: that of the container with another command, hence with the same restrictions, which
    an exec does not inherit by itself. Raises InvalidArgument for an empty command."""
    if not command or not command[0]:
        raise InvalidArgument("the command is empty", reason="NoCommand")
    process = dict(stored["process"])
    merged = dict(entry.partition("=")[::2] for entry in process.get("env", ())) | dict(env)
    if terminal:
        merged.setdefault("TERM", "xterm")
    process["args"] = list(command)
    process["env"] = [f"{name}={value}" for name, value in merged.items()]
    process["terminal"] = terminal
    return process


def _shares(requests: ResourceAmounts, limits: ResourceAmounts) -> int:
    millis = requests.cpu_millis or limits.cpu_millis
    if not millis:
        return _SHARES_MIN
    return min(_SHARES_MAX, max(_SHARES_MIN, millis * _SHARES_PER_CPU // 1000))


def _process(
    container: Container,
    image_config: Mapping[str, Any],
    user: User,
    capabilities: security.CapabilitySet,
    surroundings: Surroundings,
) -> dict[str, Any]:
    env = dict(entry.partition("=")[::2] for entry in _strings(image_config, "Env"))
    env.setdefault("PATH", DEFAULT_PATH)
    env.setdefault("HOME", user.home)
    env |= surroundings.environment
    env |= {variable.name: variable.value for variable in container.env}
    for name, value in env.items():
        if not name or "=" in name or "\0" in name + value:
            raise InvalidArgument(f"the environment variable {name!r} cannot be passed on", reason="BadEnvironment")
    cwd = container.working_dir or str(image_config.get("WorkingDir") or "/")
    if not cwd.startswith("/"):
        raise InvalidArgument(f"the working directory {cwd!r} is not absolute", reason="BadWorkingDirectory")
    granted = list(capabilities.granted)
    # a program that is not root keeps, across its start, only what was asked for by name
    effective = granted if user.uid == 0 else list(capabilities.added)
    ambient = [] if user.uid == 0 else list(capabilities.added)
    return {
        "args": _arguments(container, image_config),
        "env": [f"{name}={value}" for name, value in env.items()],
        "cwd": cwd,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups)},
        "capabilities": {
            "bounding": granted,
            "effective": effective,
            "permitted": effective,
            "inheritable": ambient,
            "ambient": ambient,
        },
    }


def _arguments(container: Container, image_config: Mapping[str, Any]) -> list[str]:
    """`command` replaces the image's entrypoint and with it the image's arguments; `args` replaces those alone."""
    if container.command:
        arguments = [*container.command, *container.args]
    else:
        arguments = [*_strings(image_config, "Entrypoint"), *(container.args or _strings(image_config, "Cmd"))]
    if not arguments:
        raise InvalidArgument(
            f"the container {container.name} has no command, and neither has its image",
            reason="NoCommand",
            remedy="set command",
        )
    return arguments


def _strings(document: Mapping[str, Any], key: str) -> list[str]:
    value = document.get(key)
    return [entry for entry in value if isinstance(entry, str)] if isinstance(value, list) else []


def _app_armor(context: SecurityContext, host: Host) -> str:
    kind = context.app_armor_profile.type if context.app_armor_profile else ""
    if kind == "Unconfined" or context.privileged:
        return "unconfined" if host.app_armor_profile else ""
    if kind not in ("", "RuntimeDefault"):
        raise FailedPrecondition(
            f"the AppArmor profile {kind!r} is not available on this node", reason="FeatureMissing"
        )
    # naming a profile where the kernel has no AppArmor would fail the start; what is missing is advertised
    return host.app_armor_profile


def _seccomp(context: SecurityContext, host: Host, capabilities: Sequence[str]) -> dict[str, Any] | None:
    if host.seccomp_profile is None:
        if context.seccomp_profile is not None and context.seccomp_profile.type != "Unconfined":
            raise FailedPrecondition("this node's kernel has no seccomp", reason="FeatureMissing")
        return None
    return security.seccomp_for(
        context.seccomp_profile,
        profile=host.seccomp_profile,
        architecture=host.architecture,
        capabilities=capabilities,
    )


def _namespaces(surroundings: Surroundings) -> list[dict[str, str]]:
    kinds: list[dict[str, str]] = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "cgroup")]
    if surroundings.network_namespace is not None:
        kinds.append({"type": "network", "path": str(surroundings.network_namespace)})
    return kinds


def _mounts(surroundings: Surroundings, *, writable_sys: bool) -> list[dict[str, Any]]:
    def mount(target: str, kind: str, *options: str, source: str = "") -> dict[str, Any]:
        return {"destination": target, "type": kind, "source": source or kind, "options": list(options)}

    sys_mode = "rw" if writable_sys else "ro"
    mounts = [
        mount("/proc", "proc", "nosuid", "noexec", "nodev"),
        mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        mount("/dev/shm", "tmpfs", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k", source="shm"),  # noqa: S108
        mount("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev"),
    ]
    if surroundings.network_namespace is not None:
        mounts.append(mount("/sys", "sysfs", "nosuid", "noexec", "nodev", sys_mode))
    else:  # a new sysfs needs a network namespace of one's own
        mounts.append(mount("/sys", "none", "rbind", "nosuid", "noexec", "nodev", sys_mode, source="/sys"))
    mounts.append(mount("/sys/fs/cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", sys_mode))
    mounts += [
        mount(target, "bind", "rbind", "rprivate", "nosuid", "nodev", "noexec", "ro", source=str(source))
        for target, source in surroundings.files.items()
    ]
    return mounts
