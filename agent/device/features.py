"""What the kernel can enforce here, and why not more: schedulable facts of a node."""

from __future__ import annotations

from cloudless.agent.device.system import System
from cloudless.core.model import Feature

_CAPABILITIES = {"sys-admin": 21, "net-admin": 12, "sys-resource": 24}
_CONTROLLERS = ("cpu", "memory", "pids")


def _probed(system: System) -> list[Feature]:
    findings = system.probe()
    return [
        Feature(name, findings[name].available, findings[name].detail) for name in ("seccomp", "landlock", "userns")
    ]


def _modules(system: System) -> list[Feature]:
    active = system.read("/sys/kernel/security/lsm").split(",")
    apparmor = system.read("/sys/module/apparmor/parameters/enabled").upper() == "Y"
    if apparmor and "apparmor" in active:
        first = Feature("apparmor", True, "")
    else:
        first = Feature("apparmor", False, "not enabled at boot" if apparmor else "the kernel has no AppArmor")
    enforce = system.read("/sys/fs/selinux/enforce")
    if enforce:
        second = Feature("selinux", True, "enforcing" if enforce == "1" else "permissive")
    else:
        second = Feature("selinux", False, "no SELinux file system is mounted")
    return [first, second]


def _cgroups(system: System) -> list[Feature]:
    v1: set[str] = set()
    v2: set[str] | None = None
    for line in system.read("/proc/mounts").splitlines():
        _, target, kind, options, *_ = line.split(" ")
        if kind == "cgroup":
            v1 |= set(options.split(",")) & set(_CONTROLLERS)
        elif kind == "cgroup2":
            v2 = (v2 or set()) | set(system.read(f"{target}/cgroup.controllers").split()) & set(_CONTROLLERS)
    if v2 is None:
        second = Feature("cgroup-v2", False, "not mounted")
    elif v2:
        second = Feature("cgroup-v2", True, " ".join(sorted(v2)))
    else:
        second = Feature("cgroup-v2", False, "mounted without the cpu, memory and pids controllers")
    return [Feature("cgroup-v1", bool(v1), " ".join(sorted(v1)) or "no controller is mounted"), second]


def _capabilities(system: System) -> list[Feature]:
    lines = dict(line.split(":", 1) for line in system.read("/proc/self/status").splitlines() if ":" in line)
    effective = int(lines.get("CapEff", "0").strip(), 16)
    return [
        Feature(name, bool(effective >> bit & 1), "" if effective >> bit & 1 else "the agent lacks the capability")
        for name, bit in _CAPABILITIES.items()
    ]


def _devices(system: System) -> list[Feature]:
    return [
        Feature(name, system.exists(path), "" if system.exists(path) else f"there is no {path}")
        for name, path in (("tun", "/dev/net/tun"), ("kvm", "/dev/kvm"))
    ]


def device_features(system: System) -> tuple[Feature, ...]:
    found = _probed(system) + _modules(system) + _cgroups(system) + _capabilities(system) + _devices(system)
    return tuple(found)


def combined(*groups: tuple[Feature, ...]) -> tuple[Feature, ...]:
    """One feature for each name, sorted. What one group has and another lacks counts as lacking, with its reason."""
    found: dict[str, Feature] = {}
    for group in groups:
        for feature in group:
            if feature.name not in found or not feature.available:
                found[feature.name] = feature
    return tuple(found[name] for name in sorted(found))
