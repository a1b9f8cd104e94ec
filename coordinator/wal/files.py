"""The file operations that durable storage needs, as a protocol, and the real implementation.

The log and the snapshots do all their I/O through `Filesystem`, so that `cloudless.testing.disk.SimDisk` can lose,
tear and refuse writes in tests. Both pass one conformance suite (`test/conformance/test_wal_filesystem.py`).
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Protocol

from cloudless.errors import FailedPrecondition

# "No room for it": the write was refused, nothing is wrong with the device.
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class AppendFile(Protocol):
    """One file, open for writing at its end. Errors are OSError with the errno of the operating system."""

    def append(self, data: bytes) -> None:
        """Writes all of `data` at the end. When it raises, any prefix of `data` may be in the file."""
        ...

    def truncate(self, size_bytes: int) -> None: ...

    def sync(self) -> None:
        """fdatasync: contents and size survive a power cut once this returned. After an error nobody knows which
        of the earlier writes are on the disk, and a repeat does not tell: give up (fsyncgate, LWN 752063)."""
        ...

    def size_bytes(self) -> int: ...

    def close(self) -> None: ...


class DirectoryLock(Protocol):
    def release(self) -> None: ...


class Filesystem(Protocol):
    """A name created, renamed or removed survives a power cut only after `fsync_dir` of its folder."""

    def make_dir(self, path: Path) -> None:
        """Creates the folder and its parents (mode 0700), durably; no error when it exists."""
        ...

    def open_append(self, path: Path) -> AppendFile:
        """Opens the file at its end; creates it (mode 0600)."""
        ...

    def read(self, path: Path, *, offset: int = 0, length: int | None = None) -> bytes:
        """Up to `length` bytes; fewer at the end of the file. FileNotFoundError when there is no such file."""
        ...

    def list_names(self, directory: Path) -> tuple[str, ...]:
        """Names of the files in the folder, sorted; empty when there is no such folder."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Replaces the target, atomically."""
        ...

    def unlink(self, path: Path) -> None: ...

    def fsync_dir(self, directory: Path) -> None: ...

    def free_bytes(self, directory: Path) -> int: ...

    def lock(self, path: Path) -> DirectoryLock:
        """Takes the exclusive lock that this file stands for; the kernel drops it when the process ends.
        Raises FailedPrecondition (DataDirectoryInUse) at once when another holds it."""
        ...


def in_use(path: Path, holder: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"the data directory {path.parent} is in use by another coordinator{holder}",
        reason="DataDirectoryInUse",
        remedy="stop that coordinator, or give this one a data directory of its own",
    )


class _OsAppendFile:
    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def append(self, data: bytes) -> None:
        written = os.write(self._fd, data)
        if written != len(data):  # a full disk, or a signal; the next call tells which
            view = memoryview(data)
            while written < len(data):
                written += os.write(self._fd, view[written:])

    def truncate(self, size_bytes: int) -> None:
        os.ftruncate(self._fd, size_bytes)

    def sync(self) -> None:
        os.fdatasync(self._fd)

    def size_bytes(self) -> int:
        return os.fstat(self._fd).st_size

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class _OsLock:
    def __init__(self, fd: int) -> None:
        self._fd = fd

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class OsFilesystem:
    """The operating system's files (Linux)."""

    def make_dir(self, path: Path) -> None:
        missing = [p for p in (path, *path.parents) if not p.exists()]
        for folder in reversed(missing):
            folder.mkdir(mode=0o700, exist_ok=True)
            self.fsync_dir(folder.parent)

    def open_append(self, path: Path) -> AppendFile:
        return _OsAppendFile(path)

    def read(self, path: Path, *, offset: int = 0, length: int | None = None) -> bytes:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(-1 if length is None else length)

    def list_names(self, directory: Path) -> tuple[str, ...]:
        try:
            with os.scandir(directory) as found:
                return tuple(sorted(item.name for item in found if item.is_file(follow_symlinks=False)))
        except FileNotFoundError:
            return ()

    def rename(self, source: Path, target: Path) -> None:
        os.replace(source, target)

    def unlink(self, path: Path) -> None:
        path.unlink()

    def fsync_dir(self, directory: Path) -> None:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def free_bytes(self, directory: Path) -> int:
        figures = os.statvfs(directory)
        return figures.f_bavail * figures.f_frsize

    def lock(self, path: Path) -> DirectoryLock:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            os.close(fd)
            raise in_use(path, f" (pid {pid})" if pid.isdigit() else "") from None
        except OSError:
            os.close(fd)
            raise
        try:
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode("ascii"), 0)  # only for the message above
        except OSError as error:
            if error.errno not in NO_SPACE:  # a full disk must not keep a coordinator from starting
                os.close(fd)
                raise
        return _OsLock(fd)
