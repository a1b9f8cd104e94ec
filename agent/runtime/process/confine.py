"""From a container's spec and what the device can do, the record that `launch.py` carries out.

What the spec asks for and this device cannot give is refused, never left out in silence; what it does not ask for
is taken away as far as the device allows.
"""

from __future__ import annotations

import dataclasses
import os
import resource
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cloudless.agent.runtime.base import Sandbox
from cloudless.agent.runtime.process import landlock, seccomp
from cloudless.agent.runtime.process.cgroups import Cgroups
from cloudless.agent.runtime.process.findings import Finding
from cloudless.agent.runtime.process.processes import tasks_of_user
from cloudless.agent.runtime.process.state import ReplicaFolder
from cloudless.core.model import Feature
from cloudless.core.spec import Container, SecurityContext
from cloudless.errors import FailedPrecondition, InvalidArgument

NOBODY = 65534
_CAPABILITIES = {"NET_BIND_SERVICE": 10}
_FILES_MAX = 65_536
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_TERMUX_BIN = "/data/data/com.termux/files/usr/bin"
_PROFILES = ("", "RuntimeDefault")


@dataclass(frozen=True, slots=True)
class Abilities:
    """What this device lets the agent do."""

    root: bool
    arch: str
    probes: Mapping[str, Finding]
    cgroups: Cgroups

    def has(self, probe: str) -> bool:
        return self.probes[probe].available

    @property
    def landlock_abi(self) -> int:
        return int(self.probes["landlock"].detail.removeprefix("ABI ")) if self.has("landlock") else 0

    @property
    def private_tmp(self) -> bool:
        return self.root and self.has("mount-namespace")

    @property
    def filtered(self) -> bool:
        return self.has("seccomp") and seccomp.program(self.arch, unix_sockets=True) is not None

    def features(self) -> tuple[Feature, ...]:
        def probed(name: str, probe: str, detail: str) -> Feature:
            found = self.probes[probe]
            return Feature(name, found.available, detail if found.available else f"the kernel says: {found.detail}")

        def limited(name: str, controller: str, otherwise: str) -> Feature:
            why = self.cgroups.missing.get(controller)
            return Feature(name, why is None, "cgroup" if why is None else f"{why}; {otherwise}")

        syscalls = probed("process.syscalls", "seccomp", "deny list; no_new_privs")
        if syscalls.available and not self.filtered:
            syscalls = Feature("process.syscalls", False, f"no system call numbers for {self.arch}")
        memory = "RLIMIT_DATA for each process, and what is seen over its limit is killed"
        return (
            probed("process.files", "landlock", self.probes["landlock"].detail),
            syscalls,
            Feature("process.user", self.root, f"uid {NOBODY}" if self.root else "the agent is not root: its own user"),
            Feature(
                "process.private-tmp",
                self.private_tmp,
                "a mount namespace of its own"
                if self.private_tmp
                else self.probes["mount-namespace"].detail or "the agent is not root",
            ),
            limited("process.cpu-limit", "cpu", "nice only"),
            limited("process.memory-limit", "memory", memory),
            limited("process.pids-limit", "pids", "RLIMIT_NPROC, which counts the whole user"),
            Feature("process.network", False, "processes share the device's network and its ports"),
        )


def merged(sandbox: Sandbox, container: Container) -> SecurityContext:
    """The container's security context over the workload's."""
    base = sandbox.spec.security_context or SecurityContext()
    over = container.security_context or SecurityContext()
    stated = {
        f.name: getattr(over, f.name) for f in dataclasses.fields(over) if getattr(over, f.name) not in (None, "")
    }
    return dataclasses.replace(base, **stated)


def _refuse(what: str, remedy: str) -> FailedPrecondition:
    return FailedPrecondition(f"a process cannot have {what} here", reason="FeatureMissing", remedy=remedy)


