"""Raft engines without a store: members over real files in one folder, on a simulated network and virtual time.

def test_something(tmp_path):
    async def scenario(members: Members) -> None: ...
    run(tmp_path, scenario)
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

from structlog.testing import capture_logs

from cloudless.config import RaftConfig, StoreConfig
from cloudless.coordinator.engine import Committed, EngineParts, is_internal
from cloudless.coordinator.raft.engine import RaftEngine, RaftOptions, open_raft
from cloudless.coordinator.wal.files import AppendFile, OsFilesystem
from cloudless.coordinator.wal.record import LogEntry
from cloudless.coordinator.wal.snapshots import StoredSnapshot
from cloudless.errors import CloudlessError
from cloudless.testing import simloop
from cloudless.testing.bytes_map import BytesMap, put
from cloudless.testing.member_network import MemberLinkQuality, MemberNetwork

WAIT_S = 20.0


class MapHost:
    """A `StateHost`: keys and values, and every entry that was applied, in order."""

    def __init__(self) -> None:
        self._machine = BytesMap()
        self.state: Any = self._machine.empty()
        self.applied_index = 0
        self.applied_term = 0
        self.entries: list[LogEntry] = []  # in this life, by entries
        self.installed: list[int] = []

    def apply(self, entry: LogEntry) -> Any:
        assert entry.index == self.applied_index + 1, f"entry {entry.index} behind {self.applied_index}"
        self.applied_index, self.applied_term = entry.index, entry.term
        self.entries.append(entry)
        if is_internal(entry.data):
            return None
        self.state = self._machine.apply(self.state, entry.data, index=entry.index, term=entry.term).state
        return f"outcome of {entry.index}"

    def load(self, body: bytes) -> tuple[int, int]:
        self.state, self.applied_index, self.applied_term = self._machine.decode(body)
        return self.applied_index, self.applied_term

    async def install(self, body: bytes) -> tuple[int, int]:
        await asyncio.sleep(0.01)
        self.installed.append(self.load(body)[0])
        return self.applied_index, self.applied_term

    def snapshot(self) -> StoredSnapshot:
        body = self._machine.encode(self.state, index=self.applied_index, term=self.applied_term)
        return StoredSnapshot(self.applied_index, self.applied_term, body)

    @property
    def values(self) -> dict[str, bytes]:
        return dict(self.state)


class LimitedDisk(OsFilesystem):
    """Real files on a disk whose room can be taken away. `told_free`: what it says of itself (None: the truth); `full`:
    appending to a file fails."""

    def __init__(self) -> None:
        self.told_free: int | None = None
        self.full = False

    def free_bytes(self, directory: Path) -> int:
        return super().free_bytes(directory) if self.told_free is None else self.told_free

    def open_append(self, path: Path) -> AppendFile:
        return _LimitedFile(self, super().open_append(path))


class _LimitedFile:
    def __init__(self, disk: LimitedDisk, file: AppendFile) -> None:
        self._disk = disk
        self.truncate, self.sync, self.size_bytes, self.close = file.truncate, file.sync, file.size_bytes, file.close
        self._append = file.append

    def append(self, data: bytes) -> None:
        if self._disk.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._append(data)


class Member:
    """One coordinator's engine; `engine` is None while its process is down."""

    def __init__(self, members: Members, name: str) -> None:
        self.name = name
        self.address = f"{name}:1"
        self.directory = members.directory / name
        self.filesystem = LimitedDisk()
        self.host = MapHost()
        self.engine: RaftEngine | None = None
        self.failures: list[CloudlessError] = []
        self.led: list[bool] = []
        self._members = members

    @property
    def running(self) -> RaftEngine:
        assert self.engine is not None, f"{self.name} is down"
        return self.engine

    async def start(self, *, bootstrap: bool = False, **settings: Any) -> RaftEngine:
        members = self._members
        loop = asyncio.get_running_loop()
        self.host, self.failures, self.led = MapHost(), [], []
        self.filesystem.make_dir(self.directory)
        parts = EngineParts(
            directory=self.directory,
            member=self.name,
            config=StoreConfig(engine="raft", raft=RaftConfig(), **{"segment_bytes": 4096, **settings}),
            filesystem=self.filesystem,
            run_blocking=lambda work: loop.run_in_executor(None, work),
            clock=simloop.SimClock(loop),
            seconds=loop.time,
            random_bits=members.random.getrandbits,
            on_failure=self.failures.append,
        )
        self.engine = await open_raft(
            parts,
            self.host,
            transport=members.network.transport(self.name),
            options=RaftOptions(address=self.address, bootstrap=bootstrap, cluster_id="test"),
        )
        self.engine.on_leadership(self.led.append)
        return self.engine

    def crash(self) -> None:
        """Ends it as kill -9 does: what it still holds reaches nobody."""
        self._members.network.crash(self.name)
        self.running._driver.stop()
        self.engine = None

    async def stop(self) -> None:
        engine, self.engine = self.running, None
        await engine.close()

    def wipe(self) -> None:
        shutil.rmtree(self.directory)

    async def put(self, key: str, value: bytes = b"v", **kwargs: Any) -> Committed:
        return await self.running.propose(put(key, value), **kwargs)


