"""Parsers of the bytes on disk: whatever the bytes, a documented error or a sound result."""

import contextlib
import itertools
import zlib
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from cloudless.coordinator.wal import record, snapshots
from cloudless.coordinator.wal.log import Log
from cloudless.coordinator.wal.record import BadRecord, Kind, LogEntry
from cloudless.errors import Corrupt
from cloudless.testing.disk import SimDisk

DIR = Path("/wal")
SALT = 77

whole_records = st.builds(
    lambda kind, term, index, payload, synced: record.encode(
        kind, term=term, index=index, payload=payload, synced=synced, salt=SALT
    ),
    st.sampled_from(Kind),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.binary(max_size=60),
    st.integers(0, 2**32 - 1),
)
some_bytes = st.lists(st.one_of(whole_records, st.binary(max_size=80), st.just(record.MAGIC)), max_size=6).map(b"".join)


@given(some_bytes, st.integers(0, 500))
@settings(max_examples=400, deadline=None)
@example(record.MAGIC * 30, 0)
def test_a_record_is_good_or_bad(data, offset):
    with contextlib.suppress(BadRecord):
        found = record.decode(data, offset, salt=SALT)
        again = record.encode(
            found.kind, term=found.term, index=found.index, payload=found.payload, synced=found.synced, salt=SALT
        )
        assert data[offset : found.end] == again
    for later in record.good_records_after(data, offset, salt=SALT):
        assert later.offset > offset


@given(st.one_of(st.binary(max_size=120), some_bytes))
@settings(max_examples=300, deadline=None)
def test_a_segment_head_is_good_or_bad(data):
    try:
        head, end = record.decode_segment_head(data)
    except BadRecord:
        return
    assert record.encode_segment_head(head) == data[:end]


@given(some_bytes, st.integers(0, 3))
@settings(max_examples=400, deadline=None)
def test_a_log_with_anything_behind_its_head_opens_or_is_corrupt(tail, good):
    disk = SimDisk()
    log = Log.open(disk, DIR, segment_bytes=2**20, salt=lambda: SALT, seconds=disk.seconds)
    written = [LogEntry(i, 1, b"x") for i in range(1, good + 1)]
    log.append(written)
    log.close()
    (name,) = disk.list_names(DIR)
    disk.open_append(DIR / name).append(tail)
    refusal: Corrupt | None = None
    try:
        again = Log.open(disk, DIR, segment_bytes=2**20, salt=lambda: SALT, seconds=disk.seconds)
    except Corrupt as error:
        refusal = error
    if refusal:
        assert name in refusal.message
        assert refusal.remedy
        return
    found = again.entries(again.first_index, again.last_index + 1)
    assert [e.index for e in found] == list(range(again.first_index, again.last_index + 1))
    again.append([LogEntry(again.last_index + 1, again.last_term, b"more")])


@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=8), st.booleans())
@settings(max_examples=400, deadline=None)
def test_an_overwritten_log_never_yields_a_wrong_entry(at, garbage, cut):
    disk = SimDisk()
    salts = itertools.count(SALT)
    log = Log.open(disk, DIR, segment_bytes=400, salt=lambda: next(salts), seconds=disk.seconds)
    written = [LogEntry(i, 1, b"entry %d" % i * 3) for i in range(1, 13)]
    for i in range(0, 12, 2):
        log.append(written[i : i + 2])
    log.close()
    names = disk.list_names(DIR)
    path = DIR / names[at % len(names)]
    content = bytearray(disk.read(path))
    offset = at % len(content)
    content[offset : offset + len(garbage)] = garbage
    del content[len(disk.read(path)) :]
    if cut:
        del content[offset:]
    file = disk.open_append(path)
    file.truncate(0)
    file.append(bytes(content))
    try:
        again = Log.open(disk, DIR, segment_bytes=400, salt=lambda: next(salts), seconds=disk.seconds)
    except Corrupt:
        return
    found = again.entries(1, again.last_index + 1)
    assert found == written[: len(found)]


@given(st.binary(max_size=100), st.binary(max_size=20), st.integers(0, 120), st.binary(max_size=4))
@settings(max_examples=400, deadline=None)
def test_a_snapshot_is_whole_or_refused(body, configuration, at, garbage):
    good = snapshots.encode(snapshots.StoredSnapshot(5, 2, body, configuration))
    data = good[:at] + garbage + good[at + len(garbage) :]
    for candidate in (data, garbage, good[:at]):
        try:
            found = snapshots.decode(candidate)
        except ValueError:
            assert candidate != good
        else:
            assert found == snapshots.StoredSnapshot(5, 2, body, configuration)
            assert zlib.crc32(candidate) == zlib.crc32(good)
