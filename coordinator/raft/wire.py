"""Messages between members as bytes, and back (`cloudless/api/v1/raft.proto`).

The entries of an AppendEntries go to several followers: they are encoded once for each tuple of entries, so a caller
that hands the same tuple to all of them pays once.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise, repeat
from typing import Any, Final

from google.protobuf.message import DecodeError

from cloudless.api.v1 import raft_pb2 as pb
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

MESSAGE_BYTES_MAX: Final = 32 * 2**20
ENTRIES_MAX: Final = 65_536  # of one message
TEXT_CHARACTERS_MAX: Final = 4_096  # of a reason for people; ids and addresses are far shorter
_INDEX_MAX: Final = 2**64 - 1
_SHARED_KEPT: Final = 2  # one that all followers get, and one for a follower that is behind

_shared: tuple[tuple[tuple[LogEntry, ...], bytes], ...] = ()


def encode(message: AnyMessage) -> bytes:
    """Raises ValueError for a message that no member could take: too large, or against the rules that `decode` has."""
    try:
        encoder = _ENCODERS[type(message)]
    except KeyError:
        raise ValueError(f"{type(message).__name__} is no message between members") from None
    data = encoder(message)
    if len(data) > MESSAGE_BYTES_MAX:
        raise ValueError(f"a {type(message).__name__} of {len(data)} bytes is more than {MESSAGE_BYTES_MAX}")
    return data


def decode(data: bytes | memoryview) -> AnyMessage:
    """What `encode` made. Raises ValueError, which says why, for anything else. What a message promises about itself
    holds then: entries are contiguous and their terms ascend up to the sender's, a chunk lies within its snapshot."""
    if len(data) > MESSAGE_BYTES_MAX:
        raise ValueError(f"{len(data)} bytes are more than {MESSAGE_BYTES_MAX}")
    try:
        outer = pb.RaftMessage.FromString(data)
    except DecodeError:
        raise ValueError("no message between members") from None
    kind = outer.WhichOneof("message")
    if kind is None:
        raise ValueError("a message of no kind that this version knows")
    return _DECODERS[kind](getattr(outer, kind))


def _encode_append(message: m.AppendEntries) -> bytes:
    entries = message.entries
    head: bytes = pb.RaftMessage(
        append_entries=pb.RaftAppendEntries(
            term=message.term,
            previous_index=message.previous_index,
            previous_term=message.previous_term,
            commit_index=message.commit_index,
            round=message.round,
        )
    ).SerializeToString()
    if not entries:
        return head
    if entries[0].index != message.previous_index + 1:
        raise ValueError(f"entry {entries[0].index} does not follow {message.previous_index}")
    if entries[0].term < message.previous_term or entries[-1].term > message.term:
        raise ValueError("the terms of entries ascend up to the sender's")
    # Two encodings of a message one behind the other are the encoding of both merged (protobuf's encoding rules).
    return head + _encode_entries(entries)


def _encode_entries(entries: tuple[LogEntry, ...]) -> bytes:
    global _shared
    for known, encoded in _shared:
        if known is entries:
            return encoded
    _check_count(len(entries))
    part = pb.RaftMessage()
    inner = part.append_entries
    first, last = entries[0], entries[-1]
    if last.index != first.index + len(entries) - 1:
        raise ValueError(f"entries {first.index} to {last.index} are not contiguous")
    if first.term == last.term:
        inner.runs.add(term=first.term, count=len(entries))
    else:
        _add_runs(inner, entries)
    inner.entries.extend([entry.data for entry in entries])
    data: bytes = part.SerializeToString()
    _shared = ((entries, data), *_shared[: _SHARED_KEPT - 1])
    return data


def _add_runs(inner: pb.RaftAppendEntries, entries: tuple[LogEntry, ...]) -> None:
    run = inner.runs.add(term=entries[0].term)
    for entry in entries:
        if entry.term < run.term:
            raise ValueError("the terms of entries ascend")
        if entry.term > run.term:
            run = inner.runs.add(term=entry.term)
        run.count += 1


def _decode_append(inner: pb.RaftAppendEntries) -> m.AppendEntries:
    data = inner.entries
    entries: tuple[LogEntry, ...] = ()
    if data:
        count, index = len(data), inner.previous_index + 1
        _check_count(count)
        if index + count - 1 > _INDEX_MAX:
            raise ValueError("entries behind the last possible index")
        runs = inner.runs
        if len(runs) == 1 and runs[0].count == count:
            _check_terms((inner.previous_term, runs[0].term, inner.term))
            entries = tuple(map(LogEntry, range(index, index + count), repeat(runs[0].term), data))
        else:
            entries = tuple(map(LogEntry, range(index, index + count), _terms(inner, count), data))
    elif inner.runs:
        raise ValueError("terms of no entries")
    return m.AppendEntries(
        inner.term, inner.previous_index, inner.previous_term, inner.commit_index, inner.round, entries
    )


def _terms(inner: pb.RaftAppendEntries, count: int) -> list[int]:
    if len(inner.runs) > count:
        raise ValueError("more runs of terms than entries")
    _check_terms((inner.previous_term, *[run.term for run in inner.runs], inner.term))
    if sum(run.count for run in inner.runs) != count or any(run.count == 0 for run in inner.runs):
        raise ValueError(f"the terms of {count} entries do not add up to so many")
    terms: list[int] = []
    for run in inner.runs:
        terms += [run.term] * run.count
    return terms


