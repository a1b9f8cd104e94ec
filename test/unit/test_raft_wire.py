"""Messages between members as bytes: they come back as they were, and their bytes stay what they are for ever."""

import typing

import pytest
from hypothesis import given, settings

from cloudless.api.v1 import raft_pb2 as pb
from cloudless.coordinator.raft import wire
from cloudless.coordinator.raft.core import messages as m
from cloudless.coordinator.raft.link import (
    AnyMessage,
    ChangeRequest,
    ChangeResponse,
    Forward,
    Forwarded,
    ForwardResult,
)
from cloudless.coordinator.wal.record import LogEntry
from cloudless.testing.raft_messages import any_message


def entries(*terms, start=8):
    return tuple(LogEntry(start + i, term, b"e%d" % i) for i, term in enumerate(terms))


GOLDEN = [
    (m.RequestVote(3, 9, 2, True, True), "0a0a0803100918022001 2801"),
    (m.VoteResponse(3, True), "120408031001"),
    (m.AppendEntries(3, 7, 2, 5, 300), "1a0b08031007180220052 8ac02"),
    (
        m.AppendEntries(3, 7, 2, 5, 1, entries(2, 3, 3)),
        "1a0a080310071802200528 01 1a18 32040802100132040803 1002 3a0265303a0265313a026532",
    ),
    (m.AppendResponse(3, False, 0, 1, 7, 6, 1), "220a080320012807 30063801"),
    (m.AppendResponse(3, True, 10, 1), "22080803 1001180a2001"),
    (m.TimeoutNow(3), "2a020803"),
    (m.SnapshotChunk(3, 9, 2, 4, 6, b"cf", b"da", 1), "3214 080310091802200428063202 6366 3a02 6461 4001"),
    (m.SnapshotResponse(3, 9, 6, True, 1), "3a0a 0803 1009 1806 2001 2801"),
    (m.ReadRequest(3, 77), "4204 0803 104d"),
    (m.ReadResponse(3, 77, 9), "4a06 0803 104d 1809"),
    (Forward(7, (b"a", b"")), "5207 0807 120161 1200"),
    (
        Forwarded(7, (ForwardResult(9, 3), ForwardResult(code="c", reason="R", message="m", remedy="y"))),
        "5a16 0807 1204 08091003 120c 1a0163 220152 2a016d 320179",
    ),
    (ChangeRequest(7, "add", "c4", "h:1"), "6210 0807 1203616464 1a026334 2203683a31"),
    (ChangeResponse(7, "NotLeader", "c2"), "6a11 0807 12094e6f744c6561646572 1a026332"),
]


@pytest.mark.parametrize(("message", "golden"), GOLDEN, ids=lambda value: type(value).__name__)
def test_bytes_are_what_they_were(message, golden):
    data = bytes.fromhex(golden.replace(" ", ""))
    assert wire.encode(message).hex() == data.hex()
    assert wire.decode(data) == message
    assert wire.decode(memoryview(data)) == message


def test_every_kind_of_message_has_golden_bytes():
    kinds = set(typing.get_args(AnyMessage))
    assert {type(message) for message, _ in GOLDEN} == kinds
    assert len(pb.RaftMessage.DESCRIPTOR.fields) == len(kinds)


@given(any_message)
@settings(max_examples=400, deadline=None)
def test_every_message_comes_back_as_it_was(message):
    assert wire.decode(wire.encode(message)) == message


def test_entries_are_encoded_once_for_all_followers():
    shared = entries(2, 2)
    first = wire.encode(m.AppendEntries(3, 7, 2, 5, 1, shared))
    again = wire.encode(m.AppendEntries(3, 7, 2, 5, 2, shared))
    assert wire.decode(first) == m.AppendEntries(3, 7, 2, 5, 1, shared)
    assert wire.decode(again) == m.AppendEntries(3, 7, 2, 5, 2, shared)
    other = tuple(LogEntry(entry.index, entry.term, b"other") for entry in shared)
    assert wire.decode(wire.encode(m.AppendEntries(3, 7, 2, 5, 2, other))).entries == other


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (m.AppendEntries(3, 6, 2, 5, 1, entries(2, 3)), "does not follow"),
        (m.AppendEntries(3, 7, 2, 5, 1, (LogEntry(8, 2, b""), LogEntry(10, 2, b""))), "not contiguous"),
        (m.AppendEntries(3, 7, 2, 5, 1, entries(2, 4)), "ascend"),
        (m.AppendEntries(3, 7, 2, 5, 1, entries(1, 3)), "ascend"),
        (m.AppendEntries(9, 7, 2, 5, 1, entries(2, 5, 4, 6)), "ascend"),
        (m.SnapshotChunk(3, 9, 2, 5, 6, b"", b"da"), "a snapshot of 6"),
        (Forward(1, (b"",) * (wire.ENTRIES_MAX + 1)), "more than 65536"),
        (Forward(1, (b"x" * wire.MESSAGE_BYTES_MAX,)), "is more than"),
        (Forwarded(1, (ForwardResult(message="m" * 5000),)), "longer than 4096"),
        (ChangeRequest(1, "add", "m" * 5000), "longer than 4096"),
        (m.TimeoutNow(-1), "range"),
        (m.TimeoutNow(2**64), "range"),
        (b"bytes", "no message"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_nobody_could_take_is_not_encoded(message, why):
    with pytest.raises(ValueError, match=why):
        wire.encode(message)


def append(**fields):
    return pb.RaftMessage(append_entries=pb.RaftAppendEntries(**fields))


def run(term, count):
    return pb.TermRun(term=term, count=count)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no kind"),
        (b"\xf2\x3f\x00", "no kind"),
        (b"garbage", "no message"),
        (b"\x62\x04\x12\x02\xff\xff", "no message"),  # a text that is not UTF-8
        (bytes(wire.MESSAGE_BYTES_MAX + 1), "more than"),
        (append(entries=[b"a"]), "do not add up"),
        (append(runs=[run(0, 1)]), "no entries"),
        (append(entries=[b"a"], runs=[run(0, 2)]), "do not add up"),
        (append(entries=[b"a"], runs=[run(0, 1), run(0, 0)]), "more runs"),
        (append(term=2, entries=[b"a", b"b"], runs=[run(1, 2), run(2, 0)]), "do not add up"),
        (append(term=2, entries=[b"a", b"b"], runs=[run(2, 1), run(1, 1)]), "ascend"),
        (append(term=2, entries=[b"a"], runs=[run(3, 1)]), "ascend"),
        (append(term=2, previous_term=2, entries=[b"a"], runs=[run(1, 1)]), "ascend"),
        (append(term=2, previous_index=2**64 - 1, entries=[b"a"], runs=[run(1, 1)]), "last possible"),
        (append(entries=[b""] * (wire.ENTRIES_MAX + 1)), "more than"),
        (append(term=1, entries=[b"a"], runs=[run(1, 2**32 - 1), run(1, 1)]), "more runs"),
        (pb.RaftMessage(snapshot_chunk=pb.RaftSnapshotChunk(offset=2**64 - 1, data=b"a")), "a snapshot of 0"),
        (pb.RaftMessage(change_response=pb.RaftChangeResponse(reason="x" * 4097)), "longer than"),
        (pb.RaftMessage(forwarded=pb.RaftForwarded(results=[pb.RaftForwardResult(remedy="x" * 4097)])), "longer"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_no_member_says_is_refused_in_words(data, why):
    with pytest.raises(ValueError, match=why):
        wire.decode(data if isinstance(data, bytes) else data.SerializeToString())
