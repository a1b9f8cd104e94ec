"""The device as files and a few system calls, so that tests can put another one in its place."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import statvfs_result as _StatvfsResult  # noqa: N812 (a field below is called os)
from pathlib import Path

from cloudless.agent.runtime.process import findings
from cloudless.agent.runtime.process.findings import Finding

_ARCHITECTURES = {
    "x86_64": "amd64",
    "amd64": "amd64",
    "aarch64": "arm64",
    "arm64": "arm64",
    "armv8l": "arm",  # a 32-bit program on a 64-bit kernel
    "armv7l": "arm",
    "armv6l": "arm",
}


@dataclass(frozen=True)
class System:
    root: Path
    machine: str  # as uname says
    os: str
    kernel: str
    hostname: str
    affinity_cpus: int  # CPUs that this process may use
    statvfs: Callable[[Path], _StatvfsResult]
    probe: Callable[[], Mapping[str, Finding]]
    supplies: str = "/sys/class/power_supply"

    @classmethod
    def here(cls, supplies: Path | None = None) -> System:
        """This device. `supplies`: where its batteries and mains are shown, if elsewhere."""
        uname = platform.uname()
        return cls(
            root=Path("/"),
            machine=uname.machine,
            os=uname.system.lower(),
            kernel=uname.release,
            hostname=socket.gethostname(),
            affinity_cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            statvfs=os.statvfs,
            probe=findings.run,
            supplies=str(supplies or cls.supplies),
        )

    @property
    def arch(self) -> str:
        """amd64, arm64, arm; another machine's own word elsewhere."""
        return _ARCHITECTURES.get(self.machine.lower(), self.machine.lower())

    def path(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def exists(self, path: str) -> bool:
        return self.path(path).exists()

    def read(self, path: str) -> str:
        """The text without its last line end (device trees end theirs with NUL); "" where it cannot be read."""
        try:
            return self.path(path).read_bytes().decode(errors="replace").rstrip("\n\0")
        except OSError:
            return ""

    def number(self, path: str) -> int | None:
        """None where there is no number, as in `max`."""
        try:
            return int(self.read(path))
        except ValueError:
            return None

    def names(self, path: str) -> list[str]:
        """What a folder holds, sorted; nothing where there is none."""
        try:
            return sorted(os.listdir(self.path(path)))
        except OSError:
            return []
