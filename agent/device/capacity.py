"""What this device has for the fabric: CPUs, memory, storage, processes, less what its owner keeps."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from cloudless.agent.device import network
from cloudless.agent.device.system import System
from cloudless.config import OwnerConfig
from cloudless.core.spec import ResourceAmounts


def _own_groups(system: System, controller: str) -> list[str]:
    """Folders of the cgroups that this process is in for a controller, the innermost first: a limit anywhere
    above holds as well."""
    mounts = [line.split(" ") for line in system.read("/proc/mounts").splitlines()]
    for line in system.read("/proc/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            targets = [m[1] for m in mounts if m[2] == "cgroup" and controller in m[3].split(",")]
        elif names == "":
            targets = [m[1] for m in mounts if m[2] == "cgroup2"]
        else:
            continue
        for target in targets:
            parts = [part for part in path.split("/") if part]
            groups = ["/".join([target, *parts[:n]]) for n in range(len(parts), -1, -1)]
            if any(name.startswith(f"{controller}.") for group in groups for name in system.names(group)):
                return groups
    return []


def cpu_millis(system: System) -> int:
    """CPUs that may be used: affinity, and the tightest quota of the cgroups that the agent runs in."""
    found = system.affinity_cpus * 1000
    for group in _own_groups(system, "cpu"):
        quota, _, period = system.read(f"{group}/cpu.max").partition(" ")
        if not quota:
            quota = system.read(f"{group}/cpu.cfs_quota_us")
            period = system.read(f"{group}/cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period):
            found = min(found, int(quota) * 1000 // int(period))
    return found


def meminfo(system: System) -> dict[str, int]:
    """/proc/meminfo in bytes."""
    found = {}
    for line in system.read("/proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        number = value.split()[:1]
        if number and number[0].isdigit():
            found[name] = int(number[0]) * 1024
    return found


def memory_limit(system: System) -> tuple[int, str]:
    """The tightest memory limit in bytes and the cgroup that has it; that of the device when there is none."""
    found, where = meminfo(system).get("MemTotal", 0), ""
    for group in _own_groups(system, "memory"):
        limit = system.number(f"{group}/memory.max") or system.number(f"{group}/memory.limit_in_bytes")
        if limit is not None and 0 < limit < found:
            found, where = limit, group
    return found, where


def pids_max(system: System) -> int:
    found = system.number("/proc/sys/kernel/pid_max") or 32_768
    for group in _own_groups(system, "pids"):
        found = min(found, system.number(f"{group}/pids.max") or found)
    return found


def existing(path: Path) -> Path:
    """The nearest folder above that exists: its file system is where `path` will be."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def storage_free(system: System, data_dir: Path) -> int:
    """Bytes that were free for the agent's user on the file system of its data folder when it was first asked: what
    is offered must not shrink as workloads fill what was given to them. Remembered in the folder, per file system."""
    place = existing(data_dir)
    stat = system.statvfs(place)
    device, free = place.stat().st_dev, int(stat.f_bavail * stat.f_frsize)
    memory = data_dir / "storage.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(memory.read_text())
        if known["device"] == device:
            return min(int(known["bytes"]), int(stat.f_blocks * stat.f_frsize))
    with contextlib.suppress(OSError):  # a folder that cannot be written is the journal's trouble, not ours
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = memory.with_suffix(".tmp")
        temporary.write_text(json.dumps({"device": device, "bytes": free}))
        temporary.replace(memory)
    return free


def storage_used(stat: os.statvfs_result) -> int:
    return (stat.f_blocks - stat.f_bfree) * stat.f_frsize


def offered(system: System, owner: OwnerConfig, data_dir: Path) -> ResourceAmounts:
    """Capacity after the owner's limits. An owner can offer less than the device has, never more. `storage_bytes`
    is what was free at first; `egress_bps` the speed of the link to the default route, 0 where it does not tell."""
    share = min(1.0, max(0.0, owner.share))
    cpu, memory = cpu_millis(system), memory_limit(system)[0]
    return ResourceAmounts(
        cpu_millis=min(cpu, owner.cpu_millis or int(cpu * share)),
        memory_bytes=min(memory, owner.memory_bytes or int(memory * share)),
        storage_bytes=int(storage_free(system, data_dir) * share),
        egress_bps=network.egress_bps(system),
        pids=int(pids_max(system) * share),
    )
