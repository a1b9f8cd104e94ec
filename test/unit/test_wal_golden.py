"""The bytes on disk are a contract: a later version must read what this one wrote."""

import itertools
from pathlib import Path

from cloudless.coordinator.wal import snapshots
from cloudless.coordinator.wal.log import Log
from cloudless.coordinator.wal.record import HardState, LogEntry
from cloudless.testing.disk import SimDisk

GOLDEN = Path(__file__).parents[1] / "golden" / "wal"
DIR = Path("/wal")

ENTRIES = [
    LogEntry(1, 1, b"first"),
    LogEntry(2, 1, b""),
    LogEntry(3, 4, bytes(range(256))),
    LogEntry(4, 4, "größer".encode()),
]


def test_the_log_writes_and_reads_the_golden_bytes():
    disk = SimDisk()
    salts = itertools.count(0xC10DE550)
    log = Log.open(disk, DIR, segment_bytes=300, salt=lambda: next(salts), seconds=disk.seconds)
    log.append([*ENTRIES[:2], LogEntry(3, 2, b"conflict")], hard_state=HardState(2, "c2"))
    log.truncate_from(3)
    log.append(ENTRIES[2:3], hard_state=HardState(4, ""))
    log.append(ENTRIES[3:])
    log.close()
    names = ("0000000000000001.wal", "0000000000000002.wal")
    assert disk.list_names(DIR) == names
    for name in names:
        assert disk.read(DIR / name).hex() == (GOLDEN / f"{name}.hex").read_text().replace("\n", "")

    stored = SimDisk()
    stored.make_dir(DIR)
    for name in names:
        stored.open_append(DIR / name).append(bytes.fromhex((GOLDEN / f"{name}.hex").read_text()))
    again = Log.open(stored, DIR, segment_bytes=300, salt=lambda: 1, seconds=stored.seconds)
    assert again.entries(1, 5) == ENTRIES
    assert again.hard_state == HardState(4, "")


def test_the_snapshot_writes_and_reads_the_golden_bytes():
    golden = bytes.fromhex((GOLDEN / "snapshot.hex").read_text())
    snapshot = snapshots.StoredSnapshot(7, 3, b"the state")
    assert snapshots.encode(snapshot) == golden
    assert snapshots.decode(golden) == snapshot