def _check(context: SecurityContext, container: Container, abilities: Abilities) -> None:
    if not (container.process or container.command):
        raise InvalidArgument(
            f"container {container.name} names an image, and this device runs processes only",
            reason="NoImages",
            remedy="give it a process, or run it where containerd is",
        )
    if context.privileged:
        raise InvalidArgument("a process is never privileged", reason="PrivilegedRefused")
    if 0 in (context.run_as_user, context.run_as_group):
        raise InvalidArgument(
            "a process never runs as root or in its group",
            reason="RootRefused",
            remedy="set runAsUser and runAsGroup to others, or leave them out",
        )
    if not abilities.root and context.run_as_user not in (None, os.geteuid()):
        raise _refuse(f"user {context.run_as_user}", "run the agent as root, or leave runAsUser out")
    if moved := [p for p in container.ports if p.host_port not in (0, p.container_port)]:
        raise _refuse(
            f"port {moved[0].container_port} at host port {moved[0].host_port}",
            "processes share the device's ports: let the program listen there and leave hostPort out",
        )
    for profile in (context.seccomp_profile, context.app_armor_profile):
        if profile is not None and profile.type not in _PROFILES:
            raise _refuse(f"the security profile {profile.type}", "use RuntimeDefault")
    offered = set(_CAPABILITIES) if abilities.root else set()
    if unknown := _added(context) - offered:
        raise _refuse(f"the capability {sorted(unknown)[0]}", "run it where containerd is, or leave it out")
    if context.read_only_root_filesystem and not abilities.landlock_abi:
        raise _refuse("a read-only root file system", "it needs Landlock (Linux 5.13)")


def _added(context: SecurityContext) -> set[str]:
    return {name.removeprefix("CAP_").upper() for name in (context.capabilities.add if context.capabilities else ())}


def user_of(context: SecurityContext, abilities: Abilities) -> tuple[int, int]:
    """uid and gid that the container runs as."""
    if not abilities.root:
        return os.geteuid(), os.getegid()
    uid = NOBODY if context.run_as_user is None else context.run_as_user
    return uid, uid if context.run_as_group is None else context.run_as_group


def _rlimits(container: Container, abilities: Abilities, uid: int) -> list[str]:
    limits = container.resources.limits
    found = [f"{resource.RLIMIT_CORE}:0", f"{resource.RLIMIT_NOFILE}:{_FILES_MAX}"]
    if limits.memory_bytes and "memory" in abilities.cgroups.missing:
        # Twice: what grows past the limit slowly is killed and reported; this stops what grows at once.
        found.append(f"{resource.RLIMIT_DATA}:{2 * limits.memory_bytes}")
    if limits.pids and "pids" in abilities.cgroups.missing:
        found.append(f"{resource.RLIMIT_NPROC}:{tasks_of_user(uid) + limits.pids}")
    return found


def _environment(container: Container, *, home: str, address: str) -> list[str]:
    path = f"{_TERMUX_BIN}:{_PATH}" if Path(_TERMUX_BIN).is_dir() else _PATH
    own = {"PATH": path, "HOME": home, "TMPDIR": home, "CLOUDLESS_ADDRESS": address}
    return [f"{name}={value}" for name, value in (own | {e.name: e.value for e in container.env}).items()]


def record(
    sandbox: Sandbox, container: Container, *, folder: ReplicaFolder, group: str, abilities: Abilities
) -> dict[str, str | int | list[str]]:
    """What `<attempt>.spec` holds. Raises InvalidArgument or FailedPrecondition for what cannot be honoured."""
    context = merged(sandbox, container)
    _check(context, container, abilities)
    uid, gid = user_of(context, abilities)
    home = "/tmp" if abilities.private_tmp else str(folder.work)  # noqa: S108 (its own)
    fields: dict[str, str | int | list[str]] = {
        "arg": [*(container.command or container.process), *container.args],
        "env": _environment(container, home=home, address=folder.address),
        "home": home,
        "log": str(folder.log(container.name)),
        "cgroup": abilities.cgroups.folders(group),
        "oom_file": abilities.cgroups.oom_files(group),
        "rlimit": _rlimits(container, abilities, uid),
        "memory_bytes": container.resources.limits.memory_bytes,
    }
    if container.working_dir:
        fields["working_dir"] = container.working_dir
    if "cpu" in abilities.cgroups.missing:
        fields["nice"] = 10
    if abilities.private_tmp:
        fields["private_tmp"] = str(folder.work)
    if abi := abilities.landlock_abi:
        fields["landlock"] = ":".join(map(str, landlock.handled(abi)))
        own = (home, "/dev/shm") if abilities.private_tmp else (home,)  # noqa: S108
        fields["landlock_rule"] = landlock.rules(abi, own=own)
    if abilities.root:
        fields["uid"], fields["gid"] = uid, gid
        fields["capability"] = [str(number) for name, number in _CAPABILITIES.items() if name in _added(context)]
    if abilities.has("seccomp") and (code := seccomp.program(abilities.arch, unix_sockets=abilities.root)):
        fields["seccomp"] = code.hex()
    return fields
