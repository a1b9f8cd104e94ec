"""Reading a container's log: the last lines, since a time, and following it.

A log is a plain file that the runtime appends to. When it grows beyond its limit it is copied to `<log>.1` and
truncated in place (`logwatch`), because containerd's `file://` log goes on writing to the file it opened. The file
has no times; a sidecar `<log>.idx` of (size, time) pairs, written when the log grew, tells when a line was there at
the latest. So `since` and `timestamps` are right to about a tenth of a second while the agent ran; lines written
while it did not carry the time of the log's last change.

`logread` reads with these. Functions here are blocking file reads in bounded pieces, for threads.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_right
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

READ_BYTES: Final = 256 * 1024
# A line longer than this is handed out in parts.
LINE_BYTES_MAX: Final = 256 * 1024
_SIZE_MAX: Final = 1 << 62
INDEX_ENTRY: Final = struct.Struct("<qq")  # size of the log in bytes, wall clock ms


def rotated(path: Path) -> Path:
    return path.with_name(path.name + ".1")


def index_of(path: Path) -> Path:
    return path.with_name(path.name + ".idx")


@dataclass(frozen=True, slots=True)
class LogIndex:
    """When a log had which size. Sizes and times only grow."""

    sizes: tuple[int, ...] = ()
    times_ms: tuple[int, ...] = ()

    @classmethod
    def read(cls, path: Path, *, fallback_ms: int = 0) -> LogIndex:
        """The index beside a log; without one, or for what it does not cover, `fallback_ms`. A torn or damaged
        tail is left out."""
        try:
            data = index_of(path).read_bytes()
        except OSError:
            data = b""
        sizes: list[int] = []
        times: list[int] = []
        for size, time_ms in INDEX_ENTRY.iter_unpack(data[: len(data) - len(data) % INDEX_ENTRY.size]):
            if not 0 < size < _SIZE_MAX or (sizes and (size <= sizes[-1] or time_ms < times[-1])):
                continue
            sizes.append(size)
            times.append(time_ms)
        if fallback_ms:
            sizes.append(_SIZE_MAX)
            times.append(max(fallback_ms, times[-1] if times else 0))
        return cls(tuple(sizes), tuple(times))

    def time_ms(self, offset: int) -> int:
        """When the byte at `offset` was there at the latest; 0 when nothing is known."""
        at = bisect_right(self.sizes, offset)
        return self.times_ms[at] if at < len(self.times_ms) else 0

    def offset_since(self, since_ms: int) -> int:
        """The first offset whose time is `since_ms` or later."""
        at = bisect_right(self.times_ms, since_ms - 1)
        return self.sizes[at - 1] if at else 0


def tail_offset(file: int, *, end: int, lines: int) -> int:
    """Where the last `lines` lines of the first `end` bytes begin, read backwards in blocks. A last line without
    its newline counts as one."""
    if lines <= 0:
        return end
    found = 0
    position = end
    while position > 0:
        start = max(0, position - READ_BYTES)
        block = os.pread(file, position - start, start)
        at = len(block)
        while (at := block.rfind(b"\n", 0, at)) >= 0:
            if start + at == end - 1:
                continue  # the newline that ends the last line
            found += 1
            if found == lines:
                return start + at + 1
        position = start
    return 0


def count_lines(file: int, *, end: int) -> int:
    """How many lines the first `end` bytes hold, a last one without newline included."""
    count, position, last = 0, 0, b"\n"
    while position < end and (block := os.pread(file, min(READ_BYTES, end - position), position)):
        count += block.count(b"\n")
        position += len(block)
        last = block[-1:]
    return count + (last != b"\n")


def line_start(file: int, offset: int, *, end: int) -> int:
    """The first beginning of a line at or after `offset`."""
    if offset <= 0 or os.pread(file, 1, offset - 1) == b"\n":
        return max(0, min(offset, end))
    while offset < end and (block := os.pread(file, min(READ_BYTES, end - offset), offset)):
        at = block.find(b"\n")
        if at >= 0:
            return offset + at + 1
        offset += len(block)
    return end


def stamp(line: bytes, time_ms: int) -> bytes:
    """The line behind its time in RFC 3339, as `docker logs --timestamps` writes it."""
    when = datetime.fromtimestamp(time_ms / 1000, UTC)
    return when.strftime("%Y-%m-%dT%H:%M:%S.").encode() + b"%03dZ " % (time_ms % 1000) + line
