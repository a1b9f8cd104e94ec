"""What the loop does about services: tables of situations, run with real entries and modelled agents."""

import dataclasses
import itertools

import pytest

from cloudless.coordinator.core import commands as c
from cloudless.coordinator.core.reconcile import reconcile
from cloudless.coordinator.core.reconcile.census import next_attempt, retry_at_ms
from cloudless.coordinator.core.reconcile.draft import ENTRIES_MAX
from cloudless.coordinator.core.reconcile.service import DRAIN_PATIENCE_MS, bounds
from cloudless.coordinator.core.scheduler import Weights
from cloudless.core.model import NodeState, Replica, ReplicaPhase, Taint, WorkloadRecord
from cloudless.core.spec import (
    Backoff,
    Disruption,
    ReconnectRule,
    RestartPolicy,
    Rollout,
    RolloutStrategy,
    TaintEffect,
    Toleration,
)
from cloudless.testing.fabric_model import MIB, NAMESPACE, Fabric, device, service

KEY = (NAMESPACE, "web")
ROLLING = RolloutStrategy.ROLLING_UPDATE


def fabric_of(*names, **info):
    fabric = Fabric()
    for name in names:
        fabric.join(name, info=device(**info) if info else None)
    return fabric


def plan(fabric, seed=1):
    return reconcile(fabric.state, *KEY, now_ms=fabric.now_ms, weights=Weights(), usage={}, id_seed=seed)


def generations(fabric):
    return sorted(r.generation for r in fabric.replicas("web") if not r.stopping)


def test_the_wanted_number_is_kept():
    fabric = fabric_of("a", "b")
    fabric.put("web", service(replicas=3))
    fabric.settle()
    assert len(fabric.ready("web")) == 3
    assert plan(fabric).commands == ()
    for replicas in (5, 1, 0):
        fabric.apply(c.ScaleWorkload(NAMESPACE, "web", replicas))
        fabric.settle()
        assert len(fabric.ready("web")) == len(fabric.replicas("web")) == replicas


def test_a_plan_is_a_function_of_its_arguments():
    fabric = fabric_of("a", "b")
    fabric.put("web", service(replicas=3))
    assert plan(fabric) == plan(fabric)
    assert plan(fabric) != plan(fabric, seed=2)
    ids = [r.replica_id for r in plan(fabric).commands[0].replicas]
    assert len(set(ids)) == 3
    assert all(i.startswith("web-") and len(i) == 9 for i in ids)


def test_a_repeated_seed_never_gives_a_taken_id():
    fabric = fabric_of("a")
    fabric.put("web", service(replicas=1))
    fabric.apply(plan(fabric).commands[0])
    fabric.apply(c.ScaleWorkload(NAMESPACE, "web", 2))
    (new,) = plan(fabric).commands[0].replicas
    assert new.replica_id not in fabric.state.replicas


def test_the_id_of_a_long_name_is_still_a_dns_label():
    fabric = fabric_of("a")
    name = "w" * 63
    fabric.put(name, service())
    fabric.settle()
    (replica,) = fabric.replicas(name)
    assert len(replica.id) == 63
    assert len(fabric.ready(name)) == 1


def test_plans_are_bounded_and_go_on():
    fabric = fabric_of("a", cpu_millis=10**6, memory_bytes=10**6 * MIB)
    fabric.put("web", service(replicas=ENTRIES_MAX + 50, cpu_millis=1, memory_bytes=MIB))
    assert len(plan(fabric).commands[0].replicas) == ENTRIES_MAX
    fabric.settle()
    assert len(fabric.ready("web")) == ENTRIES_MAX + 50
    fabric.apply(c.ScaleWorkload(NAMESPACE, "web", 0))
    assert len(plan(fabric).commands[0].stops) == ENTRIES_MAX
    fabric.settle()
    assert fabric.replicas("web") == []


def test_unknown_and_deleted_workloads_need_no_plan():
    fabric = fabric_of("a")
    assert plan(fabric) == type(plan(fabric))()
    fabric.put("web", service())
    fabric.settle()
    fabric.apply(c.DeleteWorkload(*KEY))
    assert plan(fabric) == type(plan(fabric))()


def test_pending_replicas_wait_without_noise_until_there_is_room():
    fabric = fabric_of("a", cpu_millis=250)
    fabric.put("web", service(replicas=4))
    fabric.settle()
    assert len(fabric.ready("web")) == 2
    pending = [r for r in fabric.replicas("web") if not r.node_id]
    assert [r.status.message for r in pending] == ["no node fits: insufficient cpu on 1 node"] * 2
    entries = len(fabric.log)
    fabric.dirty.add(KEY)
    fabric.settle()
    assert len(fabric.log) == entries
    fabric.join("b")
    fabric.settle()
    assert len(fabric.ready("web")) == 4
    assert {r.id for r in pending} <= {r.id for r in fabric.ready("web")}


