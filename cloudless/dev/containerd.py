"""A private containerd: own root, state and socket, away from the machine's own.

`PrivateContainerd(directory).start()` may be repeated; `stop()` ends the daemon, its shims and containers,
removes its mounts and cgroups, and may be called by another process than the one that started it: everything
it needs is found in the directory. Needs root.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from cloudless.dev import mounts
from cloudless.dev.processes import ProcessId, end, with_arguments

# containerd refuses socket names over 104 bytes, and appends ".ttrpc" to the name of its second socket
_SOCKET_PATH_MAX = 104 - len(".ttrpc")
# compiled into the shim, whatever the configuration says
_SHIM_SOCKETS = Path("/run/containerd/s")
_RUNC_STATE = Path("/run/containerd/runc")
_TASKS = "io.containerd.runtime.v2.task"  # below it, one directory for each namespace
_CGROUPS = Path("/sys/fs/cgroup")
_START_MS_MAX = 20_000

_CONFIG = """\
version = 2
root = "{root}"
state = "{state}"
# this daemon may run where raising or lowering its score is not permitted
oom_score = 0
disabled_plugins = [{disabled}]

[grpc]
  address = "{socket}"

[ttrpc]
  address = "{socket}.ttrpc"

[debug]
  level = "warn"
"""
_NOT_NEEDED = (
    "io.containerd.grpc.v1.cri",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.internal.v1.opt",
)


class ContainerdFailed(RuntimeError):
    """The daemon did not start or did not end; the message says what its log said last."""


def missing() -> str:
    """Why a private containerd cannot run here; empty: it can."""
    if os.geteuid() != 0:
        return "root is needed to start containerd"
    absent = [name for name in ("containerd", "containerd-shim-runc-v2", "runc") if shutil.which(name) is None]
    return f"not installed: {', '.join(absent)}" if absent else ""


class PrivateContainerd:
    """One daemon, described wholly by its directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = Path(os.path.realpath(directory))
        self.root = self.directory / "root"
        self.state = self.directory / "state"
        self.log = self.directory / "containerd.log"
        self._pid_file = self.directory / "containerd.pid"
        self._child: subprocess.Popen[bytes] | None = None
        self.socket = self.directory / "containerd.sock"
        if len(os.fsencode(self.socket)) > _SOCKET_PATH_MAX:
            name = hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:16]
            self.socket = Path(tempfile.gettempdir()) / f"cloudless-{name}" / "containerd.sock"

    @property
    def address(self) -> str:
        return str(self.socket)

    def process(self) -> ProcessId | None:
        """The running daemon; None: it does not run."""
        try:
            pid, ticks = map(int, self._pid_file.read_text().split())
        except (OSError, ValueError):
            return None
        process = ProcessId(pid, ticks)
        return process if process.alive() else None

    def start(self) -> None:
        """Starts the daemon and waits until it answers. Repeatable. Raises ContainerdFailed."""
        if self.process() is not None:
            return
        if reason := missing():
            raise ContainerdFailed(reason)
        for directory in (self.root, self.state, self.socket.parent):
            directory.mkdir(parents=True, exist_ok=True, mode=0o711)
        disabled = list(_NOT_NEEDED)
        if not overlay_possible(self.root):
            disabled.append("io.containerd.snapshotter.v1.overlayfs")
        config = self.directory / "config.toml"
        config.write_text(
            _CONFIG.format(
                root=self.root,
                state=self.state,
                socket=self.socket,
                disabled=", ".join(f'"{name}"' for name in disabled),
            )
        )
        with self.log.open("ab") as log:
            child = subprocess.Popen(
                ["containerd", "--config", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
            )
        self._child = child
        process = ProcessId.of(child.pid)
        if process is not None:
            self._pid_file.write_text(f"{process.pid} {process.started_ticks}\n")
        deadline = time.monotonic() + _START_MS_MAX / 1000
        while not self._answers():
            if child.poll() is not None:
                raise ContainerdFailed(f"containerd ended with {child.returncode}: {self._last_words()}")
            if time.monotonic() > deadline:
                self.kill()
                raise ContainerdFailed(f"containerd does not answer: {self._last_words()}")
            time.sleep(0.02)

    def kill(self) -> None:
        """kill -9 of the daemon alone; shims and containers live on. `start` again takes them over."""
        self._end((signal.SIGKILL,))

    def stop(self, *, remove: bool = False) -> None:
        """Ends the daemon, its shims and containers and unmounts everything; `remove` deletes the directory.

        Repeatable. Raises ContainerdFailed if something refuses to end.
        """
        self._end((signal.SIGTERM, signal.SIGKILL))
        bundles = list(self.state.glob(f"{_TASKS}/*/*"))
        cgroups = [path for bundle in bundles if (path := _cgroup_of(bundle))]
        leftovers = [process for bundle in bundles if (process := _init_of(bundle))]
        shims = with_arguments(lambda arguments: _is_shim_of(arguments, self.address))
        for process in (*shims, *leftovers):
            if not end(process, grace_ms=5000, signals=(signal.SIGKILL,)):
                raise ContainerdFailed(f"process {process.pid} does not end")
        for bundle in bundles:
            self._remove_shim_socket(bundle)
            shutil.rmtree(_RUNC_STATE / bundle.parent.name / bundle.name, ignore_errors=True)
        for path in cgroups:
            remove_cgroup(path)
        mounts.unmount_below(self.directory)
        for file in (self.socket, Path(f"{self.socket}.ttrpc"), self._pid_file):
            file.unlink(missing_ok=True)
        if self.socket.parent != self.directory:
            with contextlib.suppress(OSError):
                self.socket.parent.rmdir()
        known = [*self.state.glob(f"{_TASKS}/*"), *self.root.glob(f"{_TASKS}/*")]
        namespaces = {_RUNC_STATE / directory.name for directory in known}
        # The shims' folders have fixed names, whatever the daemon: another one may be about to use an empty one.
        shared = () if with_arguments(_is_containerd) else (_RUNC_STATE, _SHIM_SOCKETS, _SHIM_SOCKETS.parent)
        for directory in (*namespaces, *shared):
            with contextlib.suppress(OSError):  # not empty, or gone
                directory.rmdir()
        if remove and self.directory.exists():
            shutil.rmtree(self.directory)

    def _end(self, signals: tuple[int, ...]) -> None:
        process = self.process()
        if process is not None and not end(process, grace_ms=10_000, signals=signals):
            raise ContainerdFailed(f"containerd (process {process.pid}) does not end")
        if self._child is not None:
            self._child.wait()
            self._child = None
        self._pid_file.unlink(missing_ok=True)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(self.address)
            except OSError:
                return False
        return True

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        return lines[-1] if lines else "its log is empty"

    def _remove_shim_socket(self, bundle: Path) -> None:
        with contextlib.suppress(OSError):
            address = (bundle / "address").read_text().strip().removeprefix("unix://")
            if Path(address).parent == _SHIM_SOCKETS:
                Path(address).unlink(missing_ok=True)


def overlay_possible(directory: Path) -> bool:
    """True: an overlay whose layers are in this directory's file system can be mounted."""
    libc = ctypes.CDLL(None, use_errno=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix="overlay-") as scratch:
        for name in ("lower", "upper", "work", "merged"):
            (Path(scratch) / name).mkdir()
        options = f"lowerdir={scratch}/lower,upperdir={scratch}/upper,workdir={scratch}/work"
        target = os.fsencode(f"{scratch}/merged")
        if libc.mount(b"overlay", target, b"overlay", 0, options.encode()) != 0:
            return False
        return bool(libc.umount2(target, 0) == 0)


def remove_cgroup(path: str) -> None:
    """Removes an empty cgroup in every hierarchy. `path` is as /proc/PID/cgroup writes it. Repeatable."""
    relative = path.lstrip("/")
    if not relative:
        return
    for hierarchy in (_CGROUPS, *(entry for entry in _CGROUPS.iterdir() if entry.is_dir())):
        with contextlib.suppress(OSError):
            (hierarchy / relative).rmdir()


def _is_containerd(arguments: Sequence[str]) -> bool:
    return Path(arguments[0]).name.startswith("containerd")


def _is_shim_of(arguments: Sequence[str], address: str) -> bool:
    if not Path(arguments[0]).name.startswith("containerd-shim"):
        return False
    return any(flag == "-address" and value == address for flag, value in itertools.pairwise(arguments))


def _init_of(bundle: Path) -> ProcessId | None:
    try:
        pid = int((bundle / "init.pid").read_text())
    except (OSError, ValueError):
        return None
    process = ProcessId.of(pid)
    cgroup = _cgroup_of(bundle)
    if process is None or not cgroup:
        return None
    # a pid file outlives its process: the cgroup tells whether this is still the container
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        return process if any(line.split(":", 2)[2] == cgroup for line in lines) else None
    return None


def _cgroup_of(bundle: Path) -> str:
    with contextlib.suppress(OSError, ValueError, KeyError):
        return str(json.loads((bundle / "config.json").read_bytes())["linux"]["cgroupsPath"])
    return ""
