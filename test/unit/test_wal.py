"""The log and the snapshots, example by example. Crashes at random moments: test/property/test_wal_crash.py."""

import contextlib
import errno
import itertools
from pathlib import Path

import pytest

from cloudless.coordinator.wal import record, segment
from cloudless.coordinator.wal.log import Log
from cloudless.coordinator.wal.record import HardState, Kind, LogEntry
from cloudless.coordinator.wal.snapshots import Snapshots, StoredSnapshot
from cloudless.coordinator.wal.snapshots import file_name as snapshot_name
from cloudless.errors import Compacted, Corrupt, DiskFull, Unavailable
from cloudless.testing.disk import PowerCut, SimDisk

DIR = Path("/data/wal")


def open_log(disk, *, segment_bytes=2**20) -> Log:
    salts = itertools.count(0x1000)
    return Log.open(disk, DIR, segment_bytes=segment_bytes, salt=lambda: next(salts), seconds=disk.seconds)


def entries(first, last, *, term=1, size=20) -> list[LogEntry]:
    return [LogEntry(i, term, f"{term}:{i}".encode().ljust(size, b".")) for i in range(first, last + 1)]


def everything(log) -> list[LogEntry]:
    return log.entries(log.first_index, log.last_index + 1)


@pytest.fixture
def disk():
    return SimDisk(1)


def test_an_empty_log(disk):
    log = open_log(disk)
    assert (log.first_index, log.last_index, log.last_term, log.hard_state) == (1, 0, 0, HardState())
    assert log.entries(1, 10) == []
    log.close()
    log.close()
    assert open_log(disk).last_index == 0


def test_what_was_appended_is_read_back_now_and_after_a_restart(disk):
    log = open_log(disk, segment_bytes=300)
    written = entries(1, 30) + entries(31, 40, term=7)
    for start in range(0, 40, 4):
        log.append(written[start : start + 4])
    assert everything(log) == written
    assert log.entries(5, 8) == written[4:7]
    assert log.entries(39, 100) == written[38:]
    assert (log.term_at(30), log.term_at(31), log.term_at(0)) == (1, 7, 0)
    with pytest.raises(IndexError):
        log.term_at(41)
    disk.power_cut()
    again = open_log(disk, segment_bytes=300)
    assert everything(again) == written
    assert (again.last_index, again.last_term) == (40, 7)


def test_entries_that_do_not_continue_the_log_are_a_bug(disk):
    log = open_log(disk)
    log.append(entries(1, 3, term=2))
    for wrong in (entries(5, 5, term=2), entries(3, 3, term=2), entries(4, 4, term=1)):
        with pytest.raises(ValueError, match="cannot follow"):
            log.append(wrong)
    log.append(entries(4, 4, term=2))


def test_term_and_vote_survive_truncation_rolling_and_compaction(disk):
    log = open_log(disk, segment_bytes=200)
    log.append(entries(1, 4))
    log.set_hard_state(HardState(3, "c2"))
    log.truncate_from(2)
    log.append(entries(2, 9, term=3))
    log.append(entries(10, 12, term=3))
    assert log.compact(9) >= 1
    disk.restart()
    again = open_log(disk, segment_bytes=200)
    assert again.hard_state == HardState(3, "c2")
    assert again.last_index == 12


def test_a_truncated_suffix_is_gone_after_the_next_append(disk):
    log = open_log(disk, segment_bytes=250)
    log.append(entries(1, 6))
    log.append(entries(7, 10))
    log.append(entries(11, 12))
    log.truncate_from(4)
    assert (log.last_index, log.last_term) == (3, 1)
    log.append(entries(4, 5, term=2))
    disk.power_cut()
    again = open_log(disk, segment_bytes=250)
    assert everything(again) == entries(1, 3) + entries(4, 5, term=2)
    with pytest.raises(ValueError, match="cannot drop entry 9"):
        again.truncate_from(9)