def test_room_that_another_workload_frees_is_used():
    fabric = fabric_of("a", cpu_millis=200)
    fabric.put("other", service(replicas=2))
    fabric.settle()
    fabric.put("web", service(replicas=1))
    fabric.settle()
    assert fabric.ready("web") == []
    fabric.apply(c.ScaleWorkload(NAMESPACE, "other", 1))
    fabric.settle()
    assert len(fabric.ready("web")) == 1


# -- failures ---------------------------------------------------------------------------------------------


def test_the_first_failure_is_replaced_at_once_and_later_ones_ever_later():
    fabric = fabric_of("a", "b")
    fabric.fails = lambda replica: True
    fabric.put("web", service())
    failures = []

    def note(applied):
        failures.extend(fabric.now_ms for e in applied.events if e.type == "replica.failed")

    fabric.observers.append(note)
    fabric.settle()
    start = fabric.now_ms
    fabric.advance(3_600_000)
    delays = [later - earlier for earlier, later in itertools.pairwise(failures)]
    assert delays[:10] == [0, 1000, 2000, 4000, 8000, 16000, 32000, 64000, 128000, 256000]
    assert set(delays[10:]) == {300_000}
    assert failures[0] == start
    assert len(fabric.replicas("web")) == 1


@pytest.mark.parametrize(
    ("attempt", "lived_ms", "following", "delay_ms"),
    [(0, 5, 1, 0), (1, 5, 2, 50), (2, 5, 3, 100), (5, 5, 6, 400), (5, 5000, 1, 0), (10**6, 5, 32, 400)],
)
def test_backoff(attempt, lived_ms, following, delay_ms):
    policy = RestartPolicy(backoff=Backoff(initial_ms=50, max_ms=400, reset_ms=5000))
    record = WorkloadRecord(spec=dataclasses.replace(service(), restart_policy=policy))
    failed = Replica("x", attempt=attempt, assigned_at_ms=1000, phase_since_ms=1000 + lived_ms)
    assert next_attempt(failed, record) == following
    assert retry_at_ms(failed, record) == failed.phase_since_ms + delay_ms


def test_what_works_again_is_kept():
    fabric = fabric_of("a")
    fabric.fails = lambda replica: replica.attempt < 3
    fabric.put("web", service(replicas=2))
    fabric.settle()
    fabric.advance(60_000)
    assert [r.attempt for r in fabric.ready("web")] == [3, 3]


# -- nodes that go and come back --------------------------------------------------------------------------


@pytest.fixture
def away():
    """Three replicas on three nodes; a has been out of reach for a second."""
    fabric = fabric_of("a", "b", "c")
    fabric.put("web", service(replicas=3, disruption=Disruption(offline_grace_ms=30_000)))
    fabric.settle()
    fabric.now_ms += 60_000
    fabric.apply(c.ReportNode("a", NodeState.UNREACHABLE))
    fabric.advance(1000)
    return fabric


def test_nothing_is_replaced_within_the_grace(away):
    away.advance(28_000)
    assert away.places("web") == ["a", "b", "c"]
    away.apply(c.ReportNode("a", NodeState.READY))
    away.advance(100_000)
    assert [r.id for r in away.replicas("web")] == sorted(r.id for r in away.ready("web"))
    assert away.places("web") == ["a", "b", "c"]


def test_after_the_grace_a_replacement_runs_and_the_old_copy_is_left_alone(away):
    away.advance(29_000)
    assert len(away.ready("web")) == 3
    assert len(away.replicas("web")) == 4
    assert not any(r.stopping for r in away.replicas("web"))


@pytest.mark.parametrize(
    ("rule", "left"), [(ReconnectRule.KEEP_OLDEST, ["a", "b", "c"]), (ReconnectRule.KEEP_NEWEST, None)]
)
def test_on_reconnect_the_rule_decides(rule, left):
    fabric = fabric_of("a", "b", "c")
    disruption = Disruption(offline_grace_ms=1000, on_reconnect=rule)
    fabric.put("web", service(replicas=3, disruption=disruption))
    fabric.settle()
    before = {r.id for r in fabric.replicas("web")}
    fabric.now_ms += 1000
    fabric.apply(c.ReportNode("a", NodeState.UNREACHABLE))
    fabric.advance(5000)
    fabric.apply(c.ReportNode("a", NodeState.READY))
    fabric.settle()
    assert len(fabric.ready("web")) == 4  # the node's fresh report is awaited
    fabric.advance(5000)
    after = {r.id for r in fabric.replicas("web")}
    assert len(after) == 3
    assert len(after & before) == (3 if rule is ReconnectRule.KEEP_OLDEST else 2)


