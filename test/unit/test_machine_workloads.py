"""Workloads, users, de-duplication and the machine's own promises."""

import dataclasses

import pytest

from cloudless.coordinator.core import commands as c
from cloudless.coordinator.core import machine
from cloudless.coordinator.core.apply_workloads import HISTORY_KEPT, REPLICAS_MAX
from cloudless.coordinator.core.snapshot import state_hash
from cloudless.coordinator.core.state import State, spec_of_generation
from cloudless.core.model import Role, RoleBinding, User
from cloudless.core.spec import Container, Metadata, ResourceAmounts, Resources, Rollout, WorkloadSpec, WorkloadType
from cloudless.errors import Conflict
from cloudless.testing.fabric_model import NAMESPACE, Fabric, refusal, service

KEY = (NAMESPACE, "web")
META = Metadata("web", NAMESPACE)


@pytest.fixture
def fabric():
    return Fabric()


def test_create_then_put_again_changes_nothing(fabric):
    first = fabric.put("web", service(replicas=2))
    assert (first.result.changed, first.result.revision) == ("created", 1)
    again = fabric.put("web", service(replicas=2))
    assert (again.result.changed, again.result.revision) == ("unchanged", 1)
    assert (again.changes, again.events, again.state) == ((), (), first.state)


@pytest.mark.parametrize(
    ("metadata", "spec", "generation"),
    [
        (META, service(image="web:2"), 2),
        (META, service(cpu_millis=7), 2),
        (META, service(replicas=9), 1),
        (META, service(rollout=Rollout(max_surge=3)), 1),
        (META, dataclasses.replace(service(), priority=7), 1),
        (dataclasses.replace(META, labels={"a": "b"}), service(), 1),
        (dataclasses.replace(META, annotations={"a": "b"}), service(), 1),
    ],
)
def test_only_a_change_of_what_replicas_run_makes_a_generation(fabric, metadata, spec, generation):
    fabric.put("web", service())
    applied = fabric.apply(c.PutWorkload(metadata, spec))
    assert applied.result.changed == "updated"
    record = fabric.state.workloads[KEY]
    assert (record.generation, record.revision, record.spec, record.metadata) == (generation, 2, spec, metadata)
    types = [e.type for e in applied.events]
    assert types == (["workload.updated", "workload.rollout_started"] if generation == 2 else ["workload.updated"])


@pytest.mark.parametrize(
    ("exists", "expected", "accepted"),
    [(False, 0, True), (False, 3, False), (True, 0, False), (True, 1, True), (True, 2, False), (True, None, True)],
)
def test_expected_revision(fabric, exists, expected, accepted):
    if exists:
        fabric.put("web", service())
    applied = fabric.apply(c.PutWorkload(META, service(image="web:2"), expected))
    assert applied.result.accepted is accepted
    if not accepted:
        assert refusal(applied) == ("conflict", "RevisionMismatch")


@pytest.mark.parametrize(
    ("metadata", "spec", "reason"),
    [
        (Metadata("", NAMESPACE), service(), "BadName"),
        (Metadata("Web", NAMESPACE), service(), "BadName"),
        (Metadata("web", ""), service(), "BadName"),
        (META, service(replicas=-1), "BadReplicas"),
        (META, service(replicas=REPLICAS_MAX + 1), "BadReplicas"),
        (META, WorkloadSpec(), "NoContainers"),
        (META, service(cpu_millis=-1), "NegativeResources"),
        (
            META,
            WorkloadSpec(containers=(Container("a", resources=Resources(limits=ResourceAmounts(pids=-1))),)),
            "NegativeResources",
        ),
    ],
)
def test_what_would_break_the_state_is_refused(fabric, metadata, spec, reason):
    assert refusal(fabric.apply(c.PutWorkload(metadata, spec))) == ("invalid_argument", reason)


def test_history_keeps_what_runs_and_the_newest(fabric):
    fabric.join("a")
    fabric.put("web", service(image="web:1"))
    fabric.settle()
    for version in range(2, 30):
        fabric.put("web", service(image=f"web:{version}"))
    record = fabric.state.workloads[KEY]
    generations = [revision.generation for revision in record.history]
    assert generations == [1, *range(30 - HISTORY_KEPT, 30)]
    assert spec_of_generation(record, 1).containers[0].image == "web:1"
    assert spec_of_generation(record, 2) is None
    fabric.settle()
    fabric.put("web", service(image="web:30"))
    assert [r.generation for r in fabric.state.workloads[KEY].history] == list(range(30 - HISTORY_KEPT + 1, 31))


