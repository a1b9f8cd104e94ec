"""The log watcher with the kernel's own notifications, and followers whose log comes, goes or rotates."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cloudless.agent import logs
from cloudless.agent.logread import LogReader
from cloudless.agent.logwatch import LogWatcher


@asynccontextmanager
async def running(watcher: LogWatcher) -> AsyncIterator[None]:
    task = asyncio.ensure_future(watcher.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class Follower:
    def __init__(self, path: Path, watcher: LogWatcher, **options) -> None:
        self.got = b""
        self.over = False
        self._more = asyncio.Event()
        self._reader = LogReader(path, watcher, **options)
        self.task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        async with self._reader as reader:
            async for chunk in reader.chunks(follow=True, finished=lambda: self.over):
                self.got += chunk
                self._more.set()

    async def until(self, wanted: bytes) -> None:
        async with asyncio.timeout(10):
            while wanted not in self.got:
                self._more.clear()
                await self._more.wait()


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


async def test_a_follower_is_woken_by_a_write_without_polling(tmp_path: Path) -> None:
    path = tmp_path / "main.log"
    path.touch()
    watcher = LogWatcher(max_bytes=0)
    watcher.watch([path])
    async with running(watcher):
        follower = Follower(path, watcher)
        for number in range(5):
            append(path, b"line %d\n" % number)
            began = asyncio.get_running_loop().time()
            await follower.until(b"line %d\n" % number)
            assert asyncio.get_running_loop().time() - began < 0.8
        follower.over = True
        append(path, b"no newline")
        await asyncio.wait_for(follower.task, 5)
        assert follower.got.endswith(b"line 4\nno newline")
        assert len(logs.LogIndex.read(path).sizes) >= 5


async def test_a_log_is_rotated_and_followed_across(tmp_path: Path) -> None:
    path = tmp_path / "main.log"
    watcher = LogWatcher(max_bytes=2048)
    watcher.watch([path])
    async with running(watcher):
        with path.open("ab", buffering=0) as writer:  # as containerd's shim: opened once, appending
            follower = Follower(path, watcher)
            for number in range(16):
                writer.write(b"%05d %s\n" % (number, b"x" * 300))
                await follower.until(b"%05d " % number)
            follower.over = True
            await asyncio.wait_for(follower.task, 5)
        assert [line[:5] for line in follower.got.splitlines()] == [b"%05d" % n for n in range(16)]
        assert logs.rotated(path).stat().st_size >= 2048
        assert path.stat().st_size < 4096
        kept = logs.rotated(path).read_bytes() + path.read_bytes()
        assert follower.got.endswith(kept)
        assert sorted(p.name for p in tmp_path.iterdir()) == [
            "main.log",
            "main.log.1",
            "main.log.1.idx",
            "main.log.idx",
        ]


async def test_a_follower_waits_for_a_log_that_is_not_there_yet_and_ends_when_it_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "replica" / "main.log"
    watcher = LogWatcher(max_bytes=0)
    watcher.watch([path])
    async with running(watcher):
        follower = Follower(path, watcher)
        await asyncio.sleep(0.05)
        path.parent.mkdir()
        append(path, b"first\n")
        await follower.until(b"first\n")
        append(path, b"last\n")
        shutil.rmtree(path.parent)  # its last lines are still to be read through the open file
        follower.over = True
        watcher.watch([])
        await asyncio.wait_for(follower.task, 5)
        assert follower.got == b"first\nlast\n"
        assert not path.parent.exists()


async def test_two_followers_and_a_slow_one(tmp_path: Path) -> None:
    path = tmp_path / "main.log"
    append(path, b"a\nb\nc\n")
    watcher = LogWatcher(max_bytes=0)
    watcher.watch([path])
    async with running(watcher):
        one, two = Follower(path, watcher, tail_lines=1), Follower(path, watcher, tail_lines=0)
        await one.until(b"c\n")
        async with asyncio.timeout(5):
            while not two._reader._segments:
                await asyncio.sleep(0.001)
        append(path, b"d\n")
        await one.until(b"d\n")
        await two.until(b"d\n")
        one.over = two.over = True
        await asyncio.gather(one.task, two.task)
        assert (one.got, two.got) == (b"c\nd\n", b"d\n")


async def test_an_overlong_line_is_handed_out_in_parts(tmp_path: Path) -> None:
    path = tmp_path / "main.log"
    append(path, b"x" * (3 * logs.LINE_BYTES_MAX) + b"\nend\n")
    async with LogReader(path, LogWatcher(max_bytes=0)) as reader:
        chunks = [chunk async for chunk in reader.chunks(follow=False, finished=lambda: True)]
    assert max(map(len, chunks)) <= 2 * logs.LINE_BYTES_MAX
    assert b"".join(chunks) == path.read_bytes()


async def test_a_missing_log_is_empty(tmp_path: Path) -> None:
    async with LogReader(tmp_path / "no.log", LogWatcher(max_bytes=0)) as reader:
        assert [c async for c in reader.chunks(follow=False, finished=lambda: True)] == []


async def test_tail_of_a_large_log_reads_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    path = tmp_path / "main.log"
    with path.open("wb") as file:
        for _ in range(16):
            file.write(b"some words of a log line\n" * 40_000)  # 16 MB
    read = 0
    real = os.pread

    def counted(file: int, size: int, offset: int) -> bytes:
        nonlocal read
        data = real(file, size, offset)
        read += len(data)
        return data

    monkeypatch.setattr(os, "pread", counted)
    async with LogReader(path, LogWatcher(max_bytes=0), tail_lines=10) as reader:
        got = b"".join([c async for c in reader.chunks(follow=False, finished=lambda: True)])
    assert got == b"some words of a log line\n" * 10
    assert read < 2 * logs.READ_BYTES
