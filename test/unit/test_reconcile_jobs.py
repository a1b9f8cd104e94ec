"""What the loop does about jobs: situations, run with real entries and modelled agents."""

import dataclasses
import itertools

import pytest

from cloudless.coordinator.core import commands as c
from cloudless.coordinator.core.apply_runs import number_in
from cloudless.coordinator.core.reconcile.jobs import RESULTS_KEPT
from cloudless.core.model import NodeState, OwnerTerms, ReplicaPhase, ReplicaStatus, RunPhase, Taint
from cloudless.core.spec import Disruption, ReconnectRule, TaintEffect
from cloudless.testing.fabric_model import NAMESPACE, device, refusal, service
from cloudless.testing.job_fabric import JobFabric, job

KEY = (NAMESPACE, "work")
FAILED, SUCCEEDED = ReplicaPhase.FAILED, ReplicaPhase.SUCCEEDED
MINUTE, HOUR = 60_000, 3_600_000


@pytest.fixture
def fabric():
    made = JobFabric()
    for name in ("a", "b", "c"):
        made.join(name)
    return made


def put(fabric, **spec):
    fabric.put("work", job(**spec))
    fabric.settle()


def events(fabric):
    return [event.type for event in fabric.state.events if event.type.startswith(("run.", "workload."))]


def test_a_job_runs_once_and_is_done(fabric):
    put(fabric)
    assert fabric.story() == [(1, "Running")]
    assert len(fabric.active()) == 1
    fabric.advance(1_000)
    (run,) = fabric.runs()
    assert (run.phase, run.succeeded, run.failed, run.generation) == (RunPhase.SUCCEEDED, 1, 0, 1)
    assert run.finished_at_ms - run.started_at_ms == 1_000
    (replica,) = fabric.replicas("work")
    assert (replica.status.phase, replica.stopping, replica.run) == (SUCCEEDED, False, 1)
    assert fabric.state.reserved[replica.node_id].cpu_millis == 0, "what ended holds nothing"
    entries = len(fabric.log)
    fabric.advance(24 * HOUR)
    assert len(fabric.log) == entries
    assert events(fabric) == ["workload.created", "run.started", "run.succeeded"]


def test_completions_with_bounded_parallelism(fabric):
    most = []
    fabric.observers.append(lambda applied: most.append(len(fabric.active())))
    put(fabric, completions=7, parallelism=3)
    fabric.advance(10_000)
    (run,) = fabric.runs()
    assert (run.phase, run.succeeded, max(most)) == (RunPhase.SUCCEEDED, 7, 3)
    assert run.finished_at_ms - run.started_at_ms == 3_000


def test_many_completions_keep_few_results(fabric):
    put(fabric, completions=40, parallelism=20)
    fabric.advance(10_000)
    assert [(run.phase, run.succeeded) for run in fabric.runs()] == [(RunPhase.SUCCEEDED, 40)]
    assert len(fabric.replicas("work")) == RESULTS_KEPT


def test_what_fails_is_tried_again_ever_later_until_the_limit(fabric):
    fabric.outcome = lambda replica: FAILED
    starts = []
    fabric.observers.append(
        lambda applied: starts.extend(fabric.now_ms for e in applied.events if e.type == "replica.ready")
    )
    put(fabric, retries=4)
    fabric.advance(HOUR)
    (run,) = fabric.runs()
    assert (run.phase, run.reason, run.failed, run.succeeded) == (RunPhase.FAILED, "BackoffLimitExceeded", 5, 0)
    assert [b - a for a, b in itertools.pairwise(starts)] == [1_000, 2_000, 3_000, 5_000]
    (last,) = fabric.replicas("work")
    assert (last.status.phase, last.stopping) == (FAILED, False), "the last one is kept for its logs"


def test_restarts_on_the_node_count_as_failures(fabric):
    put(fabric, retries=2)
    (replica,) = fabric.replicas("work")
    for restarts, phase in ((2, RunPhase.RUNNING), (3, RunPhase.FAILED)):
        status = ReplicaStatus(phase=ReplicaPhase.READY, restart_count=restarts)
        fabric.apply(c.ReportReplicas(replica.node_id, (c.ReportedReplica(replica.id, status),)))
        fabric.settle()
        assert fabric.runs()[0].phase is phase
    assert fabric.runs()[0].reason == "BackoffLimitExceeded"
    assert fabric.active() == []


