"""Apply is total and deterministic on arbitrary entries, and its state never contradicts itself."""

import collections
import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st

from cloudless.api.v1 import log_pb2
from cloudless.coordinator.core import commands as c
from cloudless.coordinator.core import machine, snapshot, versions
from cloudless.coordinator.core.bounded import BoundedLog
from cloudless.coordinator.core.state import State
from cloudless.core.model import (
    JoinToken,
    NodeState,
    PlacementDecision,
    ReplicaPhase,
    ReplicaStatus,
    Role,
    RoleBinding,
    Taint,
    User,
)
from cloudless.core.spec import Metadata, TaintEffect, WorkloadType
from cloudless.testing.fabric_model import MIB, device, service
from cloudless.testing.strategies import instances

NODES = st.sampled_from(["a", "b", "c"])
NAMES = st.sampled_from(["web", "db"])
NAMESPACES = st.sampled_from(["default", "other"])
REPLICAS = st.sampled_from([f"r{i}" for i in range(6)])
PHASES = st.sampled_from(list(ReplicaPhase))
COORDINATORS = st.sampled_from(["c1", "c2", "c3"])
CPU = st.sampled_from([100, 400, 900])
EXPIRY = 1_000_000


def commands():
    """Commands that meet each other: few names, so that most of them find their object."""
    spec = st.builds(
        service,
        replicas=st.integers(0, 4),
        cpu_millis=CPU,
        image=st.sampled_from(["web:1", "web:2"]),
        kind=st.sampled_from([WorkloadType.SERVICE, WorkloadType.SYSTEM]),
    )
    planned = st.builds(
        c.PlannedReplica,
        REPLICAS,
        st.integers(1, 3),
        st.builds(PlacementDecision, node_id=NODES | st.just(""), summary=st.sampled_from(["x", "y"])),
        st.integers(-1, 3),
    )
    reported = st.builds(c.ReportedReplica, REPLICAS, st.builds(ReplicaStatus, phase=PHASES), st.booleans())
    token = st.builds(
        JoinToken, id=st.sampled_from(["t", "u"]), node_pattern=st.just("*"), max_uses=st.integers(0, 4),
        expires_at_ms=st.sampled_from([50, EXPIRY]),
    ) | st.builds(
        JoinToken, id=st.sampled_from(["j", "k"]), coordinator_id=COORDINATORS, max_uses=st.just(1),
        expires_at_ms=st.just(EXPIRY),
    )  # fmt: skip
    taint = st.builds(Taint, st.just("k"), st.just("v"), st.sampled_from(list(TaintEffect)))
    return st.one_of(
        st.builds(c.CreateToken, token),
        st.builds(c.RevokeToken, st.sampled_from(["t", "u"])),
        st.builds(c.EnrollNode, st.sampled_from(["t", "u"]), NODES, st.sampled_from(["k1", "k2"]), st.just("s")),
        st.builds(c.RenewCertificate, NODES, st.just("k3"), st.just("s")),
        st.builds(
            c.UpdateNode, NODES, st.none() | st.booleans(), st.none() | st.booleans(), set_taints=st.tuples(taint)
        ),
        st.builds(c.RemoveNode, NODES, st.booleans()),
        st.builds(
            c.ReportNode,
            NODES,
            st.none() | st.sampled_from(list(NodeState)),
            st.just("why"),
            st.none()
            | st.builds(device, cpu_millis=st.sampled_from([0, 500, 1000, 2000]), memory_bytes=st.just(512 * MIB)),
        ),
        st.builds(c.PutWorkload, st.builds(Metadata, NAMES, NAMESPACES), spec, st.none() | st.integers(0, 5)),
        st.builds(c.ScaleWorkload, NAMESPACES, NAMES, st.integers(0, 4)),
        st.builds(c.DeleteWorkload, NAMESPACES, NAMES),
        st.builds(c.RestartWorkload, NAMESPACES, NAMES),
        st.builds(
            c.ApplyPlan,
            NAMESPACES,
            NAMES,
            st.integers(0, 40),
            st.lists(planned, max_size=3).map(tuple),
            st.lists(st.builds(c.PlannedStop, REPLICAS, st.just("why")), max_size=2).map(tuple),
            st.lists(REPLICAS, max_size=2).map(tuple),
        ),
        st.builds(c.ReportReplicas, NODES, st.lists(reported, max_size=3).map(tuple)),
        st.builds(
            c.PutUser, st.builds(User, NAMES, st.tuples(st.builds(RoleBinding, st.just(Role.ADMIN), NAMESPACES)))
        ),
        st.builds(c.RevokeUser, NAMES),
        st.builds(c.NoOp),
        st.builds(
            c.EnrollCoordinator,
            st.sampled_from(["t", "j", "k"]),
            COORDINATORS,
            st.sampled_from(["k1", "k2"]),
            log_schema=st.integers(1, 3),
        ),
        st.builds(
            c.AnnounceCoordinator,
            COORDINATORS,
            st.sampled_from(["1.0", "1.1"]),
            st.integers(1, 3),
            st.sampled_from([(), ("h:1",)]),
        ),
        st.builds(c.RemoveCoordinator, COORDINATORS),
        st.builds(c.RecordEvent, st.sampled_from(["security.x", "cluster.y", "node.lost"])),
    )