def test_truncation_down_into_a_compacted_segment(disk):
    log = open_log(disk, segment_bytes=250)
    log.append(entries(1, 5))
    log.append(entries(6, 10))
    log.append(entries(11, 15))
    log.truncate_from(3)
    log.append(entries(3, 8, term=4))
    log.append(entries(9, 9, term=4))
    log.compact(7)
    before = everything(log)
    assert before[-1].index == 9
    disk.restart()
    again = open_log(disk, segment_bytes=250)
    assert everything(again) == before
    assert again.term_at(again.first_index - 1) in (1, 4)


def test_compaction_drops_whole_segments_and_never_the_one_in_use(disk):
    log = open_log(disk, segment_bytes=200)
    for i in range(1, 21):
        log.append(entries(i, i))
    files = len(disk.list_names(DIR))
    assert log.compact(0) == 0
    removed = log.compact(10)
    assert 0 < removed < files
    assert 2 <= log.first_index <= 11
    assert log.last_index == 20
    assert log.term_at(log.first_index - 1) == 1
    with pytest.raises(Compacted, match="begins at"):
        log.entries(1, 5)
    with pytest.raises(Compacted):
        log.term_at(0)
    log.compact(10**9)
    assert len(disk.list_names(DIR)) == 1
    log.append(entries(21, 21))
    disk.restart()
    assert open_log(disk, segment_bytes=200).last_index == 21


def test_reset_goes_on_behind_a_snapshot(disk):
    log = open_log(disk, segment_bytes=200)
    log.append(entries(1, 9), hard_state=HardState(5, "c1"))
    log.reset(1000, 4)
    assert (log.first_index, log.last_index, log.last_term) == (1001, 1000, 4)
    log.append(entries(1001, 1003, term=5))
    disk.power_cut()
    again = open_log(disk)
    assert everything(again) == entries(1001, 1003, term=5)
    assert again.hard_state == HardState(5, "c1")


def test_a_crash_inside_reset_leaves_the_old_log_or_the_new_one():
    for operation in range(1, 12):
        disk = SimDisk(operation)
        log = open_log(disk, segment_bytes=200)
        for i in range(1, 9):
            log.append(entries(i, i))
        disk.cut_power_at = disk.operations + operation
        with contextlib.suppress(PowerCut):
            log.reset(1000, 4)
        disk.power_cut()
        again = open_log(disk, segment_bytes=200)
        assert (again.last_index, again.last_term) in ((8, 1), (1000, 4))


# Damage


def tail_file() -> Path:
    return DIR / segment.file_name(1)


@pytest.mark.parametrize("cut_bytes", [1, 20, 45, 60])
def test_a_cut_tail_loses_only_the_cut_records(disk, cut_bytes):
    log = open_log(disk)
    log.append(entries(1, 5))
    log.append(entries(6, 6))
    log.close()
    file = disk.open_append(tail_file())
    file.truncate(file.size_bytes() - cut_bytes)
    again = open_log(disk)
    assert everything(again) == entries(1, 5)
    again.append(entries(6, 7, term=2))
    disk.power_cut()
    assert everything(open_log(disk)) == entries(1, 5) + entries(6, 7, term=2)


def test_a_bit_flipped_in_the_last_record_is_cut(disk):
    log = open_log(disk)
    log.append(entries(1, 5))
    log.append(entries(6, 6))
    size = len(disk.read(tail_file()))
    disk.flip_bit(tail_file(), offset=size - 3)
    disk.restart()
    assert everything(open_log(disk)) == entries(1, 5)


def test_any_bit_flipped_before_the_last_group_refuses_with_file_offset_and_remedy():
    image = SimDisk(1)
    log = open_log(image)
    for start in (1, 3, 5):
        log.append(entries(start, start + 1))
    good = image.read(tail_file())
    last_group = len(good) - 2 * (record.HEADER_BYTES + 20)
    for offset in range(0, len(good), 3):
        image.flip_bit(tail_file(), offset=offset, bit=offset % 8)
        image.restart()
        before = image.read(tail_file())
        if offset < last_group:
            with pytest.raises(Corrupt, match=str(tail_file())) as caught:
                open_log(image)
            assert "at offset" in caught.value.message
            assert "backup" in caught.value.remedy
            assert "member" not in caught.value.remedy, "there is no other coordinator to restore it from"
            assert image.read(tail_file()) == before, "a refusal must not change the files"
            image.flip_bit(tail_file(), offset=offset, bit=offset % 8)
    image.flip_bit(tail_file(), offset=last_group + 1)
    image.restart()
    assert everything(open_log(image)) == entries(1, 4)


