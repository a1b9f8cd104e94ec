"""The folders of the process runtime: all that it knows survives the agent here.

ROOT/<replica>/sandbox          what the replica is (namespace, workload, generation, ports)
ROOT/<replica>/work/            the replica's own folder, all that it may write
ROOT/<replica>/logs/<name>.log  stdout and stderr of all attempts
ROOT/<replica>/run/<name>/      the attempts: see shim.py
ROOT/.trash-*                   being removed
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cloudless.agent.runtime.base import ContainerState, ContainerView, Sandbox, SandboxView
from cloudless.agent.runtime.process import records
from cloudless.agent.runtime.process.processes import Process
from cloudless.core.model import PortBinding
from cloudless.core.spec import Protocol
from cloudless.errors import InvalidArgument

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
ADDRESS = "127.0.0.1"  # the device's own network: every container port is a port of the device


def boot_id(root: Path = Path("/")) -> str:
    """Changes with every boot; empty where the kernel does not tell."""
    try:
        return (root / "proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One start of a container, as its files tell."""

    folder: Path
    number: int
    status: records.Record
    exit: records.Record | None

    @property
    def program(self) -> Process:
        return Process(records.number(self.status, "pid"), records.number(self.status, "start"))

    @property
    def shim(self) -> Process:
        return Process(records.number(self.status, "shim_pid"), records.number(self.status, "shim_start"))

    def file(self, kind: str) -> Path:
        return self.folder / f"{self.number}.{kind}"

    def supervised(self) -> bool:
        """A shim of this boot watches over it and will write down its end."""
        return records.one(self.status, "boot") == boot_id() and self.shim.alive()

    def spec(self) -> records.Record:
        return records.read(self.file("spec")) or {}

    def view(self, replica_id: str) -> ContainerView:
        started_at_ms = records.number(self.status, "started_at_ms")
        if self.exit is None:
            pid = self.program.pid
            state = ContainerState.RUNNING
            return ContainerView(replica_id, self.folder.name, state, self.number, pid, started_at_ms=started_at_ms)
        return ContainerView(
            replica_id,
            self.folder.name,
            ContainerState.EXITED,
            self.number,
            exit_code=records.number(self.exit, "exit_code"),
            oom_killed=records.number(self.exit, "oom") == 1,
            started_at_ms=started_at_ms,
            finished_at_ms=max(started_at_ms, records.number(self.exit, "finished_at_ms")),
        )


class ReplicaFolder:
    """Raises InvalidArgument for a name that would leave the folder."""

    def __init__(self, root: Path, replica_id: str) -> None:
        self.replica_id = _checked(replica_id)
        self.path = root / replica_id
        self.work = self.path / "work"

    def exists(self) -> bool:
        return (self.path / "sandbox").exists()

    def log(self, container: str) -> Path:
        return self.path / "logs" / f"{_checked(container)}.log"

    def run(self, container: str) -> Path:
        return self.path / "run" / _checked(container)

    def create(self, sandbox: Sandbox, *, users: bool, address: str = ADDRESS) -> None:
        """`address`: where its ports are. `users`: the containers run as other users than the agent, and share the
        replica's own folder."""
        for folder in (self.path / "run", self.path / "logs", self.work):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if users:
            self.work.chmod(0o1777)  # as /tmp; nobody else gets through the folders above
        ports = [
            f"{p.container_port}:{p.protocol or Protocol.TCP}:{p.name}"
            for container in sandbox.spec.containers
            for p in container.ports
        ]
        fields: dict[str, str | int] = {
            "namespace": sandbox.namespace,
            "workload": sandbox.workload,
            "generation": sandbox.generation,
            "address": address,
        }
        records.write(self.path / "sandbox", {**fields, "port": ports})

    def view(self, containers: tuple[ContainerView, ...]) -> SandboxView:
        record = records.read(self.path / "sandbox") or {}
        return SandboxView(
            self.replica_id,
            records.one(record, "namespace"),
            records.one(record, "workload"),
            records.number(record, "generation"),
            records.one(record, "address", ADDRESS),
            tuple(map(_port, record.get("port", []))),
            containers,
        )

    @property
    def address(self) -> str:
        """Where the replica's ports are, as `create` was told."""
        return records.one(records.read(self.path / "sandbox") or {}, "address", ADDRESS)

    def containers(self) -> list[str]:
        try:
            return sorted(os.listdir(self.path / "run"))
        except FileNotFoundError:
            return []

    def attempt(self, container: str) -> Attempt | None:
        """The latest attempt that was started; None when there is none."""
        folder = self.run(container)
        try:
            names = os.listdir(folder)
        except FileNotFoundError:
            return None
        numbers = [int(name.removesuffix(".status")) for name in names if name.endswith(".status")]
        for number in sorted(numbers, reverse=True):
            if status := records.read(folder / f"{number}.status"):
                return Attempt(folder, number, status, records.read(folder / f"{number}.exit"))
        return None

    def forget_before(self, container: str, attempt: int) -> None:
        """Deletes the files of earlier attempts."""
        for path in self.run(container).iterdir():
            number, _, kind = path.name.partition(".")
            if kind in ("spec", "status", "exit", "oom") and int(number) < attempt:
                path.unlink(missing_ok=True)

    def remove(self) -> None:
        trash = self.path.with_name(f".trash-{uuid.uuid4().hex}")
        with contextlib.suppress(FileNotFoundError):
            self.path.rename(trash)
            delete(trash)


def _port(text: str) -> PortBinding:
    number, protocol, name = text.split(":", 2)
    return PortBinding(name, int(number), int(number), Protocol(protocol))


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InvalidArgument(f"{name!r} cannot name a replica or container", reason="BadName")
    return name


def delete(path: Path) -> None:
    """Deletes a tree, also folders that a program has closed to its own user."""
    try:
        shutil.rmtree(path)
        return
    except FileNotFoundError:
        return
    except PermissionError:
        os.chmod(path, stat.S_IRWXU)
    for folder, names, _ in os.walk(path):
        for name in names:
            inside = os.path.join(folder, name)
            if not os.path.islink(inside):
                os.chmod(inside, stat.S_IRWXU)
    shutil.rmtree(path)


def replicas(root: Path) -> Iterator[ReplicaFolder]:
    for name in sorted(os.listdir(root)):
        if not name.startswith("."):
            folder = ReplicaFolder(root, name)
            if folder.exists():
                yield folder


def empty_trash(root: Path) -> None:
    for name in os.listdir(root):
        if name.startswith(".trash-"):
            delete(root / name)
