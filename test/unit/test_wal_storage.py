"""What engines with a disk share: log and snapshots together, snapshots in pieces, where terms begin."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from cloudless.clock import SystemClock
from cloudless.config import StoreConfig
from cloudless.coordinator.engine import EngineParts
from cloudless.coordinator.wal import snapshots as snapshot_files
from cloudless.coordinator.wal.incoming import Incoming
from cloudless.coordinator.wal.log import Log
from cloudless.coordinator.wal.record import LogEntry
from cloudless.coordinator.wal.snapshots import Snapshots, StoredSnapshot
from cloudless.coordinator.wal.storage import Storage
from cloudless.errors import Corrupt, DiskFull
from cloudless.testing.disk import PowerCut, SimDisk

DIR = Path("/data")
GOLDEN = Path(__file__).parents[1] / "golden" / "wal"


class Host:
    """A `StateHost` whose state is the list of what was applied; a snapshot's body says its index and term."""

    def __init__(self) -> None:
        self.applied_index = self.applied_term = 0
        self.data = []

    def apply(self, entry: LogEntry) -> None:
        assert entry.index == self.applied_index + 1
        self.applied_index, self.applied_term = entry.index, entry.term
        self.data.append(entry.data)

    def load(self, body: bytes) -> tuple[int, int]:
        index, term = (int(word) for word in body.split())
        self.applied_index, self.applied_term = index, term
        return index, term


@pytest.fixture
def disk():
    return SimDisk(3)


def snapshot(index, term=1, configuration=b"") -> StoredSnapshot:
    return StoredSnapshot(index, term, f"{index} {term}".encode(), configuration)


def open_storage(disk, host=None, **kwargs) -> Storage:
    disk.make_dir(DIR)
    parts = EngineParts(
        directory=DIR,
        member="c1",
        config=StoreConfig(segment_bytes=400),
        filesystem=disk,
        run_blocking=disk.run_blocking,
        clock=SystemClock(),
        seconds=disk.seconds,
        random_bits=lambda bits: 7,
        on_failure=lambda _: None,
    )
    return Storage.open(parts, host or Host(), **kwargs)


def entries(first, last, *, term=1, data=b"data") -> list[LogEntry]:
    return [LogEntry(index, term, data) for index in range(first, last + 1)]


def append(storage, found) -> None:
    for entry in found:
        storage.wal.append([entry])


# The log


def test_where_terms_begin(disk):
    log = open_storage(disk).wal
    assert log.term_runs() == ()
    for found in (entries(1, 5), entries(6, 6, term=4), entries(7, 20, term=5)):
        log.append(found)
    assert log.term_runs() == ((1, 1), (6, 4), (7, 5))
    log.append([*entries(21, 21, term=5), *entries(22, 23, term=6), *entries(24, 24, term=9)])
    runs = ((1, 1), (6, 4), (7, 5), (22, 6), (24, 9))
    assert log.term_runs() == runs
    assert open_storage(SimDisk()).wal.term_runs() == ()
    log.close()
    log = open_storage(disk).wal
    assert log.term_runs() == runs
    assert [log.term_at(i) for i in (0, 1, 5, 6, 7, 21, 22, 24)] == [0, 1, 1, 4, 5, 5, 6, 9]
    log.truncate_from(24)
    log.truncate_from(22)
    assert log.term_runs() == runs[:3]
    log.truncate_from(7)
    log.append(entries(7, 40, term=10))
    assert log.term_runs() == ((1, 1), (6, 4), (7, 10))
    log.append(entries(41, 41, term=10))
    log.compact(20)
    assert (log.base_index, log.base_term) == (log.first_index - 1, log.term_at(log.first_index - 1))
    assert log.first_index == 7
    assert log.term_runs() == ((7, 10),)
    log.reset(50, 11)
    assert (log.base_index, log.base_term, log.last_index, log.term_runs()) == (50, 11, 50, ())


def test_the_engines_own_entries_are_noticed_as_far_as_they_are_still_there(disk):
    storage = open_storage(disk)
    own = [LogEntry(i, t, b"\x00" + bytes([65 + i])) for i, t in ((2, 1), (5, 2), (30, 3))]
    append(
        storage, [*entries(1, 1), own[0], *entries(3, 4), own[1], LogEntry(6, 2, b"\x00void"), *entries(7, 8, term=2)]
    )
    storage.wal.truncate_from(6)
    append(storage, [LogEntry(6, 3, b""), *entries(7, 29, term=3), own[2], *entries(31, 40, term=3)])
    storage.close()
    noticed = []
    storage = open_storage(disk, notice=noticed.append)
    assert noticed == own
    storage.wal.compact(28)
    storage.close()
    assert storage.wal.base_index >= 5
    with pytest.raises(Corrupt):
        open_storage(disk)
    Snapshots(disk, DIR / "snapshots").save(snapshot(28, 3))
    noticed.clear()
    open_storage(disk, notice=noticed.append)
    assert noticed == own[2:]


