"""`python -m cloudless.coordinator.wal.inspect DIR`: checks a data directory without changing it.

It recovers exactly as a starting coordinator would, over a file system that refuses to change anything, and
compares the state that snapshot and log give with a replay of the whole log where that is still there. Run it on
the directory of a stopped coordinator; beside a running one, the last write may look torn. Of a member of several, the
end of the log may not be committed: then its state is what it would be if it were.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from cloudless.coordinator.core import commands
from cloudless.coordinator.core.state import State
from cloudless.coordinator.engine import is_internal
from cloudless.coordinator.wal.files import AppendFile, DirectoryLock, Filesystem, OsFilesystem
from cloudless.coordinator.wal.log import Log
from cloudless.coordinator.wal.machine import FabricMachine, Machine, S
from cloudless.coordinator.wal.record import LogEntry
from cloudless.coordinator.wal.recovery import check_continuity, load_newest, replay
from cloudless.coordinator.wal.segment import Entries, file_name, read_segment, sequences
from cloudless.coordinator.wal.snapshots import Snapshots
from cloudless.errors import CloudlessError, Corrupt


@dataclass(frozen=True, slots=True)
class SegmentReport:
    file: str
    bytes: int
    entries: int
    first_index: int  # 0: it holds no entry
    last_index: int
    torn_bytes: int  # at its end; a coordinator would cut them
    damage: str  # empty: none


@dataclass(frozen=True, slots=True)
class SnapshotReport:
    index: int
    term: int
    bytes: int
    state_hash: str
    damage: str


@dataclass(frozen=True, slots=True)
class Report:
    """`damage` is what a starting coordinator would refuse with; then the fields behind it are empty.

    `replay_hash` is the state of a replay of the whole log; empty when its beginning is compacted. It must equal
    `state_hash`: see `consistent`.
    """

    segments: tuple[SegmentReport, ...]
    snapshots: tuple[SnapshotReport, ...]
    damage: str = ""
    first_index: int = 0
    last_index: int = 0
    term: int = 0
    vote: str = ""
    state_hash: str = ""
    replay_hash: str = ""

    @property
    def consistent(self) -> bool:
        return not self.damage and self.replay_hash in ("", self.state_hash)


class _Unchanged:
    """A file that swallows what recovery does to its end (cutting a torn tail)."""

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes

    def append(self, data: bytes) -> None:
        self._size_bytes += len(data)

    def truncate(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes

    def sync(self) -> None:
        return

    def size_bytes(self) -> int:
        return self._size_bytes

    def close(self) -> None:
        return

    def release(self) -> None:
        return


class ReadOnlyFilesystem:
    """Reads from another file system; what would change it does nothing."""

    def __init__(self, inner: Filesystem) -> None:
        self._inner = inner

    def make_dir(self, path: Path) -> None:
        return

    def open_append(self, path: Path) -> AppendFile:
        return _Unchanged(0)

    def read(self, path: Path, *, offset: int = 0, length: int | None = None) -> bytes:
        return self._inner.read(path, offset=offset, length=length)

    def list_names(self, directory: Path) -> tuple[str, ...]:
        return self._inner.list_names(directory)

    def rename(self, source: Path, target: Path) -> None:
        return

    def unlink(self, path: Path) -> None:
        return

    def fsync_dir(self, directory: Path) -> None:
        return

    def free_bytes(self, directory: Path) -> int:
        return 0

    def lock(self, path: Path) -> DirectoryLock:
        return _Unchanged(0)


class _Reached(Generic[S]):
    """The state that a snapshot and the entries behind it lead to."""

    def __init__(self, machine: Machine[S]) -> None:
        self._machine = machine
        self.state = machine.empty()
        self.index = 0

    def load(self, body: bytes) -> tuple[int, int]:
        self.state, self.index, term = self._machine.decode(body)
        return self.index, term

    def apply(self, entry: LogEntry) -> None:
        if not is_internal(entry.data):
            applied = self._machine.apply(self.state, entry.data, index=entry.index, term=entry.term)
            self.state = applied.state
        self.index = entry.index


class Inspector(Generic[S]):
    """Reads one data directory as recovery would."""

    def __init__(self, directory: Path, machine: Machine[S], filesystem: Filesystem | None = None) -> None:
        self._filesystem = ReadOnlyFilesystem(filesystem or OsFilesystem())
        self._wal_directory = directory / "wal"
        self._machine = machine
        self._snapshots = Snapshots(self._filesystem, directory / "snapshots")

    def open_log(self) -> Log:
        """The log as recovery would have it; raises Corrupt."""
        return Log.open(self._filesystem, self._wal_directory, segment_bytes=2**62, salt=lambda: 0)

    def entries(self) -> list[LogEntry]:
        """Every entry that is still in the log. Raises Corrupt."""
        wal = self.open_log()
        return wal.entries(wal.first_index, wal.last_index + 1)

    def report(self) -> Report:
        """Reads and checks everything; damage is reported, not raised."""
        snapshots = self._snapshot_reports()
        try:
            segments = self._segment_reports()
            wal = self.open_log()
            reached = _Reached(self._machine)
            start = load_newest(self._snapshots, reached.load)
            check_continuity(start, wal, self._snapshots)
            replay(wal, reached.apply, after=reached.index, to_index=wal.last_index)
        except Corrupt as error:
            return Report(self._readable_segments(), snapshots, damage=error.message)
        full = ""
        if wal.first_index == 1 and (start is None or wal.last_index >= start.index):
            whole = _Reached(self._machine)
            replay(wal, whole.apply, after=0, to_index=wal.last_index)
            full = self._machine.state_hash(whole.state)
        return Report(
            segments,
            snapshots,
            first_index=wal.first_index,
            last_index=wal.last_index,
            term=max(wal.hard_state.term, wal.last_term),
            vote=wal.hard_state.vote,
            state_hash=self._machine.state_hash(reached.state),
            replay_hash=full,
        )

    def _snapshot_reports(self) -> tuple[SnapshotReport, ...]:
        found = []
        for index in self._snapshots.indexes():
            try:
                stored = self._snapshots.read(index)
                state, _, _ = self._machine.decode(stored.body)
            except (Corrupt, ValueError) as error:
                found.append(SnapshotReport(index, 0, 0, "", str(error)))
            else:
                state_hash = self._machine.state_hash(state)
                found.append(SnapshotReport(index, stored.term, len(stored.body), state_hash, ""))
        return tuple(found)

    def _segment_reports(self) -> tuple[SegmentReport, ...]:
        numbers = sequences(self._filesystem, self._wal_directory)
        return tuple(self._segment(number, newest=number == numbers[-1]) for number in numbers)

    def _readable_segments(self) -> tuple[SegmentReport, ...]:
        names = [n for n in self._filesystem.list_names(self._wal_directory) if n.endswith(".wal") and n[:-4].isdigit()]
        return tuple(self._segment(int(name[:-4]), newest=name == names[-1]) for name in names)

    def _segment(self, number: int, *, newest: bool) -> SegmentReport:
        path = self._wal_directory / file_name(number)
        size = len(self._filesystem.read(path))
        try:
            segment = read_segment(self._filesystem, path, newest=newest)
        except Corrupt as error:
            return SegmentReport(path.name, size, 0, 0, 0, 0, error.message)
        runs = [part for part in segment.parts if isinstance(part, Entries)]
        first, last = (runs[0].first_index, runs[-1].first_index + len(runs[-1].starts) - 1) if runs else (0, 0)
        count = sum(len(run.starts) for run in runs)
        return SegmentReport(path.name, size, count, first, last, segment.torn.length if segment.torn else 0, "")


def inspect(directory: Path, machine: Machine[S], *, filesystem: Filesystem | None = None) -> Report:
    """The report on a data directory; reads only."""
    return Inspector(directory, machine, filesystem).report()


def fabric_inspector(directory: Path, *, trust_domain: str) -> Inspector[State]:
    """For a coordinator's directory. The trust domain is that of a snapshot where there is one."""
    machine = FabricMachine(trust_domain)
    snapshots = Snapshots(ReadOnlyFilesystem(OsFilesystem()), directory / "snapshots")
    reached = _Reached(machine)
    if load_newest(snapshots, reached.load) is not None:
        machine = FabricMachine(reached.state.trust_domain)
    return Inspector(directory, machine)