def populated():
    """Entries after which there are three nodes and two workloads with a replica each."""
    yield c.CreateToken(JoinToken("t", "*", max_uses=9, expires_at_ms=EXPIRY))
    for node in "abc":
        yield c.EnrollNode("t", node, "k1", "s", 1)
        yield c.ReportNode(node, NodeState.READY, "", device(cpu_millis=1000, memory_bytes=512 * MIB))
    for number, name in enumerate(("web", "db")):
        yield c.PutWorkload(Metadata(name, "default"), service(replicas=2, cpu_millis=400))
        yield c.ApplyPlan(
            "default", name, 0, (c.PlannedReplica(f"r{number}", 1, PlacementDecision(node_id="a", summary="x")),)
        )


ENTRIES = st.lists(
    st.tuples(commands(), st.sampled_from(["", "", "", "id-1", "id-2", "id-3"]), st.integers(0, 100)), max_size=30
)


def log_of(entries):
    start = [c.encode(c.Entry(c.SCHEMA, "", 1, "user/x", command)) for command in populated()]
    rest = [c.encode(c.Entry(c.SCHEMA, rid, now, "user/x", command)) for command, rid, now in entries]
    return start + rest


def run(state, log, *, first=1, check=False):
    answers = []
    for index, data in enumerate(log, first):
        before = state
        applied = machine.apply(state, data, index=index, term=1, strict=True)
        state = applied.state
        answers.append(applied.result)
        if check:
            state.validate()
            check_step(before, applied, index)
    return state, answers


def check_step(before, applied, index):
    result, after = applied.result, applied.state
    if not result.accepted:
        assert result.code
        assert result.reason
        assert (applied.changes, applied.events) == ((), ())
        assert dataclasses.replace(after, results=before.results, request_ids=before.request_ids) == before
    assert versions.level(after) >= versions.level(before), "what all understand never becomes less"
    for name, coordinator in before.coordinators.items():
        assert not coordinator.removed or after.coordinators[name] == coordinator, "an id is used once"
    for position, event in enumerate(applied.events):
        assert (event.index, event.sequence) == (index, position)
    maps = {"node": "nodes", "replica": "replicas", "token": "tokens", "user": "users", "workload": "workloads",
            "coordinator": "coordinators"}  # fmt: skip
    told = {(ch.kind, (ch.namespace, ch.key) if ch.kind == "workload" else ch.key): ch for ch in applied.changes}
    assert len(told) == len(applied.changes)
    for kind, field in maps.items():
        old, new = getattr(before, field), getattr(after, field)
        for key in {*old, *new}:
            if old.get(key) != new.get(key):
                change = told[kind, key]
                assert change.deleted is (key not in new)
                assert change.deleted or new[key].revision == index
    for node_id, used in after.reserved.items():
        if used != before.reserved.get(node_id) and node_id in before.nodes:
            grew = used.cpu_millis > before.reserved.get(node_id, type(used)()).cpu_millis
            assert not grew or used.cpu_millis <= after.nodes[node_id].device.capacity.cpu_millis


