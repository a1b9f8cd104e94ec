"""The supervisor of one container attempt: `python -I -S shim.py FOLDER ATTEMPT LOCK_FD`.

It outlives the agent. It starts the program (`launch.py`), writes down what it started and, at the end, how that
ended; then it kills what the program left behind, so that a container's end is the end of all its processes.
Only the standard library's built-in modules, for its memory is paid once per container.

    FOLDER/lock             locked by the agent before it starts a shim, which inherits it: wherever the agent is
                            killed, the next one cannot start the container twice
    FOLDER/<attempt>.spec   read: what to run (see confine.py)
    FOLDER/<attempt>.status written once the program runs: pid, start, shim_pid, shim_start, boot, started_at_ms
    FOLDER/<attempt>.oom    made by the agent when it kills for memory where no cgroup does
    FOLDER/<attempt>.exit   written at the end: exit_code, oom, finished_at_ms

The first process prints `ok` or an error of launch.py, and leaves when that is known; the one that stays is a
child of init (or of the nearest subreaper).
"""

from __future__ import annotations

import _signal  # the enum-free core of `signal`
import os
import sys
import time

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # at the end: the standard library wins

from records import Record, one, read, start_time, write

_CLEANUP_S = 10.0


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def _oom_kills(record: Record) -> int:
    """The kernel's count of killed processes, from cgroup v1 `memory.oom_control` or v2 `memory.events`."""
    total = 0
    for path in record.get("oom_file", []):
        with open(path) as file:
            total += sum(int(line.split()[1]) for line in file if line.startswith("oom_kill "))
    return total


def _start(record: Record, log: str, error_write: int) -> int:
    shim = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    import launch  # here, so that the shim stays small

    os.setsid()
    log_fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    for target in (1, 2):
        os.dup2(log_fd, target)
    launch.run(record, parent=shim, error_fd=error_write)
    os._exit(127)


def _children() -> list[int]:
    """Own children: those of dead descendants too, since this process is their subreaper."""
    me = os.getpid()
    try:
        with open(f"/proc/{me}/task/{me}/children") as file:
            return [int(pid) for pid in file.read().split()]
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        found = []
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    with open(f"/proc/{name}/stat", "rb") as file:
                        stat = file.read()
                except OSError:
                    continue
                if int(stat[stat.rindex(b")") + 2 :].split()[1]) == me:
                    found.append(int(name))
        return found


def _members(record: Record) -> list[int]:
    found: set[int] = set()
    for path in record.get("cgroup", []):
        try:
            with open(path + "/cgroup.procs") as file:
                found.update(int(pid) for pid in file.read().split())
        except OSError:
            continue
    return sorted(found)


def _kill_the_rest(record: Record) -> None:
    deadline = time.monotonic() + _CLEANUP_S
    while time.monotonic() < deadline:
        members = _members(record)
        for pid in (*_children(), *members):
            try:
                os.kill(pid, 9)
            except (ProcessLookupError, PermissionError):
                continue
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            if not members:
                return
        time.sleep(0.002)


def _detach() -> int:
    """The process that goes on gets the write end for the answer; the first one passes it on and leaves."""
    read_end, write_end = os.pipe()
    if os.fork():
        os.close(write_end)
        answer = b""
        while chunk := os.read(read_end, 4096):
            answer += chunk
        os.write(1, answer)
        os._exit(0)
    os.close(read_end)
    os.setsid()
    os.chdir("/")
    null = os.open("/dev/null", os.O_RDWR)
    for target in (0, 1, 2):
        os.dup2(null, target)
    os.close(null)
    return write_end


def _become_subreaper() -> None:
    import ctypes

    ctypes.CDLL(None).prctl(36, ctypes.c_ulong(1), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0))


def main() -> None:
    folder, attempt, lock = sys.argv[1:4]
    os.set_inheritable(int(lock), False)
    base = f"{folder}/{attempt}"
    answer = _detach()
    for number_ in (_signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP):
        _signal.signal(number_, _signal.SIG_IGN)  # whoever stops the agent's service does not stop its containers
    record = read(base + ".spec")
    if record is None:
        os.write(answer, b"setup 2 no record")
        return
    for path in record.get("shim_cgroup", []):
        with open(path + "/cgroup.procs", "w") as file:
            file.write("0")
    _become_subreaper()
    oom_before = _oom_kills(record)
    error_read, error_write = os.pipe()
    pid = _start(record, one(record, "log"), error_write)
    started_at_ms = _now_ms()
    os.close(error_write)
    failure = b""
    while chunk := os.read(error_read, 4096):
        failure += chunk
    os.close(error_read)
    if failure:
        os.waitpid(pid, 0)
        _kill_the_rest(record)
        os.write(answer, failure)
        return
    me = os.getpid()
    status = {"pid": pid, "start": start_time(pid), "shim_pid": me, "shim_start": start_time(me), "boot": boot_id()}
    write(base + ".status", {**status, "started_at_ms": started_at_ms})
    os.write(answer, b"ok")
    os.close(answer)
    while True:
        ended, wait_status = os.wait()
        if ended == pid:
            break
    finished_at_ms = _now_ms()
    code = os.waitstatus_to_exitcode(wait_status)
    oom = _oom_kills(record) > oom_before or os.path.exists(base + ".oom")
    _kill_the_rest(record)
    exit_code = 128 - code if code < 0 else code
    write(base + ".exit", {"exit_code": exit_code, "oom": int(oom), "finished_at_ms": finished_at_ms})


if __name__ == "__main__":
    main()