def test_a_torn_group_whose_later_records_survived_is_cut_and_not_called_damage(disk):
    """Sectors of an unsynced write reach the disk in any order."""
    log = open_log(disk)
    log.append(entries(1, 2))
    synced = len(disk.read(tail_file()))
    log.append(entries(3, 40))
    disk.flip_bit(tail_file(), offset=synced + 5)
    disk.restart()
    assert everything(open_log(disk)) == entries(1, 2)


def test_damage_in_an_older_segment_refuses_even_at_its_end(disk):
    log = open_log(disk, segment_bytes=200)
    for i in range(1, 9):
        log.append(entries(i, i))
    disk.flip_bit(tail_file(), offset=len(disk.read(tail_file())) - 1)
    disk.restart()
    with pytest.raises(Corrupt, match=r"0001\.wal at offset"):
        open_log(disk, segment_bytes=200)


def test_a_missing_segment_refuses(disk):
    log = open_log(disk, segment_bytes=200)
    for i in range(1, 12):
        log.append(entries(i, i))
    names = disk.list_names(DIR)
    assert len(names) >= 3
    disk.unlink(DIR / names[1])
    disk.restart()
    with pytest.raises(Corrupt, match=f"{names[1]} is missing"):
        open_log(disk, segment_bytes=200)


def test_a_record_inside_a_command_is_not_taken_for_one(disk):
    """Whoever may write commands must not be able to make a torn tail look like damage."""
    log = open_log(disk)
    forged = record.encode(Kind.ENTRY, term=1, index=9, payload=b"x", synced=2**31, salt=0)
    log.append(entries(1, 2))
    log.append([LogEntry(3, 1, forged + forged)])
    size = len(disk.read(tail_file()))
    disk.flip_bit(tail_file(), offset=size - len(forged) * 2 - 1)
    disk.restart()
    assert everything(open_log(disk)) == entries(1, 2)


# A disk that is full or fails


def test_a_full_disk_refuses_the_whole_group_and_recovers(disk):
    log = open_log(disk)
    log.append(entries(1, 3))
    disk.capacity_bytes = disk.used_bytes() + 100
    with pytest.raises(DiskFull, match="nothing was accepted") as caught:
        log.append(entries(4, 9))
    assert "free space" in caught.value.remedy
    assert everything(log) == entries(1, 3)
    disk.capacity_bytes = None
    log.append(entries(4, 5))
    disk.power_cut()
    assert everything(open_log(disk)) == entries(1, 5)


def test_a_refused_group_does_not_come_back_after_a_crash():
    for seed in range(30):
        disk = SimDisk(seed)
        log = open_log(disk)
        log.append(entries(1, 3))
        disk.capacity_bytes = disk.used_bytes() + 200
        with pytest.raises(DiskFull):
            log.append(entries(4, 9))
        disk.power_cut()
        assert everything(open_log(disk)) == entries(1, 3)


def test_a_full_disk_when_a_segment_is_due(disk):
    log = open_log(disk, segment_bytes=100)
    log.append(entries(1, 3))
    disk.capacity_bytes = disk.used_bytes() + 10
    for _ in range(2):
        with pytest.raises(DiskFull):
            log.append(entries(4, 4))
    assert disk.list_names(DIR) == (segment.file_name(1),)
    disk.capacity_bytes = None
    log.append(entries(4, 4))
    disk.power_cut()
    assert everything(open_log(disk, segment_bytes=100)) == entries(1, 4)


def test_a_failed_sync_ends_the_log_for_this_process(disk):
    log = open_log(disk)
    log.append(entries(1, 3))
    disk.fail_syncs()
    with pytest.raises(Unavailable, match="outcome of the last writes is unknown") as caught:
        log.append(entries(4, 4))
    assert caught.value.reason == "DiskFailed"
    with pytest.raises(Unavailable, match="disk failed"):
        log.append(entries(5, 5))
    log.close()
    disk.power_cut()
    assert everything(open_log(disk)) == entries(1, 3)


