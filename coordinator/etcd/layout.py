"""What lies where in etcd. All keys begin with the setting `store.etcd.prefix`.

PREFIX head                          "INDEX TERM": the newest entry; every append compares and swaps it
PREFIX leader                        id of the leader, under its lease; the revision that created it is the term
PREFIX log/INDEX                     the entries from INDEX on that were appended together
PREFIX snapshot                      JSON: which snapshot is the newest
PREFIX snapshots/INDEX-NONCE/PART    its body, in parts
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

from cloudless.coordinator.wal.record import LogEntry
from cloudless.errors import Corrupt

# etcd refuses requests of more than 1.5 MiB unless told otherwise (--max-request-bytes).
APPEND_BYTES_MAX: Final = 1024 * 1024
PART_BYTES: Final = 1024 * 1024
_HEAD: Final = struct.Struct("<QII")  # term, number of entries, CRC-32 of all behind it


@dataclass(frozen=True, slots=True)
class Head:
    """The newest entry; `revision` is etcd's, of the last append, 0 before the first."""

    index: int = 0
    term: int = 0
    revision: int = 0

    def encode(self) -> bytes:
        return f"{self.index} {self.term}".encode()

    @classmethod
    def decode(cls, value: bytes, revision: int) -> Head:
        try:
            index, term = value.decode().split()
            return cls(int(index), int(term), revision)
        except ValueError:
            raise _damaged("the head") from None


@dataclass(frozen=True, slots=True)
class SnapshotPointer:
    index: int
    term: int
    parts: int
    length: int
    crc32: int
    nonce: str

    def encode(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def decode(cls, value: bytes) -> SnapshotPointer:
        try:
            return cls(**json.loads(value))
        except (TypeError, ValueError, RecursionError):
            raise _damaged("the snapshot's description") from None


class Keys:
    def __init__(self, prefix: str) -> None:
        self.prefix = prefix.encode()
        self.head = self.prefix + b"head"
        self.leader = self.prefix + b"leader"
        self.snapshot = self.prefix + b"snapshot"
        self.log = self.prefix + b"log/"
        self.snapshots = self.prefix + b"snapshots/"

    def entries(self, first_index: int) -> bytes:
        return self.log + b"%020d" % first_index

    def first_index(self, key: bytes) -> int:
        """Of a key below `log`."""
        try:
            return int(key.removeprefix(self.log))
        except ValueError:
            raise _damaged(f"the key {key!r}") from None

    def parts(self, pointer: SnapshotPointer) -> bytes:
        return self.snapshots + f"{pointer.index:020d}-{pointer.nonce}/".encode()

    def part(self, pointer: SnapshotPointer, number: int) -> bytes:
        return self.parts(pointer) + b"%08d" % number


def encode_entries(term: int, datas: Sequence[bytes]) -> bytes:
    rest = struct.pack(f"<{len(datas)}I", *map(len, datas)) + b"".join(datas)
    return _HEAD.pack(term, len(datas), zlib.crc32(rest)) + rest


def decode_entries(value: bytes, *, first_index: int) -> list[LogEntry]:
    """Raises Corrupt for what `encode_entries` did not make; never another error."""
    if len(value) < _HEAD.size:
        raise _damaged(f"the entries from {first_index} on")
    term, count, checksum = _HEAD.unpack_from(value)
    at = _HEAD.size + 4 * count
    if at > len(value) or zlib.crc32(memoryview(value)[_HEAD.size :]) != checksum:
        raise _damaged(f"the entries from {first_index} on")
    lengths = struct.unpack_from(f"<{count}I", value, _HEAD.size)
    if at + sum(lengths) != len(value):
        raise _damaged(f"the entries from {first_index} on")
    entries: list[LogEntry] = []
    for offset, length in enumerate(lengths):
        entries.append(LogEntry(first_index + offset, term, value[at : at + length]))
        at += length
    return entries


def _damaged(what: str) -> Corrupt:
    return Corrupt(
        f"{what} in etcd cannot be read",
        remedy="something else writes below store.etcd.prefix; restore etcd from its backup",
    )
