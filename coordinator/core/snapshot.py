"""The whole state as bytes, in canonical order: equal states have equal bytes, whatever led to them."""

from __future__ import annotations

import hashlib
from typing import Final

from google.protobuf.message import DecodeError

from cloudless.api.v1 import convert, log_pb2
from cloudless.coordinator.core.outcome import RememberedResult
from cloudless.coordinator.core.state import State
from cloudless.core.model import Coordinator, Event, JoinToken, Node, Replica, User, WorkloadRecord
from cloudless.errors import Corrupt

SCHEMA: Final = 2  # the newest that this version reads and writes; schema 2 has coordinators and their tokens


def encode(state: State, *, index: int, term: int) -> bytes:
    """The snapshot of `state` as of log index `index`, whose entry was of `term`."""
    message = log_pb2.StateSnapshot(schema=_schema_of(state), index=index, term=term, trust_domain=state.trust_domain)
    for node_id in sorted(state.nodes):
        convert.fill(state.nodes[node_id], message.nodes.add())
    for key in sorted(state.workloads):
        convert.fill(state.workloads[key], message.workloads.add())
    for replica_id in sorted(state.replicas):
        convert.fill(state.replicas[replica_id], message.replicas.add())
    for token_id in sorted(state.tokens):
        convert.fill(state.tokens[token_id], message.tokens.add())
    for name in sorted(state.users):
        convert.fill(state.users[name], message.users.add())
    for event in state.events:
        convert.fill(event, message.events.add())
    for request_id in state.request_ids:
        convert.fill(state.results[request_id], message.results.add())
    for coordinator_id in sorted(state.coordinators):
        convert.fill(state.coordinators[coordinator_id], message.coordinators.add())
    data: bytes = message.SerializeToString(deterministic=True)
    return data


def decode(data: bytes) -> tuple[State, int, int]:
    """The state, its log index and term. Raises Corrupt for bytes that are no snapshot of this version."""
    try:
        message = log_pb2.StateSnapshot.FromString(data)
    except DecodeError as error:
        raise Corrupt(f"not a snapshot: {error}", reason="BadSnapshot") from None
    if not 1 <= message.schema <= SCHEMA:
        raise Corrupt(
            f"snapshot has schema {message.schema}, this version knows 1 to {SCHEMA}",
            reason="BadSnapshot",
            remedy="start a version of the coordinator that knows it",
        )
    state = State.empty(message.trust_domain)
    for node in message.nodes:
        state = state.with_node(convert.from_proto(node, Node))
    for record in message.workloads:
        state = state.with_workload(convert.from_proto(record, WorkloadRecord))
    for replica in message.replicas:
        state = state.with_replica(convert.from_proto(replica, Replica))
    for token in message.tokens:
        state = state.with_token(convert.from_proto(token, JoinToken))
    for user in message.users:
        state = state.with_user(convert.from_proto(user, User))
    for coordinator in message.coordinators:
        state = state.with_coordinator(convert.from_proto(coordinator, Coordinator))
    state = state.with_events([convert.from_proto(event, Event) for event in message.events])
    state = state.with_results([convert.from_proto(result, RememberedResult) for result in message.results])
    return state, message.index, message.term


def _schema_of(state: State) -> int:
    """The oldest schema that holds all of the state: a version that would drop a part must refuse the whole."""
    newer = bool(state.coordinators) or any(token.coordinator_id for token in state.tokens.values())
    return 2 if newer else 1


def state_hash(state: State) -> str:
    """SHA-256 (hex) of the state, without the index and term at which it was reached."""
    return hashlib.sha256(encode(state, index=0, term=0)).hexdigest()
