"""The codec between members: whatever the bytes, a message that holds what it promises or a ValueError in words."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from cloudless.coordinator.raft import wire
from cloudless.coordinator.raft.core.messages import AppendEntries, SnapshotChunk
from cloudless.testing.raft_messages import any_message


@st.composite
def mutated(draw):
    data = bytearray(wire.encode(draw(any_message)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.integers(0, 3)):
            case 0:
                data[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case 1:
                data[at:at] = draw(st.binary(max_size=6))
            case 2:
                del data[at : at + draw(st.integers(1, 8))]
            case 3:
                data += wire.encode(draw(any_message))
    return bytes(data)


@given(st.one_of(st.binary(max_size=200), mutated()))
@settings(max_examples=1500, deadline=None)
@example(b"\x1a\x02\x3a\x00")
@example(b"\x1a\x7f")
def test_any_bytes_are_a_message_or_refused_in_words(data):
    refusal: Exception | None = None
    try:
        message = wire.decode(data)
    except Exception as error:
        refusal = error
    if refusal is not None:
        assert type(refusal) is ValueError
        assert str(refusal)
        return
    if isinstance(message, AppendEntries):
        index, term = message.previous_index, message.previous_term
        for entry in message.entries:
            assert entry.index == index + 1
            assert term <= entry.term <= message.term
            index, term = entry.index, entry.term
    if isinstance(message, SnapshotChunk):
        assert message.offset + len(message.data) <= message.total
    assert wire.decode(wire.encode(message)) == message
