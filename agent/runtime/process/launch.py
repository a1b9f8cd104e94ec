"""Puts a fresh process under the restrictions that a record states, and executes the program in it.

Runs outside the agent (`python -I -S`): as a child of `shim.py` for a container, and by itself for an exec
(`launch.py RECORD_FD ERROR_FD`). Only the standard library. The record says everything; nothing is decided here.
What fails is written to the error pipe as `stage errno text`; at a successful exec the pipe closes empty.

Order matters: what needs privileges first (cgroups, mounts, opening the folders of rules), then no_new_privs and
Landlock, then the identity, then the system call filter, which allows nothing of the above any more.
"""

from __future__ import annotations

import _signal  # the enum-free core of `signal`: half the start-up time
import ctypes
import errno
import os
import resource
import struct
import sys

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # at the end: the standard library wins

from records import Record, decode, number, one

_libc = ctypes.CDLL(None, use_errno=True)

_CLONE_NEWNS = 0x0002_0000
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE, _MS_REMOUNT = 2, 4, 0x1000, 0x4000, 1 << 18, 32
_PR_SET_PDEATHSIG, _PR_SET_KEEPCAPS, _PR_SET_SECCOMP, _PR_CAPBSET_DROP = 1, 8, 22, 24
_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 38, 47, 2
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522
_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 444, 445, 446  # on every architecture
_LANDLOCK_RULE_PATH_BENEATH = 1
_LANDLOCK_FILE_RIGHTS = 0x1 | 0x2 | 0x4 | 0x4000 | 0x8000  # execute, write, read, truncate, ioctl: all a file has
_TIOCSCTTY = 0x540E


class Refused(Exception):
    """A step that could not be done. `stage` is `exec` when the program itself is at fault."""

    def __init__(self, stage: str, number: int, text: str) -> None:
        super().__init__(text)
        self.report = f"{stage} {number} {text}".encode()


def _check(stage: str, result: int, text: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise Refused(stage, number, f"{text}: {os.strerror(number)}")
    return result


def _prctl(option: int, *arguments: int) -> int:
    padded = [ctypes.c_ulong(a) for a in (*arguments, 0, 0, 0, 0)[:4]]
    return int(_libc.prctl(option, *padded))


def _join_cgroups(record: Record) -> None:
    for path in record.get("cgroup", []):
        with open(path + "/cgroup.procs", "w") as file:
            file.write("0")


def _limit(record: Record) -> None:
    for item in record.get("rlimit", []):
        kind, value = map(int, item.split(":"))
        _, hard = resource.getrlimit(kind)
        bounded = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (bounded, bounded))
    if nice := number(record, "nice"):
        os.setpriority(os.PRIO_PROCESS, 0, nice)


def _mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    encoded = None if kind is None else kind.encode()
    result = _libc.mount(source.encode(), target.encode(), encoded, ctypes.c_ulong(flags), options.encode() or None)
    _check("mount", result, f"mount on {target}")


def _private_mounts(record: Record) -> None:
    """The replica's folder on /tmp, and a /dev/shm of its own: nobody else's sockets and files are seen there."""
    _check("mount", _libc.unshare(_CLONE_NEWNS), "new mount namespace")
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    _mount(one(record, "private_tmp"), "/tmp", None, _MS_BIND)  # noqa: S108 (the mount point)
    _mount("none", "/tmp", None, _MS_BIND | _MS_REMOUNT | _MS_NOSUID | _MS_NODEV)  # noqa: S108
    if os.path.isdir("/dev/shm"):  # noqa: S108
        _mount("tmpfs", "/dev/shm", "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=1777,size=64m")  # noqa: S108