@pytest.mark.parametrize(
    "reason", ["Evicted", "OwnerTerms", "OwnerTermsUnreadable", "Paused", "OutsideHours", "BatteryLow", "LeaseExpired"]
)
def test_what_its_device_ended_for_its_own_reasons_did_not_fail(fabric, reason):
    fabric.lasts_ms = lambda replica: HOUR
    put(fabric, retries=1)
    for _ in range(4):
        (replica,) = fabric.active()
        evicted = ReplicaStatus(phase=FAILED, reason=reason)
        fabric.apply(c.ReportReplicas(replica.node_id, (c.ReportedReplica(replica.id, evicted),)))
        fabric.settle()
        fabric.advance(10 * MINUTE)
    fabric.advance(HOUR)
    (run,) = fabric.runs()
    assert (run.phase, run.failed, run.succeeded) == (RunPhase.SUCCEEDED, 0, 1)


def test_some_failures_are_survived(fabric):
    seen = set()

    def outcome(replica):
        first = replica.id not in seen and len(seen) < 2
        seen.add(replica.id)
        return FAILED if first else SUCCEEDED

    fabric.outcome = outcome
    put(fabric, completions=3)
    fabric.advance(HOUR)
    (run,) = fabric.runs()
    assert (run.phase, run.succeeded, run.failed) == (RunPhase.SUCCEEDED, 3, 2)


def test_a_deadline_ends_a_run(fabric):
    fabric.lasts_ms = lambda replica: HOUR
    put(fabric, deadline_ms=5_000, parallelism=2, completions=2)
    fabric.advance(4_999)
    assert fabric.story() == [(1, "Running")]
    fabric.advance(1)
    assert fabric.story() == [(1, "DeadlineExceeded")]
    assert fabric.replicas("work") == []


def test_a_job_is_deleted_after_its_time(fabric):
    put(fabric, ttl_ms=HOUR)
    fabric.advance(1_000 + HOUR - 1)
    assert KEY in fabric.state.workloads
    fabric.advance(1)
    assert KEY not in fabric.state.workloads
    assert fabric.replicas("work") == []
    assert events(fabric)[-3:] == ["workload.expired", "workload.deleting", "workload.deleted"]


def test_no_expiry_before_its_time_whatever_a_plan_says(fabric):
    put(fabric, ttl_ms=HOUR)
    plan = c.ApplyPlan(*KEY, expired=True)
    assert refusal(fabric.apply(plan)) == ("conflict", "RunsChanged")
    fabric.advance(1_000)
    assert refusal(fabric.apply(plan)) == ("conflict", "RunsChanged")
    fabric.now_ms += HOUR
    assert fabric.apply(plan).result.accepted


def test_another_version_is_another_run(fabric):
    fabric.lasts_ms = lambda replica: HOUR
    put(fabric)
    old = fabric.active()
    fabric.put("work", job(image="job:2"))
    both = []
    fabric.observers.append(lambda applied: both.append({r.run for r in fabric.active()}))
    fabric.settle()
    assert fabric.story() == [(1, "Replaced"), (2, "Running")]
    assert {1, 2} not in both, "the new one starts once the old one is gone"
    assert [r.generation for r in fabric.active()] == [2]
    assert old[0].id not in fabric.state.replicas


def test_what_a_run_is_changes_in_place(fabric):
    fabric.lasts_ms = lambda replica: HOUR
    put(fabric, completions=4, parallelism=1)
    fabric.put("work", job(completions=4, parallelism=3))
    fabric.settle()
    assert (fabric.story(), len(fabric.active())) == ([(1, "Running")], 3)
    fabric.put("work", job(completions=4, parallelism=2))
    fabric.settle()
    assert (fabric.story(), len(fabric.active())) == ([(1, "Running")], 2)


def test_a_run_waits_for_room(fabric):
    put(fabric, cpu_millis=9_000)
    assert fabric.story() == [(1, "Running")]
    (pending,) = fabric.replicas("work")
    assert pending.node_id == ""
    fabric.apply(c.ReportNode("b", device=device(cpu_millis=10_000)))
    fabric.settle()
    assert [r.node_id for r in fabric.active()] == ["b"]


def test_a_drain_waits_for_the_end_of_what_runs(fabric):
    fabric.lasts_ms = lambda replica: HOUR
    put(fabric, completions=2)
    (first,) = fabric.active()
    fabric.apply(c.UpdateNode(first.node_id, draining=True))
    fabric.advance(HOUR - 1)
    assert [r.id for r in fabric.active()] == [first.id]
    fabric.advance(1)
    (second,) = fabric.active()
    assert second.node_id != first.node_id
    assert first.id not in fabric.state.replicas, "its result does not hold up the drain"
    assert "node.drained" in [event.type for event in fabric.state.events]
    fabric.advance(HOUR)
    assert [(run.phase, run.succeeded) for run in fabric.runs()] == [(RunPhase.SUCCEEDED, 2)]


