"""Processes by identity: a pid counts only together with its start time, because pids are used again."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ProcessId:
    pid: int
    started_ticks: int  # since boot, as /proc/PID/stat says

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """The process that has this pid now; None: there is none, or only its exit status is left."""
        try:
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            return None
        return None if fields[0] in (b"Z", b"X") else cls(pid, int(fields[19]))

    def alive(self) -> bool:
        return ProcessId.of(self.pid) == self


def with_arguments(matches: Callable[[Sequence[str]], bool]) -> list[ProcessId]:
    """Processes whose argument list matches."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
        except OSError:
            continue
        if matches(arguments) and (process := ProcessId.of(int(entry.name))):
            found.append(process)
    return found


def end(process: ProcessId, *, grace_ms: int, signals: Sequence[int] = (signal.SIGTERM, signal.SIGKILL)) -> bool:
    """Sends the signals in turn, each with the grace, until the process is gone. True: it is gone."""
    for number in signals:
        try:
            handle = os.pidfd_open(process.pid)
        except ProcessLookupError:
            return True
        try:
            if not process.alive():
                return True
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, number)
            poller = select.poll()
            poller.register(handle, select.POLLIN)
            if poller.poll(grace_ms):
                return True
        finally:
            os.close(handle)
    return not process.alive()