def _check_terms(terms: tuple[int, ...]) -> None:
    if any(after < before for before, after in pairwise(terms)):
        raise ValueError("the terms of entries ascend up to the sender's")


def _check_count(count: int) -> None:
    if count > ENTRIES_MAX:
        raise ValueError(f"{count} in one message are more than {ENTRIES_MAX}")


def _wrapped(**inner: Any) -> bytes:
    data: bytes = pb.RaftMessage(**inner).SerializeToString()
    return data


def _text(text: str) -> str:
    if len(text) > TEXT_CHARACTERS_MAX:
        raise ValueError(f"a text of {len(text)} characters is longer than {TEXT_CHARACTERS_MAX}")
    return text


def _encode_chunk(message: m.SnapshotChunk) -> bytes:
    _check_chunk(message.offset, len(message.data), message.total)
    inner = pb.RaftSnapshotChunk(
        term=message.term,
        index=message.index,
        last_term=message.last_term,
        offset=message.offset,
        total=message.total,
        configuration=message.configuration,
        data=message.data,
        round=message.round,
    )
    return _wrapped(snapshot_chunk=inner)


def _decode_chunk(inner: pb.RaftSnapshotChunk) -> m.SnapshotChunk:
    data = inner.data
    _check_chunk(inner.offset, len(data), inner.total)
    return m.SnapshotChunk(
        inner.term,
        inner.index,
        inner.last_term,
        inner.offset,
        inner.total,
        inner.configuration,
        data,
        inner.round,
    )


def _check_chunk(offset: int, length: int, total: int) -> None:
    if offset + length > total:
        raise ValueError(f"a piece up to {offset + length} of a snapshot of {total} bytes")


def _encode_forward(message: Forward) -> bytes:
    _check_count(len(message.entries))
    return _wrapped(forward=pb.RaftForward(id=message.id, entries=message.entries))


def _decode_forward(inner: pb.RaftForward) -> Forward:
    _check_count(len(inner.entries))
    return Forward(inner.id, tuple(inner.entries))


def _encode_forwarded(message: Forwarded) -> bytes:
    _check_count(len(message.results))
    results = [
        pb.RaftForwardResult(
            index=result.index,
            term=result.term,
            code=_text(result.code),
            reason=_text(result.reason),
            message=_text(result.message),
            remedy=_text(result.remedy),
        )
        for result in message.results
    ]
    return _wrapped(forwarded=pb.RaftForwarded(id=message.id, results=results))


def _decode_forwarded(inner: pb.RaftForwarded) -> Forwarded:
    _check_count(len(inner.results))
    return Forwarded(
        inner.id,
        tuple(
            ForwardResult(r.index, r.term, _text(r.code), _text(r.reason), _text(r.message), _text(r.remedy))
            for r in inner.results
        ),
    )


def _plain(kind: type[Any], field: str, proto: type[Any]) -> None:
    """Registers a message whose fields are numbers, truth values and texts, with the same names on both sides."""
    names = tuple(kind.__dataclass_fields__)
    assert names == tuple(proto.DESCRIPTOR.fields_by_name), (kind, proto)
    texts = tuple(name for name in names if proto.DESCRIPTOR.fields_by_name[name].type == _STRING)

    def to_bytes(message: Any) -> bytes:
        for name in texts:
            _text(getattr(message, name))
        inner = proto(**{name: getattr(message, name) for name in names})
        return _wrapped(**{field: inner})

    def from_proto(inner: Any) -> Any:
        for name in texts:
            _text(getattr(inner, name))
        return kind(*[getattr(inner, name) for name in names])

    _ENCODERS[kind] = to_bytes
    _DECODERS[field] = from_proto


_STRING: Final = pb.MemberHello.DESCRIPTOR.fields_by_name["member_id"].type

_ENCODERS: Final[dict[type[Any], Callable[[Any], bytes]]] = {
    m.AppendEntries: _encode_append,
    m.SnapshotChunk: _encode_chunk,
    Forward: _encode_forward,
    Forwarded: _encode_forwarded,
}
_DECODERS: Final[dict[str, Callable[[Any], AnyMessage]]] = {
    "append_entries": _decode_append,
    "snapshot_chunk": _decode_chunk,
    "forward": _decode_forward,
    "forwarded": _decode_forwarded,
}

_plain(m.RequestVote, "request_vote", pb.RaftRequestVote)
_plain(m.VoteResponse, "vote_response", pb.RaftVoteResponse)
_plain(m.AppendResponse, "append_response", pb.RaftAppendResponse)
_plain(m.TimeoutNow, "timeout_now", pb.RaftTimeoutNow)
_plain(m.SnapshotResponse, "snapshot_response", pb.RaftSnapshotResponse)
_plain(m.ReadRequest, "read_request", pb.RaftReadRequest)
_plain(m.ReadResponse, "read_response", pb.RaftReadResponse)
_plain(ChangeRequest, "change_request", pb.RaftChangeRequest)
_plain(ChangeResponse, "change_response", pb.RaftChangeResponse)
