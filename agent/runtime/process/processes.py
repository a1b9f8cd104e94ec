"""Processes of this device, told apart by pid and start time, since pids are used again."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass

from cloudless.agent.runtime.process.records import start_time

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    start: int  # clock ticks since boot

    def alive(self) -> bool:
        """False for a zombie: it does nothing any more, even if nobody reaps it."""
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as file:
                stat = file.read()
        except (FileNotFoundError, ProcessLookupError):
            return False
        fields = stat[stat.rindex(b")") + 2 :].split()
        return int(fields[19]) == self.start and fields[0] not in (b"Z", b"X")

    def send(self, number: int) -> None:
        """Signals this very process; nothing happens when it is gone."""
        try:
            if hasattr(signal, "pidfd_send_signal"):
                descriptor = os.pidfd_open(self.pid)
                try:
                    if start_time(self.pid) == self.start:
                        signal.pidfd_send_signal(descriptor, number)
                finally:
                    os.close(descriptor)
                return
        except ProcessLookupError:
            return
        except OSError:  # a kernel or filter without pidfds
            pass
        if start_time(self.pid) == self.start:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return

    async def ended(self) -> None:
        """Returns once it has exited. Without pidfds it is looked at every 200 ms."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        except OSError:
            while self.alive():  # noqa: ASYNC110 (nothing tells)
                await asyncio.sleep(_POLL_S)
            return
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        try:
            if start_time(self.pid) != self.start:
                return
            loop.add_reader(descriptor, gone.set)
            await gone.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class TreeUsage:
    cpu_usage_us: int
    memory_bytes: int
    pids: int


def descendants(pid: int) -> list[int]:
    """Every living descendant, itself excluded."""
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    stat = file.read()
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents.setdefault(int(stat[stat.rindex(b")") + 2 :].split()[1]), []).append(int(name))
    found: list[int] = []
    pending = [pid]
    while pending:
        children = parents.get(pending.pop(), [])
        found += children
        pending += children
    return found


def tree_usage(pid: int) -> TreeUsage:
    """What the living descendants use; those that have ended are counted with the parent that reaped them."""
    cpu_ticks = pages = count = 0
    for member in descendants(pid):
        try:
            with open(f"/proc/{member}/stat", "rb") as file:
                stat = file.read()
            with open(f"/proc/{member}/statm", "rb") as file:
                pages += int(file.read().split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        cpu_ticks += sum(map(int, stat[stat.rindex(b")") + 2 :].split()[11:15]))
        count += 1
    return TreeUsage(cpu_ticks * 1_000_000 // _TICKS_PER_S, pages * _PAGE_BYTES, count)


def tasks_of_user(uid: int) -> int:
    """Threads that count against RLIMIT_NPROC of this user now."""
    total = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.stat(f"/proc/{name}").st_uid == uid:
                    total += len(os.listdir(f"/proc/{name}/task"))
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
    return total