@pytest.mark.parametrize("how", ["taint", "owner"])
def test_what_must_leave_is_stopped_and_begun_elsewhere_once_it_is_gone(fabric, how):
    fabric.lasts_ms = lambda replica: HOUR
    put(fabric)
    (first,) = fabric.active()
    if how == "taint":
        fabric.apply(c.UpdateNode(first.node_id, set_taints=(Taint("gone", "", TaintEffect.NO_EXECUTE),)))
    else:
        terms = OwnerTerms(accepting=False, evicting=True)
        fabric.apply(c.ReportNode(first.node_id, device=dataclasses.replace(device(), owner=terms)))
    most = []
    fabric.observers.append(lambda applied: most.append(len(fabric.active())))
    fabric.advance(10)
    (second,) = fabric.active()
    assert (second.node_id != first.node_id, max(most)) == (True, 1)
    assert fabric.runs()[0].failed == 0, "that is nobody's failure"


def test_a_lost_node_costs_no_retries(fabric):
    fabric.lasts_ms = lambda replica: HOUR
    put(fabric, retries=1)
    for _ in range(2):
        (replica,) = fabric.active()
        fabric.apply(c.ReportNode(replica.node_id, NodeState.LOST, "lease ended"))
        fabric.settle()
    fabric.advance(HOUR)
    (run,) = fabric.runs()
    assert (run.phase, run.failed, run.succeeded) == (RunPhase.SUCCEEDED, 0, 1)


def test_results_of_a_lost_node_still_count(fabric):
    fabric.lasts_ms = lambda replica: 1_000
    put(fabric, completions=3)
    fabric.advance(1_000)
    (done,) = [r for r in fabric.replicas("work") if r.status.phase is SUCCEEDED]
    fabric.apply(c.ReportNode(done.node_id, NodeState.LOST, "lease ended"))
    fabric.advance(HOUR)
    (run,) = fabric.runs()
    assert (run.phase, run.succeeded) == (RunPhase.SUCCEEDED, 3)
    fabric.apply(c.ReportNode(done.node_id, NodeState.READY, "back"))
    fabric.advance(HOUR)
    assert fabric.runs() == [run]


@pytest.mark.parametrize("rule", list(ReconnectRule))
def test_a_node_that_returns_late(fabric, rule):
    fabric.lasts_ms = lambda replica: HOUR
    put(fabric, disruption=Disruption(30_000, rule))
    (first,) = fabric.active()
    fabric.apply(c.ReportNode(first.node_id, NodeState.UNREACHABLE, "silent"))
    fabric.advance(29_999)
    assert [r.id for r in fabric.active()] == [first.id]
    fabric.advance(1)
    (second,) = [r for r in fabric.active() if r.id != first.id]
    fabric.advance(5_000)
    fabric.apply(c.ReportNode(first.node_id, NodeState.READY, "back"))
    fabric.advance(10_000)
    assert [r.id for r in fabric.active()] == [first.id if rule is ReconnectRule.KEEP_OLDEST else second.id]
    fabric.advance(HOUR)
    assert [(run.phase, run.succeeded) for run in fabric.runs()] == [(RunPhase.SUCCEEDED, 1)]


def test_a_node_that_returns_with_the_work_done_ends_the_run(fabric):
    fabric.lasts_ms = lambda replica: 20_000
    put(fabric, disruption=Disruption(1_000))
    (first,) = fabric.active()
    fabric.apply(c.ReportNode(first.node_id, NodeState.UNREACHABLE, "silent"))
    fabric.advance(15_000)
    assert len(fabric.active()) == 2
    fabric.now_ms += 6_000
    fabric.apply(c.ReportNode(first.node_id, NodeState.READY, "back"))
    fabric.apply(c.ReportReplicas(first.node_id, (c.ReportedReplica(first.id, ReplicaStatus(phase=SUCCEEDED)),)))
    fabric.settle()
    assert [(run.phase, run.succeeded) for run in fabric.runs()] == [(RunPhase.SUCCEEDED, 1)]
    assert fabric.active() == []


def test_a_run_by_hand(fabric):
    put(fabric)
    again = c.StartRun(*KEY)
    assert refusal(fabric.apply(again)) == ("failed_precondition", "RunActive")
    fabric.advance(1_000)
    answer = fabric.apply(again).result
    assert number_in(answer) == 2
    fabric.settle()
    fabric.advance(1_000)
    assert [(r.number, r.manual, r.phase, r.generation) for r in fabric.runs()] == [
        (1, False, RunPhase.SUCCEEDED, 1),
        (2, True, RunPhase.SUCCEEDED, 1),
    ]
    fabric.advance(HOUR)
    assert len(fabric.runs()) == 2


