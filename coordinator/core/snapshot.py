"""The whole state as bytes, in canonical order: equal states have equal bytes, whatever led to them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from io import BytesIO
from itertools import islice
from typing import Any, Final

from google.protobuf.message import DecodeError
from immutables import Map

from cloudless.api.v1 import convert, log_pb2
from cloudless.coordinator.core import pieces
from cloudless.coordinator.core.building import StateBuilder
from cloudless.coordinator.core.outcome import RememberedResult
from cloudless.coordinator.core.state import State
from cloudless.core.model import Coordinator, Event, JoinToken, Node, Replica, User, WorkloadRecord
from cloudless.errors import Corrupt

# The newest that this version reads and writes. 2 has coordinators and their tokens; 3 rollouts, runs, and how steady
# nodes are.
SCHEMA: Final = 3

_WRITE_OBJECTS: Final = 64  # at once
_READ_BYTES: Final = 64 * 2**10


def encode(state: State, *, index: int, term: int) -> bytes:
    """The snapshot of `state` as of log index `index`, whose entry was of `term`. Other threads get their turns."""
    out = BytesIO()
    head = log_pb2.StateSnapshot(schema=_schema_of(state), index=index, term=term, trust_domain=state.trust_domain)
    out.write(head.SerializeToString(deterministic=True))
    # By field number, as one message with all of it would be written.
    _write(out, "nodes", _by_key(state.nodes))
    _write(out, "workloads", _by_key(state.workloads))
    _write(out, "replicas", _by_key(state.replicas))
    _write(out, "tokens", _by_key(state.tokens))
    _write(out, "users", _by_key(state.users))
    _write(out, "events", iter(state.events))
    _write(out, "results", (state.results[request_id] for request_id in state.request_ids))
    _write(out, "coordinators", _by_key(state.coordinators))
    return out.getvalue()


def _by_key(objects: Map[Any, Any]) -> Iterator[Any]:
    return (objects[key] for key in pieces.in_order(objects))


def _write(out: BytesIO, field: str, objects: Iterator[Any]) -> None:
    while True:
        message = log_pb2.StateSnapshot()
        add = getattr(message, field).add
        count = 0
        for domain_object in islice(objects, _WRITE_OBJECTS):
            convert.fill(domain_object, add())
            count += 1
        out.write(message.SerializeToString(deterministic=True))
        if count < _WRITE_OBJECTS:
            return


def decode(data: bytes) -> tuple[State, int, int]:
    """The state, its log index and term. Raises Corrupt for bytes that are no snapshot of this version. Other threads
    get their turns."""
    builder = StateBuilder()
    schema, index, term, trust_domain = 0, 0, 0, ""
    try:
        for piece in pieces.split(data, piece_bytes=_READ_BYTES):
            message = log_pb2.StateSnapshot.FromString(piece)
            schema = message.schema or schema
            _check_schema(schema)  # it comes first: what follows may be of a newer one
            index, term = message.index or index, message.term or term
            trust_domain = message.trust_domain or trust_domain
            _read(message, builder)
    except (DecodeError, ValueError) as error:
        raise Corrupt(f"not a snapshot: {error}", reason="BadSnapshot") from None
    _check_schema(schema)
    return builder.finish(trust_domain), index, term


def _read(message: log_pb2.StateSnapshot, builder: StateBuilder) -> None:
    for node in message.nodes:
        builder.add_node(convert.from_proto(node, Node))
    for record in message.workloads:
        builder.add_workload(convert.from_proto(record, WorkloadRecord))
    for replica in message.replicas:
        builder.add_replica(convert.from_proto(replica, Replica))
    for token in message.tokens:
        builder.add_token(convert.from_proto(token, JoinToken))
    for user in message.users:
        builder.add_user(convert.from_proto(user, User))
    for coordinator in message.coordinators:
        builder.add_coordinator(convert.from_proto(coordinator, Coordinator))
    builder.add_events([convert.from_proto(event, Event) for event in message.events])
    builder.add_results([convert.from_proto(result, RememberedResult) for result in message.results])


def _check_schema(schema: int) -> None:
    if not 1 <= schema <= SCHEMA:
        raise Corrupt(
            f"snapshot has schema {schema}, this version knows 1 to {SCHEMA}",
            reason="BadSnapshot",
            remedy="start a version of the coordinator that knows it",
        )


def _schema_of(state: State) -> int:
    """The oldest schema that holds all of the state: a version that would drop a part must refuse the whole."""
    if any(record.rollout or record.runs for record in state.workloads.values()) or any(
        node.reliability or node.presence or node.clock_skew_ms or node.device.owner for node in state.nodes.values()
    ):
        return 3
    newer = bool(state.coordinators) or any(token.coordinator_id for token in state.tokens.values())
    return 2 if newer else 1


def state_hash(state: State) -> str:
    """SHA-256 (hex) of the state, without the index and term at which it was reached."""
    return hashlib.sha256(encode(state, index=0, term=0)).hexdigest()
