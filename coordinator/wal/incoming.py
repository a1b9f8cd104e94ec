"""A snapshot that arrives from another member, piece by piece."""

from __future__ import annotations

from cloudless.coordinator.wal.files import NO_SPACE, AppendFile
from cloudless.coordinator.wal.snapshots import INCOMING, Snapshots, StoredSnapshot, file_name, full, read_file
from cloudless.errors import Corrupt


class Incoming:
    """Collects the file of one snapshot under a temporary name. One thread at a time; every method may block.

    After an error it is of no use any more; `discard` it. What a crash leaves of it is removed at the next start.
    """

    def __init__(self, snapshots: Snapshots, index: int, total_bytes: int) -> None:
        """Raises DiskFull, OSError."""
        self.index = index
        self.total_bytes = total_bytes
        self._snapshots = snapshots
        self._offset = 0
        self._temporary = (snapshots.directory / file_name(index)).with_suffix(INCOMING)
        self._file: AppendFile | None = None
        snapshots.filesystem.make_dir(snapshots.directory)
        try:
            self._file = snapshots.filesystem.open_append(self._temporary)
            self._file.truncate(0)
        except OSError as error:
            self._give_up(error)
            raise

    @property
    def offset(self) -> int:
        """Bytes that are here, and on the disk: where the next piece has to begin."""
        return self._offset

    def append(self, data: bytes) -> None:
        """The next piece; on the disk when this returns. Raises ValueError (more than was announced), DiskFull,
        OSError."""
        assert self._file is not None
        if self._offset + len(data) > self.total_bytes:
            raise ValueError(f"{self._offset + len(data)} bytes of a snapshot of {self.total_bytes}")
        try:
            self._file.append(data)
            self._file.sync()
        except OSError as error:
            self._give_up(error)
            raise
        self._offset += len(data)

    def finish(self) -> StoredSnapshot:
        """Verifies what arrived and makes it durable under its name. Raises Corrupt (removed: it is not whole, or not
        this snapshot), DiskFull, OSError."""
        snapshots, file = self._snapshots, self._file
        assert file is not None
        try:
            found, _ = read_file(snapshots.filesystem, self._temporary, index=self.index)
            if self._offset != self.total_bytes:
                raise Corrupt(f"{self._offset} bytes of {self.total_bytes} of snapshot {self.index} arrived")
            file.sync()
            snapshots.publish(self._temporary, self.index, self.total_bytes)
            file.close()
            self._file = None
        except Corrupt:
            self.discard()
            raise
        except OSError as error:
            self._give_up(error)
            raise
        return found

    def discard(self) -> None:
        """Removes what arrived; safe to repeat, and after `finish`."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._snapshots.remove(self._temporary.name)

    def _give_up(self, error: OSError) -> None:
        self.discard()
        if error.errno in NO_SPACE:
            raise full(self.index, self.total_bytes, error) from error
