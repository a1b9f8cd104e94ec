"""Reading logs against a list of lines in memory: tail, since, following, rotation, and lines cut at any byte."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from cloudless.agent import logs
from cloudless.agent.logread import LogReader
from cloudless.agent.logwatch import LogWatcher

line = st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"."))
text = st.lists(line, max_size=30).flatmap(
    lambda lines: st.booleans().map(lambda end: b"\n".join(lines) + (b"\n" if end and lines else b""))
)


async def read(path: Path, watcher: LogWatcher, **options) -> bytes:
    async with LogReader(path, watcher, **options) as reader:
        return b"".join([c async for c in reader.chunks(follow=False, finished=lambda: True)])


def expected_tail(data: bytes, count: int) -> bytes:
    """The last `count` lines, an unfinished last one included."""
    lines = _lines(data)
    return b"".join(lines[len(lines) - count :] if count < len(lines) else lines) if count else b""


def _lines(data: bytes) -> list[bytes]:
    parts = data.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


@settings(max_examples=150, deadline=None)
@given(old=text, new=text, count=st.integers(-1, 40), rotated=st.booleans())
def test_tail_is_the_last_lines_of_both_files(old: bytes, new: bytes, count: int, rotated: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "main.log"
        if rotated:
            logs.rotated(path).write_bytes(old)
        path.write_bytes(new)
        whole = (old if rotated else b"") + new
        got = asyncio.run(read(path, LogWatcher(max_bytes=0), tail_lines=count))
        assert got == (whole if count < 0 else expected_tail(whole, count))


@settings(max_examples=100, deadline=None)
@given(data=text, count=st.integers(0, 40), block=st.integers(1, 64))
def test_tail_does_not_depend_on_the_block_size(data: bytes, count: int, block: int) -> None:
    before = logs.READ_BYTES
    logs.READ_BYTES = block  # type: ignore[misc]
    try:
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.flush()
            offset = logs.tail_offset(file.fileno(), end=len(data), lines=count)
            assert data[offset:] == expected_tail(data, count)
            assert logs.count_lines(file.fileno(), end=len(data)) == len(_lines(data))
            for at in range(0, len(data) + 1, 7):
                start = logs.line_start(file.fileno(), at, end=len(data))
                assert start >= at
                assert start in (0, len(data)) or data[start - 1 : start] == b"\n"
    finally:
        logs.READ_BYTES = before  # type: ignore[misc]


writes = st.lists(st.tuples(st.binary(min_size=1, max_size=60), st.sampled_from(["look", "read", "both"])), max_size=25)


@settings(max_examples=100, deadline=None)
@given(writes=writes, limit=st.integers(40, 200))
def test_a_follower_sees_every_byte_in_order_through_rotations(writes, limit: int) -> None:
    """The follower may lag by one rotation, never by two: it is read at least once between two of them."""

    async def story(path: Path) -> None:
        watcher = LogWatcher(max_bytes=limit)
        path.touch()
        watcher.watch([path])
        await watcher.look()
        reader = LogReader(path, watcher)
        over = False
        got = b""
        written = b""
        async with reader:
            chunks = reader.chunks(follow=True, finished=lambda: over)

            async def follow() -> None:
                nonlocal got
                async for chunk in chunks:
                    got += chunk

            following = asyncio.ensure_future(follow())
            for data, _ in writes:
                with path.open("ab") as file:
                    file.write(data)
                written += data
                await watcher.look()
                async with asyncio.timeout(5):
                    while len(got) + len(reader._pending) < len(written):  # the beginning of a line is held back
                        await asyncio.sleep(0)
            over = True
            watcher.watch([])
            await following
        assert got == written
        assert path.stat().st_size <= limit + 60

    with tempfile.TemporaryDirectory() as name:
        asyncio.run(story(Path(name) / "main.log"))


@settings(max_examples=100, deadline=None)
@given(steps=st.lists(st.tuples(line, st.integers(1, 5_000)), min_size=1, max_size=20), since=st.integers(0, 40_000))
def test_since_and_timestamps_follow_the_times_of_writing(steps, since: int) -> None:
    async def story(path: Path) -> None:
        watcher = LogWatcher(max_bytes=0)
        watcher.watch([path])
        now = 1_700_000_000_000
        times = []
        for words, pause in steps:
            now += pause
            with path.open("ab") as file:
                file.write(words + b"\n")
            os.utime(path, ns=(now * 1_000_000, now * 1_000_000))
            times.append(now)
            await watcher.look()
        asked = 1_700_000_000_000 + since
        got = await read(path, watcher, since_ms=asked)
        assert got == b"".join(w + b"\n" for (w, _), t in zip(steps, times, strict=True) if t >= asked)
        stamped = await read(path, watcher, timestamps=True)
        assert stamped == b"".join(logs.stamp(w + b"\n", t) for (w, _), t in zip(steps, times, strict=True))

    with tempfile.TemporaryDirectory() as name:
        asyncio.run(story(Path(name) / "main.log"))


@given(st.binary(max_size=200))
def test_any_bytes_are_an_index(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "main.log"
        logs.index_of(path).write_bytes(data)
        index = logs.LogIndex.read(path, fallback_ms=5)
        assert list(index.sizes) == sorted(index.sizes)
        assert list(index.times_ms) == sorted(index.times_ms)
        index.time_ms(3)
        index.offset_since(3)