def test_of_a_returned_copy_that_is_broken_and_a_healthy_one_the_healthy_one_stays():
    fabric = fabric_of("a", "b")
    fabric.put("web", service(replicas=1, disruption=Disruption(offline_grace_ms=1000)))
    fabric.settle()
    (old,) = fabric.replicas("web")
    fabric.now_ms += 1000
    fabric.apply(c.ReportNode("a", NodeState.UNREACHABLE))
    fabric.advance(5000)
    fabric.apply(c.ReportNode("a", NodeState.READY))
    broken = c.ReportedReplica(old.id, dataclasses.replace(old.status, phase=ReplicaPhase.RUNNING))
    fabric.apply(c.ReportReplicas("a", (broken,)))
    fabric.advance(5000)
    assert fabric.places("web") == ["b"]


def test_a_lost_node_is_replaced_at_once_and_tidied_up_when_it_returns(away):
    away.apply(c.ReportNode("a", NodeState.LOST))
    away.settle()
    assert len(away.ready("web")) == 3
    assert [r.status.phase for r in away.replicas("web") if r.node_id == "a"] == [ReplicaPhase.LOST]
    assert "a" not in away.places("web")
    away.apply(c.ReportNode("a", NodeState.READY))
    away.settle()
    assert len(away.replicas("web")) == 3


def test_deleting_a_workload_on_a_lost_node_comes_to_an_end(away):
    away.apply(c.DeleteWorkload(NAMESPACE, "web"))
    away.settle()
    assert KEY in away.state.workloads  # a may still be running it
    away.apply(c.ReportNode("a", NodeState.LOST))
    away.settle()
    assert KEY not in away.state.workloads


# -- drain ------------------------------------------------------------------------------------------------


def lowest_ready(fabric, name="web"):
    lowest = []
    fabric.observers.append(lambda applied: lowest.append(len(fabric.ready(name))))
    return lowest


def test_a_drain_moves_the_work_without_a_gap():
    fabric = fabric_of("a", "b", "c")
    fabric.put("web", service(replicas=6))
    fabric.settle()
    ready = lowest_ready(fabric)
    fabric.apply(c.UpdateNode("a", draining=True))
    fabric.settle()
    assert min(ready) == 6
    assert len(fabric.ready("web")) == len(fabric.replicas("web")) == 6
    assert "a" not in fabric.places("web")


@pytest.mark.parametrize(("min_available", "left"), [(2, 2), (1, 1), (0, 0)])
def test_a_drain_without_room_elsewhere_respects_min_available(min_available, left):
    fabric = fabric_of("a", "b", cpu_millis=200)
    fabric.put("web", service(replicas=2, rollout=Rollout(ROLLING, 1, 0, min_available)))
    fabric.put("other", service(replicas=2))
    fabric.settle()
    for node in ("a", "b"):
        fabric.apply(c.UpdateNode(node, draining=True))
    ready = lowest_ready(fabric)
    fabric.settle()
    assert len(fabric.ready("web")) == 2
    fabric.advance(DRAIN_PATIENCE_MS)
    assert len(fabric.ready("web")) == left
    assert min(ready) == left


@pytest.mark.parametrize(("min_available", "left"), [(2, 2), (1, 1), (0, 0)])
def test_a_drain_whose_replacements_keep_failing_respects_min_available(min_available, left):
    fabric = fabric_of("a")
    fabric.put("web", service(replicas=2, rollout=Rollout(ROLLING, 1, 0, min_available)))
    fabric.settle()
    fabric.join("b")
    fabric.fails = lambda replica: replica.node_id == "b"
    ready = lowest_ready(fabric)
    fabric.apply(c.UpdateNode("a", draining=True))
    fabric.settle()
    fabric.advance(600_000)
    assert len(fabric.ready("web")) == left
    assert min(ready) == left


def test_an_intolerable_taint_moves_replicas_like_a_drain():
    fabric = fabric_of("a", "b")
    fabric.put("web", service(replicas=2))
    tolerant = service(replicas=2)
    placement = dataclasses.replace(tolerant.placement, tolerations=(Toleration("", "Exists"),))
    fabric.put("tolerant", dataclasses.replace(tolerant, placement=placement))
    fabric.settle()
    ready = lowest_ready(fabric)
    fabric.apply(c.UpdateNode("a", set_taints=(Taint("k", "", TaintEffect.NO_EXECUTE),)))
    fabric.settle()
    assert fabric.places("web") == ["b", "b"]
    assert "a" in fabric.places("tolerant")
    assert min(ready) == 2


# -- rollouts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rollout", "desired", "expected"),
    [
        (Rollout(ROLLING, 1, 0, 0), 3, (1, 3)),
        (Rollout(ROLLING, 0, 1, 0), 3, (0, 2)),
        (Rollout(ROLLING, 0, 3, 2), 3, (0, 2)),
        (Rollout(ROLLING, 0, 0, 0), 3, (1, 3)),
        (Rollout(ROLLING, 0, 1, 3), 3, (1, 3)),
        (Rollout(ROLLING, 2, 5, 9), 3, (2, 3)),
        (Rollout(ROLLING, 1, 0, 0), 0, (1, 0)),
    ],
)
def test_bounds(rollout, desired, expected):
    assert bounds(rollout, desired) == expected