def test_a_repeated_request_by_hand_is_one_run(fabric):
    put(fabric)
    fabric.advance(1_000)
    first = fabric.apply(c.StartRun(*KEY), request_id="r1").result
    assert fabric.apply(c.StartRun(*KEY), request_id="r1").result == first
    assert len(fabric.runs()) == 2


def test_only_what_has_runs_can_be_run(fabric):
    fabric.put("web", service())
    assert refusal(fabric.apply(c.StartRun(NAMESPACE, "web"))) == ("failed_precondition", "NoRuns")
    assert refusal(fabric.apply(c.StartRun(NAMESPACE, "none"))) == ("not_found", "WorkloadUnknown")
    put(fabric)
    assert refusal(fabric.apply(c.ScaleWorkload(*KEY, 3))) == ("failed_precondition", "HasRuns")
    fabric.apply(c.DeleteWorkload(*KEY))
    assert refusal(fabric.apply(c.StartRun(*KEY))) == ("failed_precondition", "WorkloadDeleting")


def test_history_of_a_job(fabric):
    put(fabric)
    for _ in range(6):
        fabric.advance(2_000)
        fabric.apply(c.RestartWorkload(*KEY))
        fabric.settle()
    fabric.advance(2_000)
    assert [run.number for run in fabric.runs()] == [5, 6, 7]
    assert sorted(r.run for r in fabric.replicas("work")) == [5, 6, 7]


def test_a_job_that_becomes_a_service_and_back(fabric):
    put(fabric)
    fabric.advance(2_000)
    fabric.put("work", service())
    fabric.settle()
    assert [(r.run, r.status.phase) for r in fabric.replicas("work")] == [(0, ReplicaPhase.READY)]
    assert fabric.runs() == []
    put(fabric)
    fabric.advance(2_000)
    assert fabric.story() == [(2, "Succeeded")], "a number is given once"
    assert all(r.run for r in fabric.replicas("work"))


# -- what apply refuses -----------------------------------------------------------------------------------


def test_plans_that_do_not_follow_are_refused_as_a_whole(fabric):
    put(fabric)
    fabric.advance(2_000)
    (done,) = fabric.runs()
    for run in (
        dataclasses.replace(done, phase=RunPhase.RUNNING),  # it ended
        dataclasses.replace(done, number=3),  # not the next one
        dataclasses.replace(done, number=2, phase=RunPhase.RUNNING),  # its generation has had its run
        dataclasses.replace(done, number=2, manual=True),
    ):
        plan = c.ApplyPlan(*KEY, runs=(run,), replicas=(c.PlannedReplica("work-zzzzz", 1, run=1),))
        assert refusal(fabric.apply(plan)) == ("conflict", "RunsChanged")
    fabric.put("web", service())
    plan = c.ApplyPlan(NAMESPACE, "web", runs=(dataclasses.replace(done, number=1),))
    assert refusal(fabric.apply(plan)) == ("conflict", "RunsChanged")


def test_counters_do_not_go_back(fabric):
    fabric.lasts_ms = lambda replica: HOUR
    put(fabric)
    (run,) = fabric.runs()
    assert fabric.apply(c.ApplyPlan(*KEY, runs=(dataclasses.replace(run, failed=2),))).result.accepted
    assert refusal(fabric.apply(c.ApplyPlan(*KEY, runs=(dataclasses.replace(run, failed=1),))))[1] == "RunsChanged"


def test_no_replica_without_a_run_that_goes_on(fabric):
    put(fabric)
    fabric.advance(2_000)
    for run in (0, 1, 7):
        fabric.apply(c.ApplyPlan(*KEY, replicas=(c.PlannedReplica(f"work-zzzz{run}", 1, run=run),)))
    assert [r.run for r in fabric.replicas("work")] == [1]


def test_a_plan_from_before_people_asked_for_more_ends_no_run(fabric):
    fabric.lasts_ms = lambda replica: HOUR
    put(fabric)
    (run,) = fabric.runs()
    seen = len(fabric.log)
    put(fabric, completions=3)
    over = dataclasses.replace(run, phase=RunPhase.SUCCEEDED, succeeded=1, finished_at_ms=fabric.now_ms)
    assert fabric.apply(c.ApplyPlan(*KEY, planned_at_index=seen, runs=(over,))).result.changed == "unchanged"
    assert fabric.runs() == [run]
