"""Network namespaces that outlive the agent: each is bound to a file.

The kernel keeps a namespace while something is mounted on it. A namespace is made in a thread that ends right
after, so that no other code of the process ever runs inside it (and nothing forks, which gRPC's threads forbid).
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_MS_BIND = 4096
_MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


def create(path: Path) -> None:
    """A new network namespace, bound to `path`. What stood there before is replaced. Raises OSError."""
    remove(path)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
    path.touch(mode=0o444)

    def make() -> None:
        _check(_libc.unshare(_CLONE_NEWNET), "unshare")
        source = f"/proc/self/task/{threading.get_native_id()}/ns/net"
        _check(_libc.mount(os.fsencode(source), os.fsencode(path), b"none", _MS_BIND, None), str(path))

    try:
        _in_thread(make)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def exists(path: Path) -> bool:
    """True: a namespace is bound there (not merely an empty file, as after a reboot)."""
    try:
        return os.stat(path).st_dev == os.stat("/proc/self/ns/net").st_dev
    except FileNotFoundError:
        return False


def inside(path: Path, work: Callable[[], T]) -> T:
    """Runs `work` in a thread of its own inside the namespace. Raises OSError, or what `work` raises."""

    def enter() -> T:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(_libc.setns(handle, _CLONE_NEWNET), str(path))
        finally:
            os.close(handle)
        return work()

    return _in_thread(enter)


def remove(path: Path) -> None:
    """Unbinds the namespace and removes the file. The kernel frees it when its last process is gone. Repeatable."""
    while _libc.umount2(os.fsencode(path), _MNT_DETACH) == 0:
        pass
    number = ctypes.get_errno()
    if number not in (errno.EINVAL, errno.ENOENT):
        raise OSError(number, os.strerror(number), str(path))
    path.unlink(missing_ok=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def _in_thread(work: Callable[[], T]) -> T:
    outcome: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:  # carried over to the caller
            failure.append(error)

    thread = threading.Thread(target=run, name="network-namespace")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]