class Members:
    def __init__(self, directory: Path, *, seed: int = 1) -> None:
        self.directory = directory
        self.random = random.Random(seed)
        self.network = MemberNetwork(random.Random(seed), MemberLinkQuality())
        self.all: dict[str, Member] = {}

    def member(self, name: str) -> Member:
        return self.all.setdefault(name, Member(self, name))

    @property
    def up(self) -> list[Member]:
        return [member for member in self.all.values() if member.engine is not None]

    async def form(self, count: int, **settings: Any) -> list[Member]:
        """Members m1, m2, ... of one cluster, all voting; m1 leads."""
        first = self.member("m1")
        await first.start(bootstrap=True, **settings)
        for number in range(2, count + 1):
            await self.add(f"m{number}", **settings)
        return list(self.all.values())

    async def add(self, name: str, **settings: Any) -> Member:
        """A new member, once it votes and all know that."""
        leader, member = await self.leader(), self.member(name)
        await member.start(**settings)
        await leader.running.add_learner(name, member.address)
        await self.until(lambda: all(name in each.running.state.voters for each in self.up))
        return member

    async def leader(self) -> Member:
        """The one that leads, once all others that run follow it."""

        def found() -> Member | None:
            leading = [member for member in self.up if member.running.leading]
            known = {member.running.status().leader for member in self.up}
            return leading[0] if len(leading) == 1 and known == {leading[0].name} else None

        await self.until(lambda: found() is not None)
        leader = found()
        assert leader is not None
        return leader

    def others(self, member: Member) -> list[Member]:
        return [other for other in self.up if other is not member]

    async def until(self, condition: Callable[[], object], *, timeout_s: float = WAIT_S) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():  # noqa: ASYNC110 - any condition, of several members
                await asyncio.sleep(0.002)

    async def converged(self) -> dict[str, bytes]:
        """What every running member holds once all have applied the same."""
        leader = await self.leader()
        index = await leader.running.read_index()
        await self.until(lambda: all(member.host.applied_index >= index for member in self.up))
        for member in self.up:
            assert member.host.values == leader.host.values, member.name
            assert not member.failures, member.failures
        return leader.host.values

    async def close(self) -> None:
        for member in self.up:
            await member.stop()


def run(directory: Path, test: Callable[[Members], Coroutine[Any, Any, None]], *, seed: int = 1) -> None:
    """Runs one test on virtual time, and closes what it left open."""

    async def main(loop: simloop.SimLoop) -> None:
        errors: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: errors.append(context))
        members = Members(directory, seed=seed)
        async with _closing(members):
            await test(members)
        assert not errors, errors

    with capture_logs():  # to write them out takes longer than the run
        simloop.run(main)


@contextlib.asynccontextmanager
async def _closing(members: Members) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await members.close()