def _landlock(record: Record) -> None:
    handled, network, scoped, size = map(int, one(record, "landlock").split(":"))
    attributes = struct.pack("=QQQ", handled, network, scoped)[:size]
    ruleset = _libc.syscall(_LANDLOCK_CREATE_RULESET, attributes, ctypes.c_size_t(size), 0)
    _check("landlock", ruleset, "landlock ruleset")
    for rule in record.get("landlock_rule", []):
        rights_text, _, path = rule.partition(":")
        try:
            beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue  # a device lacks some of the usual folders, or this user may not see them anyway
        rights = int(rights_text) & handled
        if not os.path.isdir(f"/proc/self/fd/{beneath}"):
            rights &= _LANDLOCK_FILE_RIGHTS
        argument = struct.pack("=Qi", rights, beneath)
        result = _libc.syscall(_LANDLOCK_ADD_RULE, ruleset, _LANDLOCK_RULE_PATH_BENEATH, argument, 0)
        os.close(beneath)
        _check("landlock", result, f"landlock rule for {path}")
    _check("landlock", _libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0), "landlock")
    os.close(ruleset)


def _become(record: Record) -> None:
    """Another user, with none of root's capabilities but those that the record keeps."""
    uid, gid = number(record, "uid"), number(record, "gid")
    keep = [int(value) for value in record.get("capability", [])]
    for capability in range(64):
        if capability not in keep:
            _prctl(_PR_CAPBSET_DROP, capability)  # EINVAL past the last one that the kernel has
    if keep:
        _check("identity", _prctl(_PR_SET_KEEPCAPS, 1), "keep capabilities")
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if keep:
        mask = sum(1 << c for c in keep)
        header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
        low, high = mask & 0xFFFF_FFFF, mask >> 32
        _check("identity", _libc.capset(header, struct.pack("=6I", low, low, low, high, high, high)), "capset")
        for capability in keep:
            _check("identity", _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability), "ambient capability")


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def _seccomp(record: Record) -> None:
    code = bytes.fromhex(one(record, "seccomp"))
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.addressof(buffer))
    result = _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)
    _check("seccomp", result, "system call filter")


def confine(record: Record, *, parent: int) -> None:
    """`parent`: the process whose end ends this one."""
    os.umask(0o022)
    _join_cgroups(record)
    _limit(record)
    if "private_tmp" in record:
        _private_mounts(record)
    os.chdir(one(record, "home"))
    _check("no_new_privs", _prctl(_PR_SET_NO_NEW_PRIVS, 1), "no_new_privs")
    if "landlock" in record:
        _landlock(record)
    if "uid" in record:
        _become(record)
    _prctl(_PR_SET_PDEATHSIG, _signal.SIGKILL)  # after the identity: changing it clears this
    if os.getppid() != parent:
        os._exit(137)
    if folder := one(record, "working_dir"):
        try:
            os.chdir(folder)
        except OSError as error:
            raise Refused("working_dir", error.errno or 0, f"working directory {folder}: {error.strerror}") from None
    if "seccomp" in record:
        _seccomp(record)


def execute(record: Record) -> None:
    """Does not return; raises Refused."""
    arguments = record["arg"]
    environment = dict(item.split("=", 1) for item in record.get("env", []))
    name = arguments[0]
    places = [name] if "/" in name else [f"{d}/{name}" for d in environment.get("PATH", "").split(":") if d]
    failure = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    for path in places:
        try:
            os.execve(path, arguments, environment)  # noqa: S606 (that is what this program is for)
        except OSError as error:
            if failure.errno != errno.EACCES:
                failure = error
    raise Refused("exec", failure.errno or 0, f"{name}: {failure.strerror}")


def run(record: Record, *, parent: int, error_fd: int) -> None:
    """Confines and executes; whatever fails goes to the error pipe, and this process ends with 127."""
    try:
        for number_ in (_signal.SIGPIPE, _signal.SIGXFSZ, _signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP):
            _signal.signal(number_, _signal.SIG_DFL)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
        confine(record, parent=parent)
        execute(record)
    except Refused as refused:
        os.write(error_fd, refused.report)
    except OSError as error:
        os.write(error_fd, f"setup {error.errno or 0} {error.strerror}: {error.filename or ''}".encode())
    os._exit(127)


def main() -> None:
    record_fd, error_fd, parent = map(int, sys.argv[1:4])
    with open(record_fd, "rb") as file:
        record = decode(file.read())
    assert record is not None
    os.set_inheritable(error_fd, False)
    os.setsid()
    if "tty" in record:
        import fcntl

        fcntl.ioctl(0, _TIOCSCTTY, 0)
    run(record, parent=parent, error_fd=error_fd)


if __name__ == "__main__":
    main()