def test_scaling_replaces_nothing(fabric):
    fabric.put("web", service(replicas=1))
    applied = fabric.apply(c.ScaleWorkload(NAMESPACE, "web", 3))
    record = fabric.state.workloads[KEY]
    assert (applied.result.changed, record.spec.replicas, record.generation) == ("updated", 3, 1)
    assert [e.type for e in applied.events] == ["workload.scaled"]
    assert fabric.apply(c.ScaleWorkload(NAMESPACE, "web", 3)).result.changed == "unchanged"
    assert refusal(fabric.apply(c.ScaleWorkload(NAMESPACE, "web", -1)))[1] == "BadReplicas"
    assert refusal(fabric.apply(c.ScaleWorkload(NAMESPACE, "x", 1))) == ("not_found", "WorkloadUnknown")
    fabric.put("each", service(kind=WorkloadType.SYSTEM))
    assert refusal(fabric.apply(c.ScaleWorkload(NAMESPACE, "each", 1))) == ("failed_precondition", "SystemWorkload")


def test_a_restart_is_a_generation_with_the_same_spec(fabric):
    fabric.put("web", service())
    fabric.apply(c.RestartWorkload(NAMESPACE, "web"))
    record = fabric.state.workloads[KEY]
    assert (record.generation, record.spec, len(record.history)) == (2, service(), 2)


def test_a_workload_without_replicas_is_deleted_at_once(fabric):
    fabric.put("web", service(replicas=0))
    applied = fabric.apply(c.DeleteWorkload(NAMESPACE, "web"))
    assert applied.result.changed == "deleted"
    assert fabric.state.workloads.get(KEY) is None
    assert [e.type for e in applied.events] == ["workload.deleted"]
    assert refusal(fabric.apply(c.DeleteWorkload(NAMESPACE, "web"))) == ("not_found", "WorkloadUnknown")


def test_a_workload_stays_until_its_last_replica_is_gone(fabric):
    fabric.join("a")
    fabric.put("web", service(replicas=2))
    fabric.put("big", service(cpu_millis=10**6))
    fabric.settle()
    fabric.apply(c.DeleteWorkload(NAMESPACE, "big"))  # pending only
    assert (NAMESPACE, "big") not in fabric.state.workloads
    fabric.apply(c.DeleteWorkload(NAMESPACE, "web"))
    assert all(r.stopping for r in fabric.replicas("web"))
    again = fabric.apply(c.DeleteWorkload(NAMESPACE, "web"))
    assert again.result.changed == "unchanged"
    for refused in (
        c.PutWorkload(META, service()),
        c.ScaleWorkload(NAMESPACE, "web", 1),
        c.RestartWorkload(NAMESPACE, "web"),
    ):
        assert refusal(fabric.apply(refused)) == ("failed_precondition", "WorkloadDeleting")
    fabric.settle()
    assert KEY not in fabric.state.workloads
    assert fabric.put("web", service()).result.changed == "created"


# -- users ------------------------------------------------------------------------------------------------


def test_a_refusal_that_quotes_a_long_text_is_cut(fabric):
    applied = fabric.apply(c.DeleteWorkload(NAMESPACE, "x" * 100_000), request_id="r")
    assert len(applied.result.message) == len(fabric.state.results["r"].result.message) == 2048


def test_a_long_remedy_is_cut(fabric, monkeypatch):
    def refuse(*_):
        raise Conflict("taken", reason="Taken", remedy="y" * 100_000)

    monkeypatch.setitem(machine.APPLY, c.NoOp, refuse)
    applied = fabric.apply(c.NoOp(), request_id="r")
    assert (applied.result.code, applied.result.message, applied.result.reason) == ("conflict", "taken", "Taken")
    assert applied.result.remedy == fabric.state.results["r"].result.remedy == "y" * 512


def test_the_last_administrator_stays(fabric):
    admin, viewer = (RoleBinding(Role.ADMIN, "*"),), (RoleBinding(Role.VIEWER, "*"),)
    fabric.apply(c.PutUser(User("alice", admin)))
    fabric.apply(c.PutUser(User("nell", (RoleBinding(Role.ADMIN, "default"),))))  # of one namespace: is none
    for change in (c.RevokeUser("alice"), c.PutUser(User("alice", viewer)), c.PutUser(User("alice"))):
        assert refusal(fabric.apply(change)) == ("failed_precondition", "LastAdmin")
    assert fabric.apply(c.PutUser(User("bob", admin))).result.accepted
    assert fabric.apply(c.RevokeUser("alice")).result.accepted
    assert refusal(fabric.apply(c.RevokeUser("bob"))) == ("failed_precondition", "LastAdmin")
    assert fabric.apply(c.RevokeUser("nell")).result.accepted