def test_following_a_snapshot_keeps_what_comes_behind_it_only_where_the_log_has_its_entry(disk):
    log = open_storage(disk).wal
    log.append([*entries(1, 10), *entries(11, 20, term=2)])
    assert log.follow(15, 2)
    assert (log.base_index, log.last_index) == (0, 20)
    assert not log.follow(15, 3)
    assert (log.base_index, log.base_term, log.last_index) == (15, 3, 15)
    log.append(entries(16, 17, term=3))
    assert log.follow(15, 3)
    assert not log.follow(18, 3)
    assert (log.base_index, log.last_index) == (18, 18)
    assert not log.follow(9, 1)


# Recovery


def test_the_snapshot_is_loaded_and_what_is_behind_it_is_replayed_on_demand(disk):
    storage = open_storage(disk)
    assert storage.start is None
    append(storage, entries(1, 50))
    storage.save_snapshot(snapshot(20, configuration=b"three"))
    assert storage.save_snapshot(snapshot(40, configuration=b"five"))[1] > 0
    assert 0 < storage.wal.base_index <= 20
    storage.close()
    host = Host()
    storage = open_storage(disk, host)
    assert storage.start == StoredSnapshot(40, 1, b"", b"five")
    assert (host.applied_index, host.data) == (40, [])
    storage.replay(host, to_index=45)
    assert host.applied_index == 45
    storage.replay(host, to_index=50)
    assert len(host.data) == 10


@pytest.mark.parametrize(("term", "installs", "refused"), [(2, True, False), (2, False, True), (1, True, True)])
def test_a_log_with_another_leaders_entries_below_an_installed_snapshot(disk, term, installs, refused):
    storage = open_storage(disk)
    append(storage, [*entries(1, 5), *entries(6, 29, term=1 if term == 2 else 3), LogEntry(30, 3, b"\x00late")])
    storage.close()
    Snapshots(disk, DIR / "snapshots").save(snapshot(20, term))
    noticed = []
    if refused:
        with pytest.raises(Corrupt, match="not of the same history"):
            open_storage(disk, installs=installs)
        return
    host = Host()
    storage = open_storage(disk, host, installs=installs, notice=noticed.append)
    assert (storage.wal.base_index, storage.wal.base_term, storage.wal.last_index) == (20, term, 20)
    assert host.applied_index == 20
    assert noticed == [], "they are of the part of the log that is void"


# Snapshots in pieces


def send(disk, source: Snapshots, index: int, incoming: Incoming, piece: int = 7) -> None:
    while incoming.offset < source.file_size(index):
        incoming.append(source.read_part(index, incoming.offset, piece))


@pytest.mark.parametrize("configuration", [b"", b"who was a member"])
def test_a_snapshot_goes_to_another_member_in_pieces(disk, configuration):
    source, target = Snapshots(disk, Path("/from")), open_storage(disk)
    original = snapshot(30, 4, configuration)
    assert source.save(original) == source.file_size(30)
    incoming = target.incoming(30, source.file_size(30))
    send(disk, source, 30, incoming)
    assert target.snapshots.indexes() == ()
    assert incoming.finish() == original
    incoming.discard()
    disk.power_cut()
    assert Snapshots(disk, DIR / "snapshots").read(30) == original
    assert target.snapshots.newest() == 30
    assert not target.follow(30, 4)
    assert disk.list_names(DIR / "snapshots") == (snapshot_files.file_name(30),)


@pytest.mark.parametrize("damage", ["flip", "short", "other"])
def test_a_damaged_or_unfinished_arrival_is_removed(disk, damage):
    source, target = Snapshots(disk, Path("/from")), Snapshots(disk, DIR)
    source.save(snapshot(30))
    data = source.read_part(30, 0, source.file_size(30))
    incoming = Incoming(target, 31 if damage == "other" else 30, len(data))
    if damage == "flip":
        data = data[:-1] + bytes([data[-1] ^ 1])
    incoming.append(data[:-1] if damage == "short" else data)
    with pytest.raises(ValueError, match="bytes of a snapshot of"):
        incoming.append(bytes(9))
    with pytest.raises(Corrupt):
        incoming.finish()
    assert disk.list_names(DIR) == ()
    assert target.newest() == 0


