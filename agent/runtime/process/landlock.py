"""What a container may do with files: Landlock rules (kernel documentation, userspace-api/landlock.rst).

Everything that is not named here is denied, for every user, root included. Programs and libraries of the device
can be read and executed, its configuration and /proc read (other processes' memory and environment stay closed:
Landlock checks that like ptrace), a few devices used; the replica's own folder is all its own.
"""

from __future__ import annotations

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_SCOPE_ABSTRACT_UNIX, _SCOPE_SIGNAL = 1, 2

_READ = _READ_FILE | _READ_DIR
_RUN = _READ | _EXECUTE
_USE_DEVICE = _READ_FILE | _WRITE_FILE | _IOCTL_DEV | _READ_DIR

_RULES: tuple[tuple[int, tuple[str, ...]], ...] = (
    (_RUN, ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix/store")),
    (_RUN, ("/system", "/system_ext", "/vendor", "/apex", "/linkerconfig", "/data/data/com.termux/files/usr")),
    (_READ, ("/etc", "/run/systemd/resolve", "/run/resolvconf", "/proc", "/sys/fs/cgroup", "/sys/devices/system")),
    (_READ, ("/sys/kernel/mm/transparent_hugepage", "/dev/random", "/dev/urandom")),
    (_USE_DEVICE, ("/dev/null", "/dev/zero", "/dev/full", "/dev/tty", "/dev/pts", "/dev/ptmx")),
)


def handled(abi: int) -> tuple[int, int, int, int]:
    """(file rights, network rights, scopes, size of the attribute structure) that a kernel of this ABI handles.

    Network rights stay 0: what a container may dial is decided elsewhere. From ABI 6 on a container cannot signal
    processes outside, nor reach their abstract sockets.
    """
    files = (1 << 13) - 1
    if abi >= 2:
        files |= 1 << 13  # rename and link across folders
    if abi >= 3:
        files |= _TRUNCATE
    if abi >= 5:
        files |= _IOCTL_DEV
    scopes = _SCOPE_ABSTRACT_UNIX | _SCOPE_SIGNAL if abi >= 6 else 0
    return files, 0, scopes, 24 if abi >= 6 else 16 if abi >= 4 else 8


def rules(abi: int, *, own: tuple[str, ...]) -> list[str]:
    """`rights:path` for the launcher; a path that does not exist is passed over. `own`: the replica's folders."""
    everything = handled(abi)[0]
    found = [f"{rights & everything}:{path}" for rights, paths in _RULES for path in paths]
    return [*found, *(f"{everything}:{path}" for path in own)]