def test_users(fabric):
    admin = (RoleBinding(Role.ADMIN, "*"),)
    fabric.apply(c.PutUser(User("root", admin)))
    assert fabric.apply(c.PutUser(User("alice", admin, revoked=True))).result.changed == "created"
    assert not fabric.state.users["alice"].revoked
    assert fabric.apply(c.PutUser(User("alice", admin))).result.changed == "unchanged"
    viewer = (RoleBinding(Role.VIEWER, "default"),)
    assert fabric.apply(c.PutUser(User("alice", viewer))).result.changed == "updated"
    assert fabric.state.users["alice"].bindings == viewer
    assert fabric.apply(c.RevokeUser("alice")).result.changed == "updated"
    assert fabric.apply(c.RevokeUser("alice")).result.changed == "unchanged"
    assert refusal(fabric.apply(c.PutUser(User("alice", admin)))) == ("failed_precondition", "UserRevoked")
    assert refusal(fabric.apply(c.PutUser(User("A B")))) == ("invalid_argument", "BadUserName")
    assert refusal(fabric.apply(c.PutUser(User("bob", (RoleBinding(Role.ADMIN),)))))[1] == "BadRoleBinding"
    assert refusal(fabric.apply(c.RevokeUser("bob"))) == ("not_found", "UserUnknown")


# -- the machine ------------------------------------------------------------------------------------------


def test_a_repeated_request_gets_the_first_answer_and_no_second_effect(fabric):
    first = fabric.apply(c.PutWorkload(META, service()), request_id="r1")
    fabric.apply(c.DeleteWorkload(NAMESPACE, "web"), request_id="r2")
    repeat = fabric.apply(c.PutWorkload(META, service()), request_id="r1")
    assert repeat.result == first.result
    assert (repeat.changes, repeat.events) == ((), ())
    assert KEY not in fabric.state.workloads


def test_a_refusal_is_remembered_too(fabric):
    first = fabric.apply(c.DeleteWorkload(NAMESPACE, "web"), request_id="r1")
    fabric.put("web", service())
    assert fabric.apply(c.DeleteWorkload(NAMESPACE, "web"), request_id="r1").result == first.result
    assert KEY in fabric.state.workloads


def test_only_so_many_answers_are_remembered_oldest_first():
    state = State.empty("t")
    state = dataclasses.replace(state, request_ids=dataclasses.replace(state.request_ids, limit=3))
    for n in range(5):
        data = c.encode(c.Entry(c.SCHEMA, f"r{n}", 0, "a", c.NoOp()))
        state = machine.apply(state, data, index=n + 1, term=1).state
    assert sorted(state.results) == ["r2", "r3", "r4"]
    state.validate()


def test_garbage_is_refused_and_changes_nothing(fabric):
    fabric.put("web", service())
    for data in (b"", b"\x00", b"garbage", bytes(range(256))):
        applied = machine.apply(fabric.state, data, index=2, term=1)
        assert applied.state is fabric.state
        assert applied.result.reason == "BadEntry"
        assert applied.result.code == "invalid_argument"


def test_a_bug_is_an_answer_in_production_and_an_exception_in_tests(fabric, monkeypatch):
    def broken(t, command):
        t.remove_tokens(["x"])  # KeyError after a write would be lost as well
        raise AssertionError

    monkeypatch.setattr(machine, "APPLY", {**machine.APPLY, c.NoOp: broken})
    data = c.encode(c.Entry(c.SCHEMA, "r1", 0, "a", c.NoOp()))
    before = state_hash(fabric.state)
    applied = machine.apply(fabric.state, data, index=1, term=1)
    assert (applied.result.code, applied.result.reason) == ("internal", "Internal")
    assert applied.state.results["r1"].result == applied.result
    assert (
        state_hash(
            dataclasses.replace(applied.state, results=fabric.state.results, request_ids=fabric.state.request_ids)
        )
        == before
    )
    with pytest.raises(KeyError):
        machine.apply(fabric.state, data, index=1, term=1, strict=True)