def test_an_arrival_on_a_full_disk_leaves_nothing(disk):
    source, target = Snapshots(disk, Path("/from")), Snapshots(disk, DIR)
    source.save(StoredSnapshot(30, 1, bytes(1000)))
    incoming = Incoming(target, 30, source.file_size(30))
    incoming.append(source.read_part(30, 0, 500))
    disk.capacity_bytes = disk.used_bytes() + 10
    with pytest.raises(DiskFull, match="snapshot of index 30"):
        incoming.append(source.read_part(30, 500, 500))
    assert disk.list_names(DIR) == ()
    incoming.discard()


def test_a_crash_at_any_point_of_an_arrival_leaves_the_old_snapshot_or_the_new_one():
    for at in range(1, 30):
        disk = SimDisk(at)
        source, target = Snapshots(disk, Path("/from")), open_storage(disk)
        append(target, entries(1, 12))
        target.save_snapshot(snapshot(10))
        source.save(snapshot(30, 4, b"configuration"))
        disk.cut_power_at = disk.operations + at
        try:
            incoming = target.incoming(30, source.file_size(30))
            send(disk, source, 30, incoming, piece=30)
            incoming.finish()
            target.follow(30, 4)
        except PowerCut:
            pass
        disk.power_cut()
        host = Host()
        again = open_storage(disk, host, installs=True)
        again.replay(host, to_index=again.wal.last_index)
        assert (host.applied_index, again.wal.last_index) in ((12, 12), (30, 30))
        assert [n for n in disk.list_names(DIR / "snapshots") if not n.endswith(".snap")] == []
        again.wal.append([LogEntry(again.wal.last_index + 1, 5, b"next")])


def test_what_is_being_sent_is_kept_with_the_log_behind_it(disk):
    storage = open_storage(disk)
    append(storage, entries(1, 100))
    storage.save_snapshot(snapshot(10))
    storage.snapshots.hold(10)
    for index in (30, 50, 70):
        storage.save_snapshot(snapshot(index))
    assert storage.snapshots.indexes() == (70, 50, 10)
    assert storage.wal.base_index <= 10
    assert storage.snapshots.read_part(10, 0, 8) == snapshot_files.MAGIC
    storage.snapshots.release(10)
    storage.save_snapshot(snapshot(90))
    assert storage.snapshots.indexes() == (90, 70)
    assert 30 < storage.wal.base_index <= 70
    with pytest.raises(FileNotFoundError):
        storage.snapshots.read_part(10, 0, 8)
    with pytest.raises(KeyError):
        storage.snapshots.file_size(10)


def test_leftovers_are_removed_at_the_start(disk):
    folder = DIR / "snapshots"
    disk.make_dir(folder)
    for name in ("00000000000000000007.tmp", "00000000000000000009.incoming"):
        disk.open_append(folder / name).append(b"half")
    open_storage(disk)
    assert disk.list_names(folder) == ()


def test_format_2_writes_and_reads_the_golden_bytes():
    golden = bytes.fromhex((GOLDEN / "snapshot-2.hex").read_text())
    stored = StoredSnapshot(7, 3, b"the state", b"the members")
    assert snapshot_files.encode(stored) == golden
    assert snapshot_files.decode(golden) == stored
    for end in range(len(golden)):
        with pytest.raises(ValueError, match=r"it has|its configuration has"):
            snapshot_files.decode(golden[:end])


def test_a_large_snapshot_is_read_and_written_without_its_configuration_getting_lost(disk, monkeypatch):
    monkeypatch.setattr(snapshot_files, "_FIRST_READ_BYTES", 70)
    monkeypatch.setattr(snapshot_files, "_PIECE_BYTES", 100)
    for length in (0, 20, 25, 26, 27, 40, 5000):
        stored = StoredSnapshot(length + 1, 3, bytes(length), b"c")
        Snapshots(disk, DIR).save(stored)
        assert Snapshots(disk, DIR).read(length + 1) == stored


def test_a_scan_stops_where_the_record_says_something_impossible():
    disk = SimDisk()
    log = Log.open(disk, DIR, segment_bytes=10**6, salt=lambda: 1, seconds=disk.seconds)
    log.append(entries(1, 3))
    log.append(entries(4, 4))
    file = SimpleNamespace(path=DIR / "0000000000000001.wal")
    good = disk.read(file.path)
    for at in range(60, len(good)):
        disk.restart()
        changed = SimDisk()
        changed.make_dir(DIR)
        changed.open_append(file.path).append(good[:at] + bytes([good[at] ^ 0x40]) + good[at + 1 :])
        try:
            found = Log.open(changed, DIR, segment_bytes=10**6, salt=lambda: 1, seconds=disk.seconds)
        except Corrupt:
            assert at < len(good) - 44, "only what was not synced before may be cut"
        else:
            assert found.last_index == 3
