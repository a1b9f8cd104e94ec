"""What a log rests on after it is opened again, when the disk failed or is full."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest

from cloudless.coordinator.wal.log import Log
from cloudless.coordinator.wal.record import HardState, LogEntry
from cloudless.errors import Unavailable
from cloudless.testing.disk import PowerCut, SimDisk

WAL = Path("/data/wal")


def opened(disk: SimDisk) -> Log:
    return Log.open(disk, WAL, segment_bytes=4096, salt=lambda: 7, seconds=lambda: 0.0)


def entries(log: Log) -> list[bytes]:
    return [entry.data for entry in log.entries(log.first_index, log.last_index + 1)]


@pytest.mark.parametrize("seed", range(20))
def test_what_a_failed_sync_lost_is_written_anew(seed: int) -> None:
    """fsyncgate: the system's cache shows what is not on the disk, and the next sync says that all is well."""
    disk = SimDisk(seed)
    log = opened(disk)
    log.append([LogEntry(1, 1, b"one")], hard_state=HardState(1, "m1"))
    disk.fail_syncs(1)
    with pytest.raises(Unavailable, match="disk failed"):
        log.append([LogEntry(2, 1, b"two")])
    disk.restart()  # the process alone
    log = opened(disk)
    assert entries(log) == [b"one", b"two"]
    log.append([LogEntry(3, 1, b"three")])
    disk.power_cut()
    log = opened(disk)
    assert entries(log) == [b"one", b"two", b"three"]
    assert log.hard_state == HardState(1, "m1")


@pytest.mark.parametrize("seed", range(20))
def test_the_power_may_go_while_it_is_written_anew(seed: int) -> None:
    disk = SimDisk(seed)
    log = opened(disk)
    for index in range(1, 6):
        log.append([LogEntry(index, 1, b"%d" % index)], hard_state=HardState(1))
    for step in range(1, 12):
        disk.power_cut()
        disk.cut_power_at = disk.operations + step
        with contextlib.suppress(PowerCut):
            opened(disk)
    disk.power_cut()
    assert len(entries(opened(disk))) == 5


def test_a_full_disk_is_opened_all_the_same() -> None:
    disk = SimDisk(random.Random(1).getrandbits(8))
    opened(disk).append([LogEntry(1, 1, b"one")])
    disk.restart()
    disk.capacity_bytes = disk.used_bytes()
    log = opened(disk)
    assert entries(log) == [b"one"]
    assert all(not name.endswith(".tmp") for name in disk.list_names(WAL))