@settings(deadline=None, max_examples=150)
@given(ENTRIES)
def test_invariants_hold_after_each_entry_and_a_replay_gives_the_same(entries):
    log = log_of(entries)
    state, answers = run(State.empty("t"), log, check=True)
    again, same = run(State.empty("t"), log)
    assert (again, same) == (state, answers)
    assert snapshot.state_hash(again) == snapshot.state_hash(state)


@settings(deadline=None, max_examples=75)
@given(ENTRIES, st.integers(0, 40))
def test_a_member_that_starts_from_a_snapshot_agrees_with_its_peers(entries, at):
    log = log_of(entries)
    whole, answers = run(State.empty("t"), log)
    part, _ = run(State.empty("t"), log[:at])
    restored, index, term = snapshot.decode(snapshot.encode(part, index=at, term=7))
    assert (restored, index, term) == (part, at, 7)
    rest, rest_answers = run(restored, log[at:], first=at + 1)
    assert rest == whole
    assert rest_answers == answers[at:]
    assert snapshot.state_hash(rest) == snapshot.state_hash(whole)


@settings(deadline=None, max_examples=75)
@given(ENTRIES)
def test_repeating_an_entry_has_no_second_effect(entries):
    log = log_of([(command, f"unique-{n}", now) for n, (command, _, now) in enumerate(entries)])
    state = State.empty("t")
    for index, data in enumerate(log, 1):
        first = machine.apply(state, data, index=index, term=1)
        state = first.state
        if c.decode(data).request_id:
            repeat = machine.apply(state, data, index=index + 1000, term=2)
            assert repeat.state is state
            assert repeat.result == first.result


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_never_raise(data):
    applied = machine.apply(State.empty("t"), data, index=1, term=1, strict=True)
    applied.state.validate()


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_arbitrary_commands_never_raise_and_can_be_stored(data):
    """Any value that the wire can carry, in any field of any command, on a state with something in it."""
    state, _ = run(State.empty("t"), log_of([]))
    cls = data.draw(st.sampled_from(list(c.FIELD_OF)))
    command = data.draw(instances(cls))
    now = data.draw(st.sampled_from([-(2**63), -1, 0, 1, 2**63 - 1]))
    entry = c.encode(c.Entry(c.SCHEMA, data.draw(st.sampled_from(["", "r"])), now, "x", command))
    assert c.decode(entry) == c.decode(c.encode(c.decode(entry)))
    applied = machine.apply(state, entry, index=50, term=1, strict=True)
    applied.state.validate()
    stored = snapshot.encode(applied.state, index=50, term=1)
    assert snapshot.encode(snapshot.decode(stored)[0], index=50, term=1) == stored


@settings(deadline=None, max_examples=75)
@given(st.data())
def test_damaged_entries_never_raise(data):
    valid = c.encode(c.Entry(c.SCHEMA, "r", 1, "x", data.draw(commands())))
    position = data.draw(st.integers(0, len(valid) - 1))
    damaged = valid[:position] + bytes([data.draw(st.integers(0, 255))]) + valid[position + 1 :]
    state, _ = run(State.empty("t"), log_of([]))
    machine.apply(state, damaged, index=50, term=1, strict=True).state.validate()


def test_an_entry_of_a_later_version_is_refused_by_this_one():
    entry = log_pb2.RaftEntry(schema=1).SerializeToString() + b"\xf2\x3f\x00"  # field 1022, unknown here
    state = State.empty("t")
    applied = machine.apply(state, entry, index=1, term=1)
    assert applied.state is state
    assert applied.result.reason == "BadEntry"


@given(st.integers(1, 600), st.lists(st.integers(0, 300), max_size=12))
def test_a_bounded_log_keeps_the_newest(limit, sizes):
    log, model, number = BoundedLog(limit), collections.deque(maxlen=limit), 0
    for size in sizes:
        entries = range(number, number + size)
        number += size
        everything = [*model, *entries]
        log, gone = log.extended(entries)
        model.extend(entries)
        assert list(gone) == everything[: len(everything) - len(model)]
        assert list(log) == list(model)
        assert list(log.newest_first()) == list(reversed(model))
        assert len(log) == len(model)
