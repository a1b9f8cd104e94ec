"""How one record of the log is framed.

A record is a header of 40 bytes (little-endian) and a payload:

    offset  size  field
         0     4  magic
         4     1  kind
         5     3  zero
         8     4  payload length
        12     4  CRC-32 of the payload
        16     4  synced: offset in this file up to which it was known to be on disk when the record was made
        20     8  term
        28     8  index
        36     4  CRC-32 of the bytes before it

Both checksums start from the segment's salt (a random number in the segment's first record): bytes that a user
put into a command can then never pass for a record when recovery looks for the next good one behind a bad one.
`synced` is what tells a torn tail from corruption: a bad record below the `synced` of a later good one had been
on disk.

kind     term, index                               payload
SEGMENT  of the entry before this segment          sequence u64, flags u32, salt u32, format u32
ENTRY    of the entry                              the command's bytes
STATE    the current term; 0                       the vote: id of a member, or nothing
TRUNCATE term of the entry before; first dropped   nothing
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from cloudless.core.quick import quick_frozen

MAGIC = b"\xc1\x0dL1"
FORMAT = 1
PAYLOAD_BYTES_MAX = 64 * 2**20
FLAG_RESET = 1  # the log before this segment is void: a snapshot took its place

_HEADER = struct.Struct("<4sB3xIIIQQ")
_CRC = struct.Struct("<I")
_SEGMENT = struct.Struct("<QIII")
FRAME = struct.Struct("<4sB3xIIIQQI")  # both at once: what precedes a payload
HEADER_BYTES = FRAME.size
assert _HEADER.size + _CRC.size == HEADER_BYTES


class Kind(IntEnum):
    SEGMENT = 1
    ENTRY = 2
    STATE = 3
    TRUNCATE = 4


_KINDS = {int(kind): kind for kind in Kind}


@quick_frozen
class LogEntry:
    """One entry of the replicated log; `index` counts from 1 without a gap."""

    index: int
    term: int
    data: bytes


@dataclass(frozen=True, slots=True)
class HardState:
    """What a Raft member must remember over a restart: its term, and whom it voted for in it (empty: nobody)."""

    term: int = 0
    vote: str = ""


@dataclass(frozen=True, slots=True)
class SegmentHead:
    """The first record of a segment."""

    sequence: int
    previous_index: int
    previous_term: int
    salt: int
    reset: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """A record that passed both checksums. `end` is the offset behind it."""

    kind: Kind
    term: int
    index: int
    payload: bytes
    synced: int
    offset: int
    end: int


class BadRecord(ValueError):
    """No good record starts at `offset`; `why` in words."""

    def __init__(self, offset: int, why: str) -> None:
        super().__init__(f"offset {offset}: {why}")
        self.offset = offset
        self.why = why


def encode(kind: Kind, *, term: int, index: int, payload: bytes, synced: int, salt: int) -> bytes:
    """One framed record."""
    header = _HEADER.pack(MAGIC, kind, len(payload), zlib.crc32(payload, salt), synced, term, index)
    return b"".join((header, _CRC.pack(zlib.crc32(header, salt)), payload))


def encode_entries(entries: Sequence[LogEntry], *, synced: int, salt: int) -> list[bytes]:
    """What `encode` makes of each, in pieces: a head's two parts and a payload, three for each entry."""
    pieces: list[bytes] = []
    add, head, checksum, crc32, kind = pieces.append, _HEADER.pack, _CRC.pack, zlib.crc32, int(Kind.ENTRY)
    for entry in entries:
        payload = entry.data
        header = head(MAGIC, kind, len(payload), crc32(payload, salt), synced, entry.term, entry.index)
        add(header)
        add(checksum(crc32(header, salt)))
        add(payload)
    return pieces


def decode(data: bytes, offset: int, *, salt: int, origin: int = 0) -> Record:
    """The record at `offset` of `data`, which begins at offset `origin` of its file. Raises BadRecord for anything
    else; never another error, whatever the bytes."""
    if len(data) - offset < HEADER_BYTES:
        raise BadRecord(offset, f"{len(data) - offset} bytes are left, a header has {HEADER_BYTES}")
    magic, kind_number, length, payload_crc, synced, term, index = _HEADER.unpack_from(data, offset)
    (header_crc,) = _CRC.unpack_from(data, offset + _HEADER.size)
    if magic != MAGIC:
        raise BadRecord(offset, "no record starts here")
    if zlib.crc32(data[offset : offset + _HEADER.size], salt) != header_crc:
        raise BadRecord(offset, "the header fails its checksum")
    kind = _KINDS.get(kind_number)
    if kind is None or length > PAYLOAD_BYTES_MAX or synced > origin + offset:
        raise BadRecord(offset, "the header is not one that this version writes")
    start = offset + HEADER_BYTES
    end = start + length
    if end > len(data):
        raise BadRecord(offset, f"the record ends {end - len(data)} bytes behind the file")
    payload = data[start:end]
    if zlib.crc32(payload, salt) != payload_crc:
        raise BadRecord(offset, "the payload fails its checksum")
    return Record(kind, term, index, payload, synced, offset, end)


def encode_segment_head(head: SegmentHead) -> bytes:
    payload = _SEGMENT.pack(head.sequence, FLAG_RESET if head.reset else 0, head.salt, FORMAT)
    return encode(Kind.SEGMENT, term=head.previous_term, index=head.previous_index, payload=payload, synced=0, salt=0)


def decode_segment_head(data: bytes) -> tuple[SegmentHead, int]:
    """The head of a segment file and the offset behind it. Raises BadRecord."""
    record = decode(data, 0, salt=0)
    if record.kind is not Kind.SEGMENT or len(record.payload) != _SEGMENT.size:
        raise BadRecord(0, "a segment must open with its marker")
    sequence, flags, salt, version = _SEGMENT.unpack(record.payload)
    if version != FORMAT:
        raise BadRecord(0, f"the log has format {version}, this version reads format {FORMAT}")
    return SegmentHead(sequence, record.index, record.term, salt, bool(flags & FLAG_RESET)), record.end


def good_records_after(data: bytes, offset: int, *, salt: int) -> Iterator[Record]:
    """Every good record that starts behind `offset`, found by its magic and checksums."""
    at = data.find(MAGIC, offset + 1)
    while at >= 0:
        try:
            record = decode(data, at, salt=salt)
        except BadRecord:
            at = data.find(MAGIC, at + 1)
        else:
            yield record
            at = data.find(MAGIC, record.end)
