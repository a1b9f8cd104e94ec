"""What the kernel lets this process do, found out by trying: `python -I -S probe.py` (findings.py runs it).

Each attempt is made in a child of its own, because a filter above us may answer with SIGSYS instead of an error
(Android does). One line each: `name 0|1 detail`. Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

_LANDLOCK_CREATE_RULESET = 444
_CLONE_NEWNS, _CLONE_NEWUSER = 0x0002_0000, 0x1000_0000
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _PR_SET_CHILD_SUBREAPER = 22, 38, 36


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _result(value: int) -> tuple[int, str]:
    return value, "" if value >= 0 else os.strerror(ctypes.get_errno())


def _landlock() -> tuple[int, str]:
    value, why = _result(_libc().syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), 1))
    return value, f"ABI {value}" if value > 0 else why


def _no_new_privs() -> tuple[int, str]:
    return _result(_libc().prctl(_PR_SET_NO_NEW_PRIVS, *(ctypes.c_ulong(v) for v in (1, 0, 0, 0))))


def _seccomp() -> tuple[int, str]:
    allow = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF_0000), 8)
    program = struct.pack("@HP", 1, ctypes.addressof(allow))
    _no_new_privs()
    return _result(_libc().prctl(_PR_SET_SECCOMP, 2, program, ctypes.c_ulong(0), ctypes.c_ulong(0)))


def _mount_namespace() -> tuple[int, str]:
    libc = _libc()
    value, why = _result(libc.unshare(_CLONE_NEWNS))
    if value < 0:
        return value, why
    return _result(libc.mount(b"none", b"/", None, ctypes.c_ulong(0x4000 | (1 << 18)), None))


def _user_namespace() -> tuple[int, str]:
    return _result(_libc().unshare(_CLONE_NEWUSER))


def _subreaper() -> tuple[int, str]:
    return _result(_libc().prctl(_PR_SET_CHILD_SUBREAPER, *(ctypes.c_ulong(v) for v in (1, 0, 0, 0))))


def _pidfd() -> tuple[int, str]:
    opened = os.pidfd_open(os.getpid())
    os.close(opened)
    return 0, ""


PROBES = {
    "landlock": _landlock,
    "no-new-privs": _no_new_privs,
    "seccomp": _seccomp,
    "mount-namespace": _mount_namespace,
    "userns": _user_namespace,
    "subreaper": _subreaper,
    "pidfd": _pidfd,
}


def _try(name: str) -> tuple[bool, str]:
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            value, detail = PROBES[name]()
        except (OSError, AttributeError) as error:
            value, detail = -1, str(error)
        os.write(write_end, f"{int(value >= 0)} {detail}".encode())
        os._exit(0)
    os.close(write_end)
    answer = os.read(read_end, 4096).decode()
    os.close(read_end)
    _, status = os.waitpid(child, 0)
    if not answer:
        return False, f"killed by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "no answer"
    flag, _, detail = answer.partition(" ")
    return flag == "1", detail


def main() -> None:
    for name in PROBES:
        available, detail = _try(name)
        sys.stdout.write(f"{name} {int(available)} {detail}\n")


if __name__ == "__main__":
    main()
