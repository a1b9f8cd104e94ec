"""What this device's kernel and containerd can do: found out, not assumed."""

from __future__ import annotations

import contextlib
import importlib.resources
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cloudless.agent.network import ports
from cloudless.agent.runtime.containerd import cgroups, security
from cloudless.agent.runtime.containerd.spec import Host
from cloudless.core.model import Feature

# loaded by the operator (`apparmor_parser`); the name is ours so that no other program's profile is used by chance
APP_ARMOR_PROFILE = "cloudless-default"
_SYS_RESOURCE, _NET_ADMIN, _SYS_ADMIN = "CAP_SYS_RESOURCE", "CAP_NET_ADMIN", "CAP_SYS_ADMIN"


def detect(*, architecture: str, cgroup_prefix: str) -> Host:
    """What specs are built on. Reads a few files."""
    return Host(
        architecture=architecture,
        capabilities=own_capabilities(),
        seccomp_profile=seccomp_profile() if seccomp_available() else None,
        app_armor_profile=APP_ARMOR_PROFILE if app_armor_loaded() else "",
        swap_accounting=cgroups.swap_accounting(),
        cgroup_prefix=cgroup_prefix,
    )


def find_program(name: str) -> str:
    """Its path; empty: it is not installed."""
    return shutil.which(name) or ""


def seccomp_profile() -> Mapping[str, Any]:
    return security.load_profile(
        importlib.resources.files(__package__).joinpath("seccomp_default.json").read_text(encoding="utf-8")
    )


def own_capabilities() -> tuple[str, ...]:
    """Those of this process, which containers cannot exceed."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapBnd:"):
            return security.host_capabilities(int(line.split()[1], 16))
    return ()


def seccomp_available() -> bool:
    return Path("/proc/sys/kernel/seccomp/actions_avail").exists()


def app_armor_loaded() -> bool:
    with contextlib.suppress(OSError):
        profiles = Path("/sys/kernel/security/apparmor/profiles").read_text()
        return any(line.startswith(f"{APP_ARMOR_PROFILE} ") for line in profiles.splitlines())
    return False


def features(host: Host) -> tuple[Feature, ...]:
    """What can be enforced here, and why not more: `seccomp` and `apparmor` are what schedulers know of every
    device, the rest is this runtime's own."""
    limits = cgroups.controllers()
    version = "2" if cgroups.unified() else "1"
    found = [
        _feature("seccomp", host.seccomp_profile is not None, "default profile", "the kernel has no seccomp"),
        _feature("apparmor", bool(host.app_armor_profile), host.app_armor_profile, _why_no_app_armor()),
        _feature("containerd.network", _NET_ADMIN in host.capabilities, "bridge and veth", "no CAP_NET_ADMIN"),
        _feature("containerd.host-ports", bool(find_program("nft")), "nftables", "nft is not installed"),
        _feature("containerd.shared-host-ports", ports.can_share(), "nftables numgen", "the kernel has no nft_numgen"),
        _feature(
            "containerd.privileged",
            {_SYS_RESOURCE, _SYS_ADMIN} <= set(host.capabilities),
            "every capability of the host",
            "the agent itself lacks CAP_SYS_RESOURCE or CAP_SYS_ADMIN",
        ),
    ]
    found += [
        _feature(f"containerd.{name}-limit", name in limits, f"cgroup v{version}", f"no {name} controller")
        for name in ("cpu", "memory", "pids")
    ]
    found += [
        _feature(f"containerd.runtime-class-{name}", bool(find_program(name)), name, f"{name} is not installed")
        for name in ("runc", "crun")
    ]
    return tuple(found)


def _why_no_app_armor() -> str:
    if not os.path.isdir("/sys/module/apparmor"):
        return "the kernel has no AppArmor"
    return f"the profile {APP_ARMOR_PROFILE} is not loaded"


def _feature(name: str, available: bool, detail: str, why_not: str) -> Feature:
    return Feature(name, available, detail if available else why_not)