def test_another_write_error_is_as_final(disk, monkeypatch):
    log = open_log(disk)

    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(disk, "_append", broken)
    with pytest.raises(Unavailable, match="cannot write the log"):
        log.append(entries(1, 1))
    monkeypatch.undo()
    with pytest.raises(Unavailable):
        log.set_hard_state(HardState(1, ""))


# Snapshots


def test_the_newest_two_snapshots_are_kept(disk):
    snapshots = Snapshots(disk, Path("/data/snapshots"))
    for index in (10, 20, 30):
        snapshots.save(StoredSnapshot(index, 1, b"state %d" % index))
    assert snapshots.indexes() == (30, 20)
    assert snapshots.compactable_index() == 20
    disk.power_cut()
    again = Snapshots(disk, Path("/data/snapshots"))
    assert again.compactable_index() == 0
    assert [s.index for s in again.good()] == [30, 20]
    assert again.compactable_index() == 20


def test_a_damaged_snapshot_is_passed_over_and_replaced(disk):
    folder = Path("/data/snapshots")
    snapshots = Snapshots(disk, folder)
    for index in (10, 20):
        snapshots.save(StoredSnapshot(index, 1, b"state"))
    for offset in (0, 9, 13, 20, 33, 41):
        disk.flip_bit(folder / snapshot_name(20), offset=offset)
        again = Snapshots(disk, folder)
        assert next(again.good()).index == 10
        with pytest.raises(Corrupt, match="damaged"):
            again.read(20)
        disk.flip_bit(folder / snapshot_name(20), offset=offset)
    disk.flip_bit(folder / snapshot_name(20), offset=41)
    again = Snapshots(disk, folder)
    next(again.good())
    again.save(StoredSnapshot(30, 1, b"newer"))
    assert again.indexes() == (30, 10)


def test_a_snapshot_that_does_not_fit_leaves_the_old_one(disk):
    snapshots = Snapshots(disk, Path("/data/snapshots"))
    snapshots.save(StoredSnapshot(10, 1, b"state"))
    disk.capacity_bytes = disk.used_bytes() + 50
    with pytest.raises(DiskFull, match="snapshot of index 20"):
        snapshots.save(StoredSnapshot(20, 1, b"x" * 500))
    assert snapshots.indexes() == (10,)
    assert disk.free_bytes(Path()) == 50
    disk.capacity_bytes = None
    snapshots.save(StoredSnapshot(20, 1, b"x" * 500))


def test_a_crash_inside_save_leaves_an_older_snapshot_whole():
    for operation in range(1, 20):
        disk = SimDisk(operation)
        snapshots = Snapshots(disk, Path("/data/snapshots"))
        for index in (10, 20):
            snapshots.save(StoredSnapshot(index, 1, b"state" * 500))
        disk.cut_power_at = disk.operations + operation
        with contextlib.suppress(PowerCut):
            snapshots.save(StoredSnapshot(30, 1, b"state" * 500))
        disk.power_cut()
        assert next(Snapshots(disk, Path("/data/snapshots")).good()).index in (20, 30)


def test_compaction_keeps_every_entry_behind_its_index():
    for to_index in range(20):
        disk = SimDisk(1)
        log = open_log(disk, segment_bytes=200)
        for i in range(1, 21):
            log.append(entries(i, i))
        log.compact(to_index)
        assert log.first_index <= to_index + 1


def test_what_a_killed_process_left_unsynced_is_made_durable_before_it_is_served():
    for seed in range(10):
        disk = SimDisk(seed)
        log = open_log(disk)
        log.append(entries(1, 30), sync=False)
        disk.restart()
        served = everything(open_log(disk))
        disk.power_cut()
        assert everything(open_log(disk)) == served


def test_one_sync_for_several_writes(disk):
    log = open_log(disk)
    before = disk.operations
    log.truncate_from(1)
    log.append(entries(1, 2), sync=False)
    log.append(entries(3, 3), hard_state=HardState(2, "c1"))
    assert disk.operations - before == 4  # three writes, one sync
    log.sync()
    assert disk.operations - before == 4