def _describe(entry: LogEntry) -> dict[str, Any]:
    line: dict[str, Any] = {"index": entry.index, "term": entry.term, "bytes": len(entry.data)}
    if is_internal(entry.data):
        return line | {"internal": entry.data[1:].decode("utf-8", "replace")}
    try:
        content = commands.decode(entry.data)
    except ValueError as error:
        return line | {"unreadable": str(error)}
    return line | {
        "command": type(content.command).__name__,
        "actor": content.actor,
        "request_id": content.request_id,
        "issued_at_ms": content.issued_at_ms,
    }


def _text(report: Report) -> str:
    lines = []
    for segment in report.segments:
        what = segment.damage or f"entries {segment.first_index}..{segment.last_index} ({segment.entries})"
        torn = f", {segment.torn_bytes} torn bytes at its end" if segment.torn_bytes else ""
        lines.append(f"segment  {segment.file}  {segment.bytes} bytes  {what}{torn}")
    for snapshot in report.snapshots:
        what = snapshot.damage or f"term {snapshot.term}, {snapshot.bytes} bytes, state {snapshot.state_hash[:16]}"
        lines.append(f"snapshot {snapshot.index}  {what}")
    if report.damage:
        return "\n".join([*lines, f"DAMAGED  {report.damage}"])
    lines.append(
        f"log      entries {report.first_index}..{report.last_index}, term {report.term}, vote {report.vote!r}"
    )
    lines.append(f"state    {report.state_hash}")
    lines.append(f"replay   {report.replay_hash or 'the beginning of the log is compacted'}")
    lines.append("good" if report.consistent else "DAMAGED  the snapshot is not what the log leads to")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """0: good; 1: a coordinator would refuse to start, or snapshot and log disagree."""
    parser = argparse.ArgumentParser("cloudless.coordinator.wal.inspect", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("directory", type=Path, help="the folder with wal/ and snapshots/")
    parser.add_argument("--entries", action="store_true", help="one line of JSON for each entry of the log")
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    parser.add_argument("--trust-domain", default="cloudless.local", help="of the fabric, while it has no snapshot")
    options = parser.parse_args(argv)
    if not (options.directory / "wal").is_dir():
        sys.stderr.write(f"{options.directory} has no wal folder: it is not a coordinator's store\n")
        return 1
    inspector = fabric_inspector(options.directory, trust_domain=options.trust_domain)
    try:
        if options.entries:
            for entry in inspector.entries():
                sys.stdout.write(json.dumps(_describe(entry)) + "\n")
        report = inspector.report()
    except CloudlessError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if options.json:
        sys.stdout.write(json.dumps(dataclasses.asdict(report) | {"consistent": report.consistent}, indent=2) + "\n")
    else:
        sys.stdout.write(_text(report) + "\n")
    return 0 if report.consistent else 1


if __name__ == "__main__":
    raise SystemExit(main())
