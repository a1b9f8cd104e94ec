"""Snapshot files: the state as of one index, each with a checksum, the newest two kept.

A file appears under its name only whole: written under a temporary one, synced, renamed, folder synced. The older
of the two, with the log since then, can stand in when the newest turns out to be damaged; the log is therefore
compacted only up to the older one (`Snapshots.compactable_index`).

    offset  size  field (little-endian)
         0     8  magic
         8     4  format
        12     4  CRC-32 of everything behind it
        16     8  index
        24     8  term
        32     8  length of the body
        40        the body, opaque here
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from cloudless.coordinator.wal.files import NO_SPACE, Filesystem
from cloudless.errors import Corrupt, DiskFull

log = structlog.get_logger(__name__)

MAGIC = b"CLSNAP\r\n"
FORMAT = 1
KEEP = 2
SUFFIX = ".snap"
_TEMPORARY = ".tmp"
_HEAD = struct.Struct("<8sII")
_BODY_HEAD = struct.Struct("<QQQ")


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    index: int
    term: int
    body: bytes


def encode(snapshot: StoredSnapshot) -> bytes:
    rest = _BODY_HEAD.pack(snapshot.index, snapshot.term, len(snapshot.body)) + snapshot.body
    return _HEAD.pack(MAGIC, FORMAT, zlib.crc32(rest)) + rest


def decode(data: bytes) -> StoredSnapshot:
    """Raises ValueError, in words, for anything that `encode` did not make; never another error."""
    if len(data) < _HEAD.size + _BODY_HEAD.size:
        raise ValueError(f"it has only {len(data)} bytes")
    magic, version, checksum = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise ValueError("it is no snapshot")
    if version != FORMAT:
        raise ValueError(f"it has format {version}, this version reads format {FORMAT}")
    index, term, length = _BODY_HEAD.unpack_from(data, _HEAD.size)
    body = data[_HEAD.size + _BODY_HEAD.size :]
    if length != len(body):
        raise ValueError(f"it has {len(body)} bytes of {length}")
    if zlib.crc32(data[_HEAD.size :]) != checksum:
        raise ValueError("it fails its checksum")
    return StoredSnapshot(index, term, body)


def file_name(index: int) -> str:
    return f"{index:020d}{SUFFIX}"


class Snapshots:
    """The snapshots of one folder. One thread at a time may call `save`."""

    def __init__(self, filesystem: Filesystem, directory: Path) -> None:
        self._filesystem = filesystem
        self._directory = directory
        self._good: set[int] = set()  # indexes of files that were read or written whole by this process

    @property
    def directory(self) -> Path:
        return self._directory

    def indexes(self) -> tuple[int, ...]:
        """Indexes of the files that are there, newest first, good or not."""
        found = (
            int(name.removesuffix(SUFFIX))
            for name in self._filesystem.list_names(self._directory)
            if name.endswith(SUFFIX) and name.removesuffix(SUFFIX).isdigit()
        )
        return tuple(sorted(found, reverse=True))

    def read(self, index: int) -> StoredSnapshot:
        """One snapshot. Raises Corrupt, naming the file."""
        path = self._directory / file_name(index)
        try:
            found = decode(self._filesystem.read(path))
            if found.index != index:
                raise ValueError(f"it is of index {found.index}")
        except ValueError as error:
            raise Corrupt(f"the snapshot {path} is damaged: {error}") from None
        self._good.add(index)
        return found

    def good(self) -> Iterator[StoredSnapshot]:
        """The readable snapshots, newest first; damaged ones are passed over with a warning."""
        for index in self.indexes():
            try:
                yield self.read(index)
            except Corrupt as error:
                log.warning("snapshot.damaged", file=str(self._directory / file_name(index)), cause=error.message)

    def reject(self, index: int) -> None:
        """The content of this file is of no use, although its checksum is right: not to be counted on."""
        self._good.discard(index)

    def compactable_index(self) -> int:
        """Up to here the log may go: the index of the older of the `KEEP` newest good snapshots; 0 while there
        are fewer."""
        newest = sorted(self._good, reverse=True)[:KEEP]
        return newest[-1] if len(newest) == KEEP else 0

    def save(self, snapshot: StoredSnapshot) -> int:
        """Writes a snapshot durably and removes all but the newest good ones. Returns its size in bytes.
        Raises DiskFull (what was there is unchanged), OSError."""
        self._filesystem.make_dir(self._directory)
        path = self._directory / file_name(snapshot.index)
        temporary = path.with_suffix(_TEMPORARY)
        data = encode(snapshot)
        try:
            file = self._filesystem.open_append(temporary)
            try:
                file.truncate(0)
                file.append(data)
                file.sync()
            finally:
                file.close()
            self._filesystem.rename(temporary, path)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            if temporary.name in self._filesystem.list_names(self._directory):
                self._filesystem.unlink(temporary)
            raise DiskFull(
                f"the snapshot of index {snapshot.index} ({len(data)} bytes) cannot be written: {error.strerror}",
                remedy="free space on the coordinator's disk; the log is kept until a snapshot succeeds",
            ) from error
        self._filesystem.fsync_dir(self._directory)
        self._good.add(snapshot.index)
        self._drop_old()
        return len(data)

    def _drop_old(self) -> None:
        keep = set(sorted(self._good, reverse=True)[:KEEP])
        self._good &= keep
        for index in self.indexes():
            if index not in keep:
                self._filesystem.unlink(self._directory / file_name(index))
        for name in self._filesystem.list_names(self._directory):
            if name.endswith(_TEMPORARY):
                self._filesystem.unlink(self._directory / name)
        self._filesystem.fsync_dir(self._directory)
