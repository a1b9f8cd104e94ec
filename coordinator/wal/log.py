"""The append-only log: segments, group append with one fdatasync, recovery, truncation, compaction.

Entries are numbered from 1 without a gap. What `append` and `set_hard_state` wrote is durable when they return.
A truncated suffix (Raft: entries that conflict with the leader's) is not overwritten in place; a TRUNCATE record
says that it is void, so that the term and vote written since stay where they are. Compaction drops whole
segments from the front; every segment repeats the hard state.

Failures:
- no space: the write is undone and `DiskFull` raised; the log stays usable and succeeds once there is room;
- any other error of a write or a sync: the state of the file is unknown and a repeat of fsync would lie, so the
  log is dead from then on and every call raises `Unavailable` (DiskFailed). The process should end; a restart
  reads what is really there.

One thread at a time may write. `entries`, `term_at` and `compact` may run beside the writer in other threads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog
from prometheus_client import Gauge, Histogram

from cloudless.coordinator.wal import record
from cloudless.coordinator.wal.files import NO_SPACE, AppendFile, Filesystem
from cloudless.coordinator.wal.index import Index
from cloudless.coordinator.wal.record import BadRecord, HardState, Kind, LogEntry, Record, SegmentHead
from cloudless.coordinator.wal.segment import TEMPORARY, Entries, Segment, corrupt, file_name, read_segment, sequences
from cloudless.errors import DiskFull, Unavailable

log = structlog.get_logger(__name__)

FSYNC_SECONDS = Histogram(
    "cloudless_raft_fsync_duration_seconds",
    "Time of one fdatasync of the log.",
    buckets=(0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 5),
)
LAST_LOG_INDEX = Gauge("cloudless_raft_last_log_index", "Index of the last entry in the log.")
DISK_FREE_BYTES = Gauge("cloudless_raft_disk_free_bytes", "Free space of the log's file system, at the last roll.")

_DISK_FULL_REMEDY = "free space on the coordinator's disk; writes are accepted again as soon as there is room"
_DISK_FAILED_REMEDY = "check the disk (dmesg), then start the coordinator again: it recovers what is really on it"


class Log:
    """See the module. Made by `Log.open`."""

    def __init__(
        self,
        filesystem: Filesystem,
        directory: Path,
        *,
        segment_bytes: int,
        salt: Callable[[], int],
        seconds: Callable[[], float],
    ) -> None:
        self._filesystem = filesystem
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._salt = salt
        self._seconds = seconds
        self._guard = threading.Lock()
        # Guarded.
        self._index = Index()
        self._salts: dict[int, int] = {}  # per live segment, ascending
        # While opening: the engine's own entries.
        self._internal: list[LogEntry] = []
        # Of the writer.
        self._hard_state = HardState()
        self._file: AppendFile | None = None
        self._sequence = 0
        self._size = 0
        self._synced = 0
        self._failure: Unavailable | None = None
        self._last_sync_s = 0.0

    # Opening

    @classmethod
    def open(
        cls,
        filesystem: Filesystem,
        directory: Path,
        *,
        segment_bytes: int,
        salt: Callable[[], int],
        seconds: Callable[[], float] = time.perf_counter,
        notice: Callable[[LogEntry], None] | None = None,
    ) -> Log:
        """Reads the log and makes it ready for writing; creates an empty one where there is none.

        `salt` gives a random 32-bit number per segment, `seconds` the time for the fsync metric. `notice` is called,
        in order, for each entry of the log that is an engine's own (`engine.INTERNAL`). A torn tail is cut, with a
        warning. Raises Corrupt for damage that a crash cannot explain (see `segment`), DiskFull.
        """
        self = cls(filesystem, directory, segment_bytes=segment_bytes, salt=salt, seconds=seconds)
        filesystem.make_dir(directory)
        for name in filesystem.list_names(directory):
            if name.endswith(TEMPORARY):
                filesystem.unlink(directory / name)
        found = sequences(filesystem, directory)
        for sequence in found:
            segment = read_segment(filesystem, directory / file_name(sequence), newest=sequence == found[-1])
            if segment.head.reset:  # the older ones are left over from a crash in `reset`
                for older in tuple(self._salts):
                    filesystem.unlink(directory / file_name(older))
                self._salts.clear()
            self._replay(segment)
            if sequence == found[-1]:
                self._resume(segment)
        if not found:
            self._start_segment(SegmentHead(1, 0, 0, salt()))
        LAST_LOG_INDEX.set(self.last_index)
        internal, self._internal = self._internal, []
        if notice is not None:
            for entry in internal:
                notice(entry)
        return self

    def _replay(self, segment: Segment) -> None:
        head = segment.head
        if not self._salts:
            self._index.begin(head.previous_index, head.previous_term)
            self._internal.clear()
        elif (head.previous_index, head.previous_term) != (self.last_index, self.last_term):
            why = f"it continues entry {head.previous_index}, the log ends at {self.last_index}"
            raise corrupt(segment.path, BadRecord(0, why))
        self._salts[head.sequence] = head.salt
        for part in segment.parts:
            if isinstance(part, Entries):
                self._replay_entries(segment, part)
            else:
                self._replay_record(segment, part)

    def _replay_entries(self, segment: Segment, found: Entries) -> None:
        if found.first_index != self.last_index + 1 or found.term < self.last_term:
            why = f"entry {found.first_index} of term {found.term} follows entry {self.last_index} of {self.last_term}"
            raise corrupt(segment.path, BadRecord(found.starts[0], why))
        self._index.extend(segment.head.sequence, found.term, starts=found.starts, ends=found.ends)
        self._internal += found.internal

    def _replay_record(self, segment: Segment, found: Record) -> None:
        if found.kind is Kind.STATE:
            self._hard_state = HardState(found.term, found.payload.decode("utf-8", "replace"))
        elif found.kind is Kind.TRUNCATE:
            if not 1 <= found.index <= self.last_index + 1:
                why = f"it drops entry {found.index}, which is not there"
                raise corrupt(segment.path, BadRecord(found.offset, why))
            self._index.drop_from(found.index, term_before=found.term)
            self._internal = [entry for entry in self._internal if entry.index < found.index]
        else:
            raise corrupt(segment.path, BadRecord(found.offset, "a segment's marker inside it"))

    def _resume(self, segment: Segment) -> None:
        """Makes the newest segment the one that is written; what survived in it is made durable first."""
        self._sequence = segment.head.sequence
        self._size = segment.end
        if segment.torn is not None:
            log.warning(
                "wal.tail_cut",
                file=str(segment.path),
                offset=segment.torn.offset,
                bytes=segment.torn.length,
                cause=segment.torn.why,
                last_index=self.last_index,
            )
        self._file = self._written_anew(segment)
        if self._file is None:
            self._file = self._filesystem.open_append(segment.path)
            if segment.torn is not None:
                self._file.truncate(segment.end)
        self._synced = -1
        self.sync()

    def _written_anew(self, segment: Segment) -> AppendFile | None:
        """The segment's good bytes in another file of its name. After a sync that failed under the process before, the
        system's cache shows bytes that are not on the disk, and no later sync writes them (fsyncgate, LWN 752063):
        nothing may rest on them. None: there is no room for it; then the file stays as it is."""
        temporary = segment.path.with_suffix(TEMPORARY)
        file: AppendFile | None = None
        try:
            file = self._filesystem.open_append(temporary)
            file.append(self._filesystem.read(segment.path, length=segment.end))
            file.sync()
            self._filesystem.rename(temporary, segment.path)
            self._filesystem.fsync_dir(self._directory)
        except OSError as error:
            if file is not None:
                file.close()
            if error.errno not in NO_SPACE:
                raise self._fail("write anew the newest segment of", error) from error
            if temporary.name in self._filesystem.list_names(self._directory):
                self._filesystem.unlink(temporary)
            return None
        return file

    # Reading

    @property
    def first_index(self) -> int:
        """Index of the oldest entry that can be read; `last_index + 1` when there is none."""
        return self._index.base_index + 1

    @property
    def base_index(self) -> int:
        """The entry before the first: what a snapshot has to cover. 0: the log is whole."""
        return self._index.base_index

    @property
    def base_term(self) -> int:
        return self._index.base_term

    def term_runs(self) -> tuple[tuple[int, int], ...]:
        """(first index, term) of each run of entries of one term behind `base_index`: as many as there were elections
        since."""
        with self._guard:
            return self._index.term_runs

    @property
    def last_index(self) -> int:
        return self._index.last_index

    @property
    def last_term(self) -> int:
        return self._index.last_term

    @property
    def hard_state(self) -> HardState:
        return self._hard_state

    @property
    def last_sync_s(self) -> float:
        """How long the last fdatasync took, in seconds."""
        return self._last_sync_s

    def term_at(self, index: int) -> int:
        """Term of an entry, also of the one before the first. Raises Compacted, or IndexError behind the end."""
        with self._guard:
            return self._index.term_at(index)

    def entries(self, from_index: int, to_index: int) -> list[LogEntry]:
        """Entries `from_index` up to, not including, `to_index`; fewer at the end of the log. Read from the file,
        with their checksums. Raises Compacted when the first is gone, Corrupt."""
        with self._guard:
            where = self._index.places(from_index, to_index)
            salts = dict(self._salts)
        found: list[LogEntry] = []
        at = 0
        while at < len(where):
            sequence, start, end = where[at]
            stop = at
            while stop < len(where) and where[stop][0] == sequence:
                end = where[stop][2]
                stop += 1
            path = self._directory / file_name(sequence)
            try:
                data = self._filesystem.read(path, offset=start, length=end - start)
            except FileNotFoundError:
                raise self._index.compacted(from_index) from None
            for _, begin, _ in where[at:stop]:
                try:
                    item = record.decode(data, begin - start, salt=salts[sequence], origin=start)
                except BadRecord as bad:
                    raise corrupt(path, BadRecord(start + bad.offset, bad.why)) from None
                found.append(LogEntry(item.index, item.term, item.payload))
            at = stop
        return found

    # Writing

    def append(self, entries: Sequence[LogEntry], *, hard_state: HardState | None = None, sync: bool = True) -> None:
        """Writes a group of entries, and a hard state before them, with one write and one fdatasync.

        Without `sync` they are durable only after the next `sync()`. Raises DiskFull: nothing of the group is in
        the log; Unavailable (DiskFailed): unknown, the log is dead. ValueError: the entries do not continue it.
        """
        self._check_usable()
        index, term = self.last_index, self.last_term
        for entry in entries:
            if entry.index != index + 1 or entry.term < term:
                raise ValueError(f"entry {entry.index}/{entry.term} cannot follow entry {index}/{term}")
            if len(entry.data) > record.PAYLOAD_BYTES_MAX:
                raise ValueError(f"an entry may have {record.PAYLOAD_BYTES_MAX} bytes, this one has {len(entry.data)}")
            index, term = entry.index, entry.term
        if self._size >= self._segment_bytes:
            self._roll()
        salt, synced, at = self._salts[self._sequence], self._synced, self._size
        parts: list[bytes] = []
        if hard_state is not None:
            parts.append(self._state_record(hard_state, salt))
            at += len(parts[0])
        parts += record.encode_entries(entries, synced=synced, salt=salt)
        places: dict[int, tuple[list[int], list[int]]] = {}  # by term, ascending
        starts: list[int] = []
        ends: list[int] = []
        term = -1
        for entry in entries:
            if entry.term != term:
                term = entry.term
                starts, ends = places.setdefault(term, ([], []))
            starts.append(at)
            at += record.HEADER_BYTES + len(entry.data)
            ends.append(at)
        self._write(b"".join(parts))
        with self._guard:
            for term, (starts, ends) in places.items():
                self._index.extend(self._sequence, term, starts=starts, ends=ends)
        if hard_state is not None:
            self._hard_state = hard_state
        if sync:
            self.sync()
        LAST_LOG_INDEX.set(self.last_index)

    def set_hard_state(self, hard_state: HardState) -> None:
        """Writes term and vote; durable when it returns. Raises as `append`."""
        self.append((), hard_state=hard_state)

    def truncate_from(self, index: int) -> None:
        """Drops the entries from `index` on; durable with the next sync (until then a crash brings them back).
        Raises as `append`, and ValueError for entries that are compacted or not there."""
        self._check_usable()
        if not self.first_index <= index <= self.last_index + 1:
            raise ValueError(f"cannot drop entry {index}: the log has {self.first_index} to {self.last_index}")
        term_before = self.term_at(index - 1)
        salt = self._salts[self._sequence]
        self._write(
            record.encode(Kind.TRUNCATE, term=term_before, index=index, payload=b"", synced=self._synced, salt=salt)
        )
        with self._guard:
            self._index.drop_from(index, term_before=term_before)
        LAST_LOG_INDEX.set(self.last_index)

    def sync(self) -> None:
        """fdatasync, when something was written since the last one."""
        self._check_usable()
        if self._synced == self._size:
            return
        assert self._file is not None
        began = self._seconds()
        try:
            self._file.sync()
        except OSError as error:
            raise self._fail("sync", error) from error
        self._last_sync_s = self._seconds() - began
        FSYNC_SECONDS.observe(self._last_sync_s)
        self._synced = self._size

    def compact(self, to_index: int) -> int:
        """Removes the segments whose entries all have an index up to `to_index`, oldest first; the one that is
        written stays. Returns the number of files removed. Call it only when a durable snapshot covers
        `to_index`. May be repeated; raises OSError when a file cannot be removed (nothing is lost)."""
        removed = 0
        while True:
            with self._guard:
                oldest = next(iter(self._salts))
                last_in_it = self._index.last_index_in(oldest)
                if oldest == self._sequence or last_in_it > to_index:
                    return removed
                self._index.drop_up_to(last_in_it)
                del self._salts[oldest]
            self._filesystem.unlink(self._directory / file_name(oldest))
            self._filesystem.fsync_dir(self._directory)  # a gap between segments would read as damage
            removed += 1

    def reset(self, index: int, term: int) -> None:
        """Drops every entry: the log goes on behind (`index`, `term`), which a durable snapshot covers. The hard
        state stays. Raises as `append`."""
        self._check_usable()
        older = tuple(self._salts)
        self._start_segment(SegmentHead(self._sequence + 1, index, term, self._salt(), reset=True))
        with self._guard:
            self._salts = {self._sequence: self._salts[self._sequence]}
            self._index.begin(index, term)
        for sequence in older:
            self._filesystem.unlink(self._directory / file_name(sequence))
        self._filesystem.fsync_dir(self._directory)
        LAST_LOG_INDEX.set(self.last_index)

    def follow(self, index: int, term: int) -> bool:
        """Makes the log one that goes on behind (`index`, `term`), which a durable snapshot covers: as it is where it
        contains that entry (§5.1 of the dissertation: what follows it stays), else emptied with `reset`. Returns
        whether it was kept. Raises as `append`."""
        if self.base_index <= index <= self.last_index and self.term_at(index) == term:
            return True
        self.reset(index, term)
        return False

    def close(self) -> None:
        """Syncs what is not yet durable and closes the file; safe to call twice."""
        if self._file is None:
            return
        try:
            if self._failure is None:
                self.sync()
        finally:
            self._file.close()
            self._file = None
            self._failure = self._failure or Unavailable("the log is closed", reason="StoreClosed")

    # Inside

    def _state_record(self, state: HardState, salt: int) -> bytes:
        payload = state.vote.encode()
        return record.encode(Kind.STATE, term=state.term, index=0, payload=payload, synced=self._synced, salt=salt)

    def _roll(self) -> None:
        self.sync()
        self._start_segment(SegmentHead(self._sequence + 1, self.last_index, self.last_term, self._salt()))

    def _start_segment(self, head: SegmentHead) -> None:
        """Opens the next segment. It gets its name only once its head is on disk."""
        path = self._directory / file_name(head.sequence)
        temporary = path.with_suffix(TEMPORARY)
        start = record.encode_segment_head(head)
        if self._hard_state != HardState():
            payload = self._hard_state.vote.encode()
            start += record.encode(
                Kind.STATE, term=self._hard_state.term, index=0, payload=payload, synced=0, salt=head.salt
            )
        file: AppendFile | None = None
        try:
            file = self._filesystem.open_append(temporary)
            file.truncate(0)
            file.append(start)
            file.sync()
            self._filesystem.rename(temporary, path)
        except OSError as error:
            if file is not None:
                file.close()
            if error.errno not in NO_SPACE:
                raise self._fail("start a segment of", error) from error
            if temporary.name in self._filesystem.list_names(self._directory):
                self._filesystem.unlink(temporary)
            raise self._full(error) from error
        try:
            self._filesystem.fsync_dir(self._directory)
        except OSError as error:  # the new name is there; the old segment must not be written any more
            file.close()
            raise self._fail("start a segment of", error) from error
        if self._file is not None:
            self._file.close()
        self._file = file
        with self._guard:
            self._salts[head.sequence] = head.salt
            self._sequence = head.sequence
        self._size = self._synced = len(start)
        DISK_FREE_BYTES.set(self._filesystem.free_bytes(self._directory))

    def _write(self, data: bytes) -> None:
        assert self._file is not None
        try:
            self._file.append(data)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise self._fail("write", error) from error
            try:
                # The refusal must hold after a crash too: what was written of the group is gone for good.
                self._file.truncate(self._size)
                self._file.sync()
            except OSError as second:
                raise self._fail("undo a write of", second) from second
            self._synced = self._size
            raise self._full(error) from error
        self._size += len(data)

    def _full(self, error: OSError) -> DiskFull:
        free = self._filesystem.free_bytes(self._directory)
        return DiskFull(
            f"the log cannot be written: {error.strerror} ({free} bytes free at {self._directory}); "
            "nothing was accepted",
            remedy=_DISK_FULL_REMEDY,
        )

    def _fail(self, doing: str, error: OSError) -> Unavailable:
        self._failure = Unavailable(
            f"the disk failed: cannot {doing} the log at {self._directory}: {error.strerror or error}; "
            "the outcome of the last writes is unknown",
            reason="DiskFailed",
            remedy=_DISK_FAILED_REMEDY,
        )
        log.critical("wal.disk_failed", operation=doing, errno=error.errno, directory=str(self._directory))
        return self._failure

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise self._failure
