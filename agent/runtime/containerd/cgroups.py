"""The cgroups of this agent's containers: counters that survive their processes, and removing what is empty."""

from __future__ import annotations

import contextlib
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def unified(root: Path = ROOT) -> bool:
    """True: cgroup version 2 alone. False: version 1, or both (hybrid), where the OCI runtimes use version 1."""
    return (root / "cgroup.controllers").exists()


def controllers(root: Path = ROOT) -> frozenset[str]:
    """The resources that can be limited here: cpu, memory, pids, ..."""
    if unified(root):
        return frozenset((root / "cgroup.controllers").read_text().split())
    try:
        return frozenset(entry.name for entry in root.iterdir() if entry.is_dir())
    except OSError:
        return frozenset()


def swap_accounting(root: Path = ROOT) -> bool:
    """True: swap can be limited; setting the limit fails otherwise."""
    if unified(root):
        return any(root.glob("*/memory.swap.max"))
    return (root / "memory" / "memory.memsw.limit_in_bytes").exists()


def oom_kills(path: str, root: Path = ROOT) -> int:
    """How many processes the kernel killed in this cgroup for want of memory; 0 when it is gone."""
    relative = path.lstrip("/")
    file = root / relative / "memory.events" if unified(root) else root / "memory" / relative / "memory.oom_control"
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    counters = dict(line.partition(" ")[::2] for line in lines)
    count = counters.get("oom_kill", "0")
    return int(count) if count.isdigit() else 0


def remove(path: str, root: Path = ROOT) -> None:
    """Removes an empty cgroup, with its empty children, in every hierarchy. Repeatable; one in use stays."""
    relative = path.strip("/")
    if not relative:
        return
    hierarchies = [root] if unified(root) else [entry for entry in _directories(root) if not entry.is_symlink()]
    for hierarchy in hierarchies:
        _remove_tree(hierarchy / relative)


def _remove_tree(directory: Path) -> None:
    for child in _directories(directory):
        _remove_tree(child)
    with contextlib.suppress(OSError):
        directory.rmdir()


def _directories(directory: Path) -> list[Path]:
    try:
        return [entry for entry in directory.iterdir() if entry.is_dir()]
    except OSError:
        return []
