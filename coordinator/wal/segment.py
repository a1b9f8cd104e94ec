"""Reading one segment file, and deciding whether what is wrong with it is a torn tail or corruption.

A crash can leave the end of the newest segment half written: nobody was told that those entries are safe, so
they are cut. Anything else that fails a checksum had been on disk and may have been acknowledged; to cut it would
silently lose it and everything behind it, so the log refuses to open. The two are told apart like this:

- a bad record in an older segment is corruption: a segment is on disk before the next one exists;
- a bad record in the newest segment is corruption when any good record behind it says that its place had been
  synced when it was written (`record.synced`);
- otherwise it belongs to the last group that was written, and is cut with a warning.

The trade-off: bits that flip in the very last group look like a torn write, because nothing behind them says that
they had been on disk. Then the last group is lost, even when it had been acknowledged: with a single coordinator that
is the price of starting again by itself after a power cut.
"""

from __future__ import annotations

import itertools
import zlib
from array import array
from dataclasses import dataclass, field
from pathlib import Path

from cloudless.coordinator.engine import INTERNAL
from cloudless.coordinator.wal import record
from cloudless.coordinator.wal.files import Filesystem
from cloudless.coordinator.wal.record import BadRecord, Kind, LogEntry, Record, SegmentHead
from cloudless.errors import Corrupt

SUFFIX = ".wal"
TEMPORARY = ".tmp"

REMEDY = (
    "nothing was changed; restore the data directory from a backup: without one, every write from this place on is "
    "lost; `python -m cloudless.coordinator.wal.inspect DIR` shows what can still be read"
)


@dataclass(frozen=True, slots=True)
class Torn:
    """The part at the end of a segment that never became durable."""

    offset: int
    length: int
    why: str


@dataclass(frozen=True, slots=True)
class Entries:
    """Entries of one term that stand one behind the other, from `first_index` on: where the record of each starts and
    ends. `internal`: those among them that are an engine's own (`engine.INTERNAL`)."""

    first_index: int
    term: int
    starts: array[int] = field(default_factory=lambda: array("I"))
    ends: array[int] = field(default_factory=lambda: array("I"))
    internal: list[LogEntry] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment as read: what is in it behind its head, in order (a Record is one that is no entry), and the offset
    behind the last good record."""

    path: Path
    head: SegmentHead
    parts: tuple[Entries | Record, ...]
    end: int
    torn: Torn | None


def file_name(sequence: int) -> str:
    return f"{sequence:016d}{SUFFIX}"


def sequences(filesystem: Filesystem, directory: Path) -> tuple[int, ...]:
    """Sequence numbers of the segment files, ascending. Raises Corrupt when one is missing between others."""
    found = sorted(
        int(name.removesuffix(SUFFIX))
        for name in filesystem.list_names(directory)
        if name.endswith(SUFFIX) and name.removesuffix(SUFFIX).isdigit()
    )
    for before, after in itertools.pairwise(found):
        if after != before + 1:
            raise Corrupt(f"the log has lost a file: {directory / file_name(before + 1)} is missing", remedy=REMEDY)
    return tuple(found)


def corrupt(path: Path, bad: BadRecord) -> Corrupt:
    return Corrupt(f"the log is damaged: {path} at offset {bad.offset}: {bad.why}", remedy=REMEDY)


def read_segment(filesystem: Filesystem, path: Path, *, newest: bool) -> Segment:
    """Reads a whole segment. Raises Corrupt, naming file and offset, for what a crash cannot explain."""
    data = filesystem.read(path)
    try:
        # The head was synced under a temporary name before the file got this one: it is never torn.
        head, offset = record.decode_segment_head(data)
    except BadRecord as bad:
        raise corrupt(path, bad) from None
    if file_name(head.sequence) != path.name:
        raise corrupt(path, BadRecord(0, f"this is segment {head.sequence} under another name"))
    parts: list[Entries | Record] = []
    torn: Torn | None = None
    while offset < len(data):
        offset = _read_entries(data, offset, head.salt, parts)
        if offset == len(data):
            break
        try:
            found = record.decode(data, offset, salt=head.salt)
        except BadRecord as bad:
            if not newest:
                raise corrupt(path, bad) from None
            for later in record.good_records_after(data, offset, salt=head.salt):
                if later.synced > offset:
                    raise corrupt(
                        path, BadRecord(offset, f"{bad.why}, and the good record at {later.offset} came after it")
                    ) from None
            torn = Torn(offset, len(data) - offset, bad.why)
            break
        parts.append(found)
        offset = found.end
    return Segment(path, head, tuple(parts), offset, torn)


def _read_entries(data: bytes, at: int, salt: int, parts: list[Entries | Record]) -> int:
    """Adds the good entries from offset `at` on; returns the offset of the first record that is none.

    What `record.decode` accepts as an entry, in a loop that does as little as Python can: a restart may have a
    million of them to check. Whatever is not plainly good is left to `record.decode`.
    """
    unpack, crc32, view = record.FRAME.unpack_from, zlib.crc32, memoryview(data)
    header_bytes, checked_bytes = record.HEADER_BYTES, record.HEADER_BYTES - 4
    magic, kind, own = record.MAGIC, int(Kind.ENTRY), INTERNAL[0]
    size, last_start = len(data), len(data) - record.HEADER_BYTES
    index = run_term = -1
    run = Entries(0, 0)
    add_start = add_end = run.starts.append
    while at <= last_start:
        found_magic, found_kind, length, payload_crc, synced, term, found_index, header_crc = unpack(data, at)
        start = at + header_bytes
        end = start + length
        if (
            found_magic != magic
            or found_kind != kind
            or end > size
            or synced > at
            or crc32(view[at : at + checked_bytes], salt) != header_crc
            or crc32(view[start:end], salt) != payload_crc
            or length > record.PAYLOAD_BYTES_MAX
        ):
            break
        index += 1
        if found_index != index or term != run_term:
            index, run_term = found_index, term
            run = Entries(index, term)
            parts.append(run)
            add_start, add_end = run.starts.append, run.ends.append
        add_start(at)
        add_end(end)
        if length and data[start] == own:
            run.internal.append(LogEntry(index, term, data[start:end]))
        at = end
    return at
