"""A real etcd for tests and benchmarks: Debian's `etcd-server`, one member or three, on loopback with its data in a
folder of the caller's. A missing etcd is an error, never a reason to skip."""

from __future__ import annotations

import atexit
import contextlib
import functools
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from cloudless.config import EtcdConfig
from cloudless.coordinator.etcd.client import EtcdClient
from cloudless.errors import Unavailable

START_S = 20.0


class MortalClient(EtcdClient):
    """A client whose process can end: from then on nothing that it tries reaches etcd."""

    def __init__(self, config: EtcdConfig) -> None:
        super().__init__(config)
        self.dead = False

    def _channel(self) -> Any:
        if self.dead:
            raise Unavailable("this process is dead")
        return super()._channel()

    async def watch(self, prefix: bytes, *, from_revision: int) -> AsyncIterator[Any]:
        async for answer in super().watch(prefix, from_revision=from_revision):
            if self.dead:
                raise Unavailable("this process is dead")
            yield answer


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


class EtcdMember:
    """One process; may be killed, frozen and started again on the same data and ports."""

    def __init__(self, name: str, directory: Path, client_port: int, argv: list[str]) -> None:
        self.name = name
        self.directory = directory
        self.endpoint = f"127.0.0.1:{client_port}"
        self._argv = argv
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "etcd.log").open("ab") as log:
            self._process = subprocess.Popen(self._argv, stdout=log, stderr=log)

    def send(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()

    def wait_ready(self) -> None:
        """Until it answers; with a quorum it then has a leader."""
        ends = time.monotonic() + START_S
        while time.monotonic() < ends:
            answer = subprocess.run(
                [_program("etcdctl"), f"--endpoints={self.endpoint}", "endpoint", "health"],
                capture_output=True,
                env={"ETCDCTL_API": "3"},
                check=False,
            )
            if answer.returncode == 0:
                return
            assert self._process is not None
            assert self._process.poll() is None, (self.directory / "etcd.log").read_text()[-2000:]
            time.sleep(0.05)
        raise TimeoutError(f"etcd {self.name} does not answer: {(self.directory / 'etcd.log').read_text()[-2000:]}")


@contextlib.contextmanager
def running_etcd(directory: Path, *, members: int = 1, quota_bytes: int = 0) -> Iterator[list[EtcdMember]]:
    """Runs until the block ends. `quota_bytes`: etcd takes no writes beyond this size of its database."""
    ports = free_ports(2 * members)
    names = [f"e{number}" for number in range(1, members + 1)]
    peers = dict(zip(names, ports[members:], strict=True))
    cluster = ",".join(f"{name}=http://127.0.0.1:{port}" for name, port in peers.items())
    found: list[EtcdMember] = []
    for name, client_port in zip(names, ports[:members], strict=True):
        data = directory / name
        argv = [
            _program("etcd"),
            f"--name={name}",
            f"--data-dir={data / 'data'}",
            f"--listen-client-urls=http://127.0.0.1:{client_port}",
            f"--advertise-client-urls=http://127.0.0.1:{client_port}",
            f"--listen-peer-urls=http://127.0.0.1:{peers[name]}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peers[name]}",
            f"--initial-cluster={cluster}",
            "--log-level=warn",
            "--logger=zap",
        ]
        if quota_bytes:
            argv.append(f"--quota-backend-bytes={quota_bytes}")
        found.append(EtcdMember(name, data, client_port, argv))
    try:
        for member in found:
            member.start()
        for member in found:
            member.wait_ready()
        yield found
    finally:
        for member in found:
            member.kill()


@functools.cache
def shared_etcd() -> str:
    """The endpoint of one etcd for this process, for tests that do it no harm; it ends with the process."""
    stack = contextlib.ExitStack()
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="etcd-")))
    (member,) = stack.enter_context(running_etcd(directory))
    atexit.register(stack.close)
    return member.endpoint


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise RuntimeError(f"{name} is missing: apt-get install etcd-server etcd-client")
    return path
