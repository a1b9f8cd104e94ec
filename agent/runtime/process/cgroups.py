"""Limits of containers through cgroups, v1, v2 or both at once (hybrid), where this process may write them.

Each controller is looked for in v1 first, then in v2, for a controller is in one hierarchy only. Groups are
`<mount>/<prefix>/process/<group>`, outside of whatever service the agent runs in, and are made for one attempt.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from cloudless.core.spec import Resources
from cloudless.errors import Unavailable

_CONTROLLERS = ("cpu", "cpuacct", "memory", "pids")
_PERIOD_US = 100_000
_QUOTA_US_MIN = 1000  # the kernel refuses less


@dataclass(frozen=True, slots=True)
class Usage:
    cpu_usage_us: int | None = None
    memory_bytes: int | None = None
    pids: int | None = None


def _write(path: Path, value: str | int) -> None:
    with path.open("w") as file:
        file.write(str(value))


def _mounts(root: Path) -> tuple[dict[str, Path], Path | None]:
    """v1 controllers and the v2 mount, from /proc/mounts."""
    v1: dict[str, Path] = {}
    v2: Path | None = None
    try:
        lines = (root / "proc/mounts").read_text().splitlines()
    except OSError:
        return {}, None
    for line in lines:
        _, target, kind, options, *_ = line.split(" ")
        path = root / target.lstrip("/")
        if kind == "cgroup":
            v1 |= {option: path for option in options.split(",") if option in _CONTROLLERS}
        elif kind == "cgroup2" and v2 is None:
            v2 = path
    return v1, v2


@dataclass(slots=True)
class Cgroups:
    """`parents`: the folder that holds the groups, for each controller that can be used; `missing`: why not, for
    each that cannot."""

    parents: dict[str, Path] = field(default_factory=dict)
    unified: frozenset[str] = frozenset()  # those of `parents` that are v2
    missing: dict[str, str] = field(default_factory=dict)

    @classmethod
    def prepare(cls, prefix: str, *, root: Path = Path("/")) -> Cgroups:
        """Makes the parents. Never raises: what cannot be had is in `missing`."""
        groups = cls()
        unified: set[str] = set()
        v1, v2 = _mounts(root)
        for controller in _CONTROLLERS:
            try:
                if controller in v1:
                    parent = v1[controller] / prefix / "process"
                    parent.mkdir(parents=True, exist_ok=True)
                    if not os.access(parent, os.W_OK):
                        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(parent))
                elif v2 is not None and controller != "cpuacct":
                    parent = cls._prepare_unified(v2, prefix, controller)
                    unified.add(controller)
                else:
                    groups.missing[controller] = f"no cgroup hierarchy has the {controller} controller"
                    continue
            except OSError as error:
                groups.missing[controller] = f"cgroup {error.filename}: {error.strerror}"
                continue
            groups.parents[controller] = parent
        if "cpu" in unified:
            groups.missing.pop("cpuacct", None)  # v2 accounts in the cpu controller
        groups.unified = frozenset(unified)
        return groups

    @staticmethod
    def _prepare_unified(mount: Path, prefix: str, controller: str) -> Path:
        parent = mount
        for part in (*Path(prefix).parts, "process"):
            _write(parent / "cgroup.subtree_control", f"+{controller}")
            parent = parent / part
            parent.mkdir(exist_ok=True)
        _write(parent / "cgroup.subtree_control", f"+{controller}")
        return parent

    def _paths(self, group: str) -> dict[str, Path]:
        return {controller: parent / group for controller, parent in self.parents.items()}

    def folders(self, group: str) -> list[str]:
        """Every folder that a process of the group joins."""
        return sorted({str(path) for path in self._paths(group).values()})

    def shim_folders(self) -> list[str]:
        """The group of the shims: out of the agent's own, whose service manager may kill it as a whole."""
        found = []
        for parent in {*self.parents.values()}:
            path = parent.parent / "shims"
            path.mkdir(exist_ok=True)
            found.append(str(path))
        return sorted(found)

    def oom_files(self, group: str) -> list[str]:
        if "memory" not in self.parents:
            return []
        name = "memory.events" if "memory" in self.unified else "memory.oom_control"
        return [str(self.parents["memory"] / group / name)]

    def make(self, group: str, resources: Resources) -> None:
        """A fresh group with the limits; one of an earlier attempt is removed first. Raises OSError."""
        self.remove(group)
        paths = self._paths(group)
        for path in paths.values():
            path.mkdir(exist_ok=True)
        limits, requests = resources.limits, resources.requests
        if "cpu" in paths:
            self._limit_cpu(paths["cpu"], requests.cpu_millis, limits.cpu_millis)
        if "memory" in paths and limits.memory_bytes:
            self._limit_memory(paths["memory"], limits.memory_bytes)
        if "pids" in paths and limits.pids:
            _write(paths["pids"] / "pids.max", limits.pids)

    def _limit_cpu(self, path: Path, request_millis: int, limit_millis: int) -> None:
        quota_us = max(_QUOTA_US_MIN, limit_millis * _PERIOD_US // 1000)
        shares = min(262_144, max(2, request_millis * 1024 // 1000))
        if "cpu" in self.unified:
            if request_millis:
                _write(path / "cpu.weight", 1 + (shares - 2) * 9999 // 262_142)
            if limit_millis:
                _write(path / "cpu.max", f"{quota_us} {_PERIOD_US}")
        else:
            if request_millis:
                _write(path / "cpu.shares", shares)
            if limit_millis:
                _write(path / "cpu.cfs_period_us", _PERIOD_US)
                _write(path / "cpu.cfs_quota_us", quota_us)

    def _limit_memory(self, path: Path, limit_bytes: int) -> None:
        if "memory" in self.unified:
            _write(path / "memory.max", limit_bytes)
            _write(path / "memory.oom.group", 1)
            if (path / "memory.swap.max").exists():
                _write(path / "memory.swap.max", 0)
            return
        _write(path / "memory.limit_in_bytes", limit_bytes)
        with contextlib.suppress(FileNotFoundError):  # kernels without swap accounting
            _write(path / "memory.memsw.limit_in_bytes", limit_bytes)

    def usage(self, group: str) -> Usage:
        """What the group's controllers account; None for what they do not."""
        paths = self._paths(group)
        cpu_us = memory_bytes = pids = None
        if "cpu" in self.unified:
            cpu_us = int(_keyed(paths["cpu"] / "cpu.stat", "usage_usec"))
        elif "cpuacct" in paths:
            cpu_us = int((paths["cpuacct"] / "cpuacct.usage").read_text()) // 1000
        if "memory" in paths:
            name = "memory.current" if "memory" in self.unified else "memory.usage_in_bytes"
            memory_bytes = int((paths["memory"] / name).read_text())
        if "pids" in paths:
            pids = int((paths["pids"] / "pids.current").read_text())
        return Usage(cpu_us, memory_bytes, pids)

    def remove(self, group: str) -> None:
        """Kills what is still in the group. Raises Unavailable when the kernel does not let go of it."""
        for path in {*self._paths(group).values()}:
            _remove(path)

    def existing(self) -> list[str]:
        """Folders of groups that exist now."""
        found = set()
        for parent in self.parents.values():
            if parent.is_dir():
                found |= {str(path) for path in parent.iterdir() if path.is_dir()}
        return sorted(found)

    def remove_parents(self) -> None:
        """Removes the (empty) parents and their prefix; for tests and for an agent that leaves for good."""
        for parent in {*self.parents.values()}:
            for path in (parent, parent.parent / "shims", parent.parent):
                with contextlib.suppress(OSError):
                    path.rmdir()


def _keyed(path: Path, key: str) -> str:
    for line in path.read_text().splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            return value
    raise KeyError(key)


def _remove(path: Path) -> None:
    deadline = time.monotonic() + 5
    while True:
        try:
            path.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise Unavailable(f"cgroup {path} cannot be removed: {error.strerror}", reason="CgroupBusy") from None
        for pid in (path / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        time.sleep(0.002)
