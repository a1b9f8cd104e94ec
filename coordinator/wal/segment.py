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
from dataclasses import dataclass
from pathlib import Path

from cloudless.coordinator.wal import record
from cloudless.coordinator.wal.files import Filesystem
from cloudless.coordinator.wal.record import BadRecord, Record, SegmentHead
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
class Segment:
    """One segment as read: its records without the head, and the offset behind the last good one."""

    path: Path
    head: SegmentHead
    records: tuple[Record, ...]
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
    records: list[Record] = []
    torn: Torn | None = None
    while offset < len(data):
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
        records.append(found)
        offset = found.end
    return Segment(path, head, tuple(records), offset, torn)
