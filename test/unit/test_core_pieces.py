"""Large messages in pieces of whole fields."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudless.api.v1 import log_pb2
from cloudless.coordinator.core import pieces, snapshot
from cloudless.coordinator.core.outcome import ApplyResult, RememberedResult
from cloudless.coordinator.core.state import State
from cloudless.core.model import Event, JoinToken, Node, Replica, ReplicaPhase, ReplicaStatus, WorkloadRecord
from cloudless.core.spec import Metadata, ResourceAmounts, WorkloadSpec, WorkloadType


def message(users: int, text: int) -> log_pb2.StateSnapshot:
    found = log_pb2.StateSnapshot(schema=2, index=2**62, term=300, trust_domain="x" * text)
    for number in range(users):
        found.users.add(name=f"u{number}" * (1 + number % 40))
        found.coordinators.add(id=f"c{number}")
    return found


@pytest.mark.parametrize("piece_bytes", [1, 10, 300, 10**6])
@pytest.mark.parametrize(("users", "text"), [(0, 0), (1, 127), (50, 128), (400, 20_000)])
def test_the_pieces_are_messages_that_make_up_the_whole(users, text, piece_bytes):
    whole = message(users, text)
    data = whole.SerializeToString()
    found = list(pieces.split(data, piece_bytes=piece_bytes))
    assert b"".join(found) == data
    assert all(len(piece) >= piece_bytes for piece in found[:-1])
    merged = log_pb2.StateSnapshot()
    for piece in found:
        merged.MergeFromString(piece)
    assert merged == whole


def test_fields_of_a_later_version_are_passed_over():
    later = b"\x81\x01" + bytes(8) + b"\x8d\x01" + bytes(4) + b"\x92\x01\x03abc" + b"\x98\x01\xff\xff\x03"
    data = message(3, 3).SerializeToString() + later
    found = list(pieces.split(data, piece_bytes=1))
    assert b"".join(found) == data
    assert found[-4:] == [later[:10], later[10:16], later[16:22], later[22:]]


@given(st.binary(max_size=60), st.integers(1, 20))
def test_whatever_the_bytes_they_are_split_or_refused(data, piece_bytes):
    try:
        found = list(pieces.split(data, piece_bytes=piece_bytes))
    except ValueError:
        return
    assert b"".join(found) == data


def test_a_cut_message_is_refused():
    data = message(3, 200).SerializeToString()
    ends = {sum(map(len, list(pieces.split(data, piece_bytes=1))[:count])) for count in range(100)}
    for end in range(len(data)):
        if end in ends:
            continue
        with pytest.raises(ValueError, match=r"ends inside|number"):
            list(pieces.split(data[:end], piece_bytes=1))


@pytest.mark.parametrize("count", [0, 1, 1999, 2000, 2001, 9000])
def test_keys_in_order(count):
    keys = [f"{number:x}" for number in range(count)]
    random.Random(count).shuffle(keys)
    assert list(pieces.in_order(keys)) == sorted(keys)


def a_large_state() -> State:
    state = State.empty("large.example")
    for number in range(90):
        state = state.with_node(Node(id=f"n{number}"))
        spec = WorkloadSpec(type=WorkloadType.SYSTEM) if number % 9 == 0 else WorkloadSpec()
        state = state.with_workload(WorkloadRecord(metadata=Metadata(name=f"w{number}", namespace="x"), spec=spec))
        state = state.with_token(JoinToken(id=f"t{number}", expires_at_ms=5000 - number))
    for number in range(700):
        placed = number % 7 > 0
        replica = Replica(
            id=f"r{number}",
            workload=f"w{number % 90}",
            namespace="x",
            node_id=f"n{number % 89}" if placed else "",
            status=ReplicaStatus(phase=ReplicaPhase.RUNNING if placed else ReplicaPhase.PENDING, message="m" * 200),
            fragment=ResourceAmounts(100, 2**62) if placed else ResourceAmounts(),
        )
        state = state.with_replica(replica)
    state = state.with_outcome([Event(index=number, description=f"e{number}") for number in range(500)], None)
    return state.with_results([RememberedResult(f"q{n}", n, ApplyResult(accepted=True)) for n in range(500)])


def test_a_state_of_many_pieces_keeps_its_bytes_and_its_indexes():
    state = a_large_state()
    data = snapshot.encode(state, index=8, term=3)
    assert len(list(pieces.split(data, piece_bytes=64 * 2**10))) > 2
    whole = log_pb2.StateSnapshot.FromString(data)
    assert whole.SerializeToString(deterministic=True) == data, "as one message with everything is written"
    assert [len(whole.nodes), len(whole.replicas), len(whole.results)] == [90, 700, 500]
    assert snapshot.decode(data) == (state, 8, 3)
    assert snapshot.decode(data)[0].reserved == state.reserved