@pytest.mark.parametrize(
    ("rollout", "fewest", "most"),
    [
        (Rollout(ROLLING, 1, 0, 0), 4, 5),
        (Rollout(ROLLING, 2, 0, 0), 4, 6),
        (Rollout(ROLLING, 0, 1, 0), 3, 4),
        (Rollout(ROLLING, 0, 4, 2), 2, 4),
        (Rollout(ROLLING, 0, 4, 0), 0, 4),
        (Rollout(RolloutStrategy.RECREATE), 0, 4),
    ],
)
def test_a_rollout_stays_within_its_bounds_at_every_entry(rollout, fewest, most):
    fabric = fabric_of("a", "b")
    fabric.put("web", service(replicas=4, rollout=rollout))
    fabric.settle()
    ready = lowest_ready(fabric)
    kept = []
    fabric.observers.append(lambda applied: kept.append(sum(not r.stopping for r in fabric.replicas("web"))))
    fabric.put("web", service(replicas=4, rollout=rollout, image="web:2"))
    fabric.settle()
    assert generations(fabric) == [2, 2, 2, 2]
    assert len(fabric.ready("web")) == 4
    assert min(ready) >= fewest
    assert max(kept) <= most


def test_recreate_never_runs_two_generations_at_once():
    fabric = fabric_of("a", "b")
    rollout = Rollout(RolloutStrategy.RECREATE)
    fabric.put("web", service(replicas=3, rollout=rollout))
    fabric.settle()
    seen = []
    fabric.observers.append(lambda applied: seen.append({r.generation for r in fabric.replicas("web")}))
    fabric.put("web", service(replicas=3, rollout=rollout, image="web:2"))
    fabric.settle()
    assert {1, 2} not in seen
    assert generations(fabric) == [2, 2, 2]


def test_a_version_that_never_works_leaves_the_old_one_serving():
    fabric = fabric_of("a", "b")
    fabric.put("web", service(replicas=3))
    fabric.settle()
    ready = lowest_ready(fabric)
    fabric.fails = lambda replica: replica.generation == 2
    fabric.put("web", service(replicas=3, image="web:2"))
    fabric.settle()
    fabric.advance(3_600_000)
    assert min(ready) == 3
    fabric.put("web", service(replicas=3, image="web:1"))
    fabric.settle()
    fabric.advance(3_600_000)
    assert generations(fabric) == [3, 3, 3]
    assert min(ready) == 3


def test_a_new_replica_counts_once_it_has_been_ready_for_long_enough():
    fabric = fabric_of("a")
    rollout = Rollout(ROLLING, max_surge=1, min_ready_ms=5000)
    fabric.put("web", service(replicas=1, rollout=rollout))
    fabric.settle()
    fabric.put("web", service(replicas=1, rollout=rollout, image="web:2"))
    fabric.settle()
    assert len(fabric.ready("web")) == 2
    fabric.advance(4999)
    assert len(fabric.ready("web")) == 2
    fabric.advance(1)
    assert generations(fabric) == [2]


def test_a_restart_replaces_every_replica():
    fabric = fabric_of("a")
    fabric.put("web", service(replicas=2))
    fabric.settle()
    before = {r.id for r in fabric.replicas("web")}
    fabric.apply(c.RestartWorkload(NAMESPACE, "web"))
    fabric.settle()
    assert len(fabric.ready("web")) == 2
    assert not before & {r.id for r in fabric.replicas("web")}


def test_a_rollout_goes_on_over_one_that_is_under_way():
    fabric = fabric_of("a", "b")
    fabric.put("web", service(replicas=3))
    fabric.settle()
    ready = lowest_ready(fabric)
    for version in range(2, 6):
        fabric.put("web", service(replicas=3, image=f"web:{version}"))
        fabric.reconcile_dirty()
        fabric.agents_step()
        fabric.reconcile_dirty()
    fabric.settle()
    assert generations(fabric) == [5, 5, 5]
    assert min(ready) == 3


def test_scaling_during_a_rollout():
    fabric = fabric_of("a", "b")
    fabric.put("web", service(replicas=3))
    fabric.settle()
    for replicas in (6, 2):
        fabric.apply(c.RestartWorkload(NAMESPACE, "web"))
        fabric.reconcile_dirty()
        fabric.apply(c.ScaleWorkload(NAMESPACE, "web", replicas))
        fabric.settle()
        assert len(fabric.ready("web")) == len(fabric.replicas("web")) == replicas
