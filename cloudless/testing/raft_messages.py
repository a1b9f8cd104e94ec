"""Hypothesis strategies for what members say to each other."""

from __future__ import annotations

from hypothesis import strategies as st

from cloudless.coordinator.raft.core import messages as m
from cloudless.coordinator.raft.link import ChangeRequest, ChangeResponse, Forward, Forwarded, ForwardResult
from cloudless.coordinator.wal.record import LogEntry

_numbers = st.one_of(st.integers(0, 300), st.integers(0, 2**64 - 1))
_texts = st.text(max_size=20)
_data = st.binary(max_size=40)


@st.composite
def append_entries(draw: st.DrawFn) -> m.AppendEntries:
    steps = draw(st.lists(st.one_of(st.just(0), st.integers(0, 3)), max_size=8))
    previous_index = draw(st.integers(0, 2**64 - 10))
    previous_term = term = draw(st.integers(0, 2**63))
    entries = []
    for offset, step in enumerate(steps, 1):
        term += step
        entries.append(LogEntry(previous_index + offset, term, draw(_data)))
    return m.AppendEntries(
        term + draw(st.integers(0, 3)), previous_index, previous_term, draw(_numbers), draw(_numbers), tuple(entries)
    )


@st.composite
def snapshot_chunks(draw: st.DrawFn) -> m.SnapshotChunk:
    data, offset = draw(_data), draw(st.integers(0, 2**60))
    total = offset + len(data) + draw(st.integers(0, 100))
    return m.SnapshotChunk(
        draw(_numbers), draw(_numbers), draw(_numbers), offset, total, draw(_data), data, draw(_numbers)
    )


any_message = st.one_of(
    append_entries(),
    snapshot_chunks(),
    st.builds(m.RequestVote, _numbers, _numbers, _numbers, st.booleans(), st.booleans()),
    st.builds(m.VoteResponse, _numbers, st.booleans(), st.booleans()),
    st.builds(m.AppendResponse, _numbers, st.booleans(), _numbers, _numbers, _numbers, _numbers, _numbers),
    st.builds(m.TimeoutNow, _numbers),
    st.builds(m.SnapshotResponse, _numbers, _numbers, _numbers, st.booleans(), _numbers),
    st.builds(m.ReadRequest, _numbers, _numbers),
    st.builds(m.ReadResponse, _numbers, _numbers, _numbers),
    st.builds(Forward, _numbers, st.lists(_data, max_size=5).map(tuple)),
    st.builds(
        Forwarded,
        _numbers,
        st.lists(st.builds(ForwardResult, _numbers, _numbers, _texts, _texts, _texts, _texts), max_size=4).map(tuple),
    ),
    st.builds(ChangeRequest, _numbers, _texts, _texts, _texts),
    st.builds(ChangeResponse, _numbers, _texts, _texts),
)
