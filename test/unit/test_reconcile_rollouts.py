"""Rollouts by steps: canary, blue-green, pauses, deadlines and the way back. Situations in tables and stories."""

import dataclasses

import pytest

from cloudless.coordinator.core import commands as c
from cloudless.coordinator.core import rollouts
from cloudless.coordinator.core.reconcile import reconcile
from cloudless.coordinator.core.reconcile.rollout import weighed
from cloudless.coordinator.core.scheduler import Weights
from cloudless.coordinator.core.views import workload_view
from cloudless.core.model import (
    Coordinator,
    NodeState,
    OwnerTerms,
    ReplicaPhase,
    RolloutAction,
    RolloutPhase,
    RolloutProgress,
)
from cloudless.core.spec import (
    MANUAL,
    Canary,
    CanaryStep,
    Disruption,
    Metadata,
    Rollout,
    RolloutStrategy,
    WorkloadType,
)
from cloudless.testing.fabric_model import NAMESPACE, Fabric, device, refusal, service

KEY = (NAMESPACE, "web")
MINUTE = 60_000
ROLLING = RolloutStrategy.ROLLING_UPDATE
PAUSE, RESUME, PROMOTE, UNDO = RolloutAction.PAUSE, RolloutAction.RESUME, RolloutAction.PROMOTE, RolloutAction.UNDO


def canary(*steps, **rest):
    return Rollout(
        RolloutStrategy.CANARY, max_surge=1, canary=Canary(tuple(CanaryStep(*step) for step in steps)), **rest
    )


class Web:
    """A service on four nodes, whose images can be broken, and what its events told."""

    def __init__(self, rollout, *, replicas=4, kind=WorkloadType.SERVICE):
        self.fabric = Fabric()
        for name in "abcd":
            self.fabric.join(name)
        self.rollout, self.kind, self.count = rollout, kind, replicas
        self.broken = set()
        self.fabric.fails = lambda r: self.fabric.state.spec_of(r).containers[0].image in self.broken
        self.told = []
        self.least = None
        self.fabric.observers.append(self.observe)
        self.put("web:1")

    def observe(self, applied):
        self.told += [e.type.removeprefix("workload.rollout_") for e in applied.events if "rollout_" in e.type]
        ready = sum(not r.stopping for r in self.fabric.ready("web"))
        self.least = ready if self.least is None else min(self.least, ready)

    def put(self, image, **changes):
        spec = service(replicas=self.count, image=image, rollout=self.rollout, kind=self.kind, **changes)
        applied = self.fabric.put("web", spec)
        self.fabric.settle()
        return applied

    def say(self, action, to=0):
        applied = self.fabric.apply(c.ControlRollout(*KEY, action, to))
        if applied.result.accepted:
            self.fabric.settle()
        return applied

    def advance(self, ms):
        self.fabric.advance(ms)

    @property
    def record(self):
        return self.fabric.state.workloads[KEY]

    @property
    def progress(self):
        return self.record.rollout

    @property
    def phase(self):
        return self.progress.phase

    def of(self, generation):
        return sum(r.generation == generation and not r.stopping for r in self.fabric.replicas("web"))

    @property
    def images(self):
        return sorted({self.fabric.state.spec_of(r).containers[0].image for r in self.fabric.ready("web")})


# -- what is remembered -----------------------------------------------------------------------------------


def test_a_first_version_is_a_rollout_that_completes():
    web = Web(Rollout(ROLLING, 1))
    assert (web.phase, web.progress.generation, web.progress.stable_generation) == (RolloutPhase.COMPLETE, 1, 1)
    assert web.told == []
    assert web.record.history[-1].completed_at_ms > 0
    web.put("web:2")
    assert (web.phase, web.progress.generation, web.progress.stable_generation) == (RolloutPhase.COMPLETE, 2, 2)
    assert web.told == ["started", "complete"]


def test_notes_of_a_rollout_are_in_nobodys_way():
    web = Web(Rollout(ROLLING, 1))
    revision = web.record.revision
    applied = web.fabric.apply(
        c.PutWorkload(Metadata("web", NAMESPACE), service(image="web:2", replicas=4), expected_revision=revision)
    )
    assert applied.result.accepted


def test_a_plan_that_was_made_before_people_spoke_is_not_carried_out():
    web = Web(Rollout(ROLLING, 1))
    web.fabric.apply(c.RestartWorkload(*KEY))
    plan = reconcile(web.fabric.state, *KEY, now_ms=web.fabric.now_ms, weights=Weights(), usage={}, id_seed=9)
    (command,) = plan.commands
    index = len(web.fabric.log)
    web.fabric.apply(c.ControlRollout(*KEY, PAUSE))
    late = web.fabric.apply(dataclasses.replace(command, planned_at_index=index), actor="system/reconciler")
    assert late.result.changed == "unchanged"
    web.fabric.settle()
    assert (web.of(1), web.of(2)) == (4, 0)


def test_while_an_older_coordinator_is_a_member_rollouts_go_on_without_memory():
    web = Web(Rollout(ROLLING, 1))
    before = web.progress
    web.fabric.state = web.fabric.state.with_coordinator(Coordinator("old", schema=2))
    web.put("web:2")
    assert web.of(2) == 4
    assert web.progress == before


def test_what_serves_is_the_stable_version_where_no_rollout_was_ever_recorded():
    web = Web(Rollout(ROLLING, 1))
    record = dataclasses.replace(web.record, rollout=None)
    web.fabric.state = web.fabric.state.with_workload(record)
    web.broken = {"web:2"}
    web.put("web:2")
    assert web.progress.stable_generation == 1


# -- canary -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weight", "desired", "new"),
    [(10, 10, 1), (10, 1, 1), (10, 11, 2), (50, 5, 3), (100, 3, 3), (1, 300, 3), (1, 0, 0)],
)
def test_weights_are_rounded_up(weight, desired, new):
    assert weighed(CanaryStep(weight), desired) == new


def test_a_canary_goes_step_by_step():
    web = Web(canary((10, MINUTE), (50, MANUAL)), replicas=10)
    web.put("web:2")
    assert (web.of(1), web.of(2), web.phase) == (9, 1, RolloutPhase.PAUSED)
    web.advance(MINUTE - 1)
    assert web.of(2) == 1
    web.advance(1)
    assert (web.of(1), web.of(2), web.phase) == (5, 5, RolloutPhase.AWAITING_PROMOTION)
    web.advance(100 * MINUTE)
    assert web.of(2) == 5
    assert web.say(PROMOTE).result.accepted
    assert (web.of(1), web.of(2), web.phase) == (0, 10, RolloutPhase.COMPLETE)
    assert web.told == ["started", "waiting", "step", "waiting", "promoted", "complete"]
    assert refusal(web.say(PROMOTE)) == ("failed_precondition", "NothingToPromote")


def test_the_pause_begins_once_the_weight_is_available():
    web = Web(canary((50, MINUTE), min_ready_ms=5_000), replicas=4)
    web.advance(10_000)
    web.put("web:2")
    assert web.progress.step_since_ms == 0
    web.advance(5_000)
    web.advance(5_000)
    reached = web.progress.step_since_ms
    assert reached > 0
    web.advance(MINUTE - (web.fabric.now_ms - reached) - 1)
    assert web.of(2) == 2
    web.advance(1)
    web.advance(30_000)
    assert (web.of(2), web.phase) == (4, RolloutPhase.COMPLETE)


def test_promotion_skips_a_pause():
    web = Web(canary((25, 60 * MINUTE), (50, 60 * MINUTE)))
    web.put("web:2")
    web.say(PROMOTE)
    assert (web.of(1), web.of(2)) == (2, 2)
    web.say(PROMOTE)
    assert web.of(2) == 4


def test_between_steps_each_failure_is_replaced_by_the_version_that_failed():
    web = Web(canary((50, MANUAL)))
    web.put("web:2")
    for generation in (1, 2):
        node = next(r.node_id for r in web.fabric.ready("web") if r.generation == generation)
        web.fabric.apply(c.ReportNode(node, NodeState.LOST))
        web.fabric.settle()
        assert len(web.fabric.ready("web")) == 4
        assert (web.of(1), web.of(2)) == (2, 2)
        web.fabric.apply(c.ReportNode(node, NodeState.READY))
        web.fabric.settle()


def test_scaling_keeps_the_weight():
    web = Web(canary((50, MANUAL)))
    web.put("web:2")
    for replicas in (10, 2, 6):
        web.fabric.apply(c.ScaleWorkload(*KEY, replicas))
        web.fabric.settle()
        assert (web.of(1), web.of(2)) == (replicas // 2, replicas // 2)


def test_a_weight_that_is_lowered_takes_new_ones_away_as_old_ones_come_back():
    web = Web(canary((75, MANUAL)))
    web.put("web:2")
    images = [web.fabric.state.spec_of(r).containers[0].image for r in web.fabric.replicas("web")]
    assert sorted(images) == ["web:1", "web:2", "web:2", "web:2"]
    web.rollout, web.least = canary((25, MANUAL)), None
    web.put("web:2")
    images = [web.fabric.state.spec_of(r).containers[0].image for r in web.fabric.replicas("web")]
    assert sorted(images) == ["web:1", "web:1", "web:1", "web:2"]
    assert web.least == 4


def test_steps_that_are_taken_out_of_the_spec_are_waited_for_no_more():
    web = Web(canary((25, MANUAL)))
    web.put("web:2")
    web.rollout = Rollout(ROLLING, 1)
    web.put("web:2")
    assert (web.of(2), web.phase) == (4, RolloutPhase.COMPLETE)


# -- blue-green -------------------------------------------------------------------------------------------


def test_a_new_colour_waits_beside_the_old_one():
    web = Web(Rollout(RolloutStrategy.BLUE_GREEN, 1))
    web.put("web:2")
    assert (web.of(1), web.of(2), web.phase) == (4, 4, RolloutPhase.AWAITING_PROMOTION)
    web.advance(1000 * MINUTE)
    assert (web.of(1), web.of(2)) == (4, 4)
    web.say(PROMOTE)
    assert (web.of(1), web.of(2), web.phase) == (0, 4, RolloutPhase.COMPLETE)


def test_promoted_early_the_old_colour_goes_once_the_new_one_is_whole():
    web = Web(Rollout(RolloutStrategy.BLUE_GREEN, 1))
    web.broken = {"web:2"}
    web.put("web:2")
    web.least = None
    web.say(PROMOTE)
    web.advance(MINUTE)
    assert (web.of(1), len(web.fabric.ready("web"))) == (4, 4)
    web.broken = set()
    web.advance(60 * MINUTE)
    assert (web.of(1), web.of(2)) == (0, 4)
    assert web.least == 4


# -- pause and resume -------------------------------------------------------------------------------------


def test_a_paused_rollout_stands_still_and_failures_are_replaced_by_what_they_were():
    web = Web(Rollout(ROLLING, 1))
    web.fabric.put("web", service(replicas=4, image="web:2", rollout=web.rollout))
    for _ in range(4):
        web.fabric.reconcile_dirty()
        web.fabric.agents_step()
    web.say(PAUSE)
    old, new = web.of(1), web.of(2)
    assert old > 0
    assert new > 0
    assert web.phase is RolloutPhase.PAUSED
    web.advance(100 * MINUTE)
    assert (web.of(1), web.of(2)) == (old, new)
    for generation in (1, 2):
        node = next(r.node_id for r in web.fabric.ready("web") if r.generation == generation)
        web.fabric.apply(c.ReportNode(node, NodeState.LOST))
        web.fabric.settle()
        assert len(web.fabric.ready("web")) >= 4
        assert web.of(2) == new
    web.say(RESUME)
    assert (web.of(1), web.of(2), web.phase) == (0, 4, RolloutPhase.COMPLETE)


def test_a_pause_beforehand_holds_the_next_version():
    web = Web(Rollout(ROLLING, 1))
    web.say(PAUSE)
    assert web.phase is RolloutPhase.COMPLETE
    web.put("web:2")
    web.put("web:3")
    assert (web.of(1), web.phase) == (4, RolloutPhase.PAUSED)
    web.fabric.apply(c.ScaleWorkload(*KEY, 6))
    web.fabric.settle()
    assert web.of(1) == 6
    web.say(RESUME)
    assert (web.of(3), web.phase) == (6, RolloutPhase.COMPLETE)


@pytest.mark.parametrize("strategy", [ROLLING, RolloutStrategy.RECREATE])
def test_a_paused_version_moves_off_a_node_that_drains(strategy):
    web = Web(Rollout(strategy, 1))
    web.say(PAUSE)
    web.put("web:2")
    web.least = None
    web.fabric.apply(c.UpdateNode("a", draining=True))
    web.fabric.settle()
    assert "a" not in web.fabric.places("web")
    assert (web.of(1), web.of(2)) == (4, 0)
    assert web.least == 4


def test_what_cannot_be_said_now():
    web = Web(Rollout(ROLLING, 1))
    assert refusal(web.say(RESUME)) == ("failed_precondition", "RolloutNotPaused")
    assert refusal(web.say(PROMOTE)) == ("failed_precondition", "NothingToPromote")
    assert refusal(web.say(UNDO)) == ("not_found", "RevisionUnknown")
    assert refusal(web.say(UNDO, 7)) == ("not_found", "RevisionUnknown")
    assert refusal(web.say(UNDO, 1)) == ("failed_precondition", "RevisionCurrent")
    assert refusal(web.say(None)) == ("invalid_argument", "ActionMissing")
    web.say(PAUSE)
    assert refusal(web.say(PAUSE)) == ("failed_precondition", "RolloutPaused")
    web.put("web:2")
    assert refusal(web.say(PROMOTE)) == ("failed_precondition", "RolloutPaused")
    assert refusal(web.fabric.apply(c.ControlRollout(NAMESPACE, "none", PAUSE))) == ("not_found", "WorkloadUnknown")
    web.fabric.apply(c.DeleteWorkload(*KEY))
    assert refusal(web.fabric.apply(c.ControlRollout(*KEY, PAUSE))) == ("failed_precondition", "WorkloadDeleting")


# -- deadline and rollback --------------------------------------------------------------------------------


def deadline(strategy=ROLLING, **rest):
    return Rollout(strategy, max_surge=1, progress_deadline_ms=5 * MINUTE, **rest)


def test_a_version_that_never_works_has_failed_after_its_deadline():
    web = Web(deadline())
    web.least, web.broken = None, {"web:2"}
    web.put("web:2")
    web.advance(5 * MINUTE - 1)
    assert web.phase is RolloutPhase.PROGRESSING
    web.advance(1)
    assert web.phase is RolloutPhase.FAILED
    assert web.progress.message == "no new replica became available for 5m; the version before goes on serving"
    assert web.least == 4
    web.broken = set()  # it was not its fault: on unreliable devices it goes on by itself
    web.advance(10 * MINUTE)
    assert (web.of(2), web.phase) == (4, RolloutPhase.COMPLETE)
    assert web.told == ["started", "failed", "complete"]


@pytest.mark.parametrize(
    "rollout",
    [
        deadline(auto_rollback=True),
        deadline(RolloutStrategy.BLUE_GREEN, auto_rollback=True),
        deadline(RolloutStrategy.CANARY, auto_rollback=True, canary=Canary((CanaryStep(50, MINUTE),))),
        Rollout(ROLLING, 0, 2, 0, 0, 5 * MINUTE, True),
    ],
)
def test_a_version_that_never_works_is_rolled_back(rollout):
    web = Web(rollout)
    kept = {r.id for r in web.fabric.ready("web")}
    web.least, web.broken = None, {"web:2"}
    web.put("web:2")
    web.advance(6 * MINUTE)
    assert (web.record.generation, web.of(3), web.images) == (3, 4, ["web:1"])
    assert (web.phase, web.progress.stable_generation) == (RolloutPhase.ROLLED_BACK, 3)
    assert web.record.history[-1].change_cause == "rolled back to 1: no new replica became available for 5m"
    assert [r.generation for r in web.record.history] == [1, 2, 3]
    assert web.least >= 4 - rollout.max_unavailable
    assert len(kept & {r.id for r in web.fabric.ready("web")}) >= web.least, "what works is not restarted"
    assert web.told.count("rolled_back") == 1
    web.advance(100 * MINUTE)
    assert web.record.generation == 3
    web.broken = set()
    web.put("web:2")
    assert web.record.generation == 4


def test_recreate_comes_back_too():
    web = Web(deadline(RolloutStrategy.RECREATE, auto_rollback=True))
    web.broken = {"web:2"}
    web.put("web:2")
    web.advance(6 * MINUTE)
    assert (web.images, web.of(3)) == (["web:1"], 4)


def test_a_replica_that_comes_and_goes_holds_no_deadline_back():
    web = Web(deadline(auto_rollback=True))
    web.put("web:1")
    web.fabric.fails = lambda r: False
    web.fabric.put("web", service(replicas=4, image="web:2", rollout=web.rollout))
    began = web.fabric.now_ms

    def flap():
        for replica in web.fabric.ready("web"):
            if replica.generation == 2:
                failed = dataclasses.replace(replica.status, phase=ReplicaPhase.FAILED)
                web.fabric.apply(c.ReportReplicas(replica.node_id, (c.ReportedReplica(replica.id, failed),)))

    while web.record.generation == 2 and web.fabric.now_ms - began < 60 * MINUTE:
        web.fabric.reconcile_dirty()
        web.fabric.agents_step()
        web.fabric.reconcile_dirty()  # sees it available
        flap()
        web.fabric.now_ms += 1_000
        web.fabric.dirty.add(KEY)
    assert web.record.generation == 3
    assert web.fabric.now_ms - began <= 6 * MINUTE


def test_a_first_version_that_never_works_has_nothing_to_go_back_to():
    web = Web(deadline(auto_rollback=True), replicas=0)
    assert web.progress is None, "of what never ran nothing is remembered"
    web.fabric.apply(c.DeleteWorkload(*KEY))
    web.count, web.broken = 2, {"web:1"}
    web.put("web:1")
    web.advance(6 * MINUTE)
    assert (web.record.generation, web.phase) == (1, RolloutPhase.FAILED)


def test_a_new_version_over_one_that_fails_goes_back_to_the_one_that_was_complete():
    web = Web(deadline(auto_rollback=True))
    web.least, web.broken = None, {"web:2", "web:3"}
    web.put("web:2")
    web.advance(MINUTE)
    web.put("web:3")
    assert web.progress.stable_generation == 1
    web.advance(6 * MINUTE)
    assert (web.images, web.record.generation) == (["web:1"], 4)
    assert web.least == 4


def test_what_is_lost_meanwhile_is_restored_in_the_version_that_works():
    web = Web(Rollout(ROLLING, 1))
    web.broken = {"web:2"}
    web.put("web:2")
    for name in "abc":
        web.fabric.apply(c.ReportNode(name, NodeState.LOST))
        web.fabric.settle()
        web.advance(1_000)
        assert len(web.fabric.ready("web")) == 4
    assert web.images == ["web:1"]


def test_a_drain_during_a_rollout_moves_the_old_version_once():
    web = Web(Rollout(ROLLING, 1, min_ready_ms=2_000), replicas=1)
    web.advance(5_000)
    (node,) = web.fabric.places("web")
    web.fabric.apply(c.RestartWorkload(*KEY))
    web.fabric.apply(c.UpdateNode(node, draining=True))
    web.least = None
    web.fabric.settle(rounds_max=20)
    assert node not in web.fabric.places("web")
    web.advance(5_000)
    assert (web.of(2), web.least) == (1, 1)


def test_a_change_that_scales_up_as_well_begins_with_new_ones():
    web = Web(Rollout(ROLLING, 1), replicas=2)
    web.count = 6
    seen = []
    web.fabric.observers.append(lambda applied: seen.append(web.of(1)))
    web.put("web:2")
    assert max(seen) == 2
    assert web.of(2) == 6


# -- undo -------------------------------------------------------------------------------------------------


def test_an_undo_goes_to_the_last_version_that_was_complete():
    web = Web(Rollout(ROLLING, 1))
    web.put("web:2")
    web.broken = {"web:3"}
    web.put("web:3")
    kept = {r.id for r in web.fabric.ready("web")}
    web.say(UNDO)
    assert (web.images, web.record.generation, web.phase) == (["web:2"], 4, RolloutPhase.COMPLETE)
    assert {r.id for r in web.fabric.ready("web")} == kept
    assert web.record.history[-1].change_cause == "undone to 2"
    web.say(UNDO)
    assert web.images == ["web:1"]
    web.say(UNDO, 2)
    assert (web.images, web.record.generation) == (["web:2"], 6)


def test_an_undo_keeps_what_is_not_of_the_template():
    web = Web(Rollout(ROLLING, 1))
    web.put("web:2")
    web.fabric.apply(c.ScaleWorkload(*KEY, 6))
    web.say(UNDO)
    assert (web.images, len(web.fabric.ready("web")), web.record.spec.replicas) == (["web:1"], 6, 6)


def test_a_restart_is_no_version_to_go_back_to():
    web = Web(Rollout(ROLLING, 1))
    web.put("web:2")
    web.fabric.apply(c.RestartWorkload(*KEY))
    web.fabric.settle()
    web.say(UNDO)
    assert web.images == ["web:1"]


def test_the_stable_version_is_kept_however_many_fail_after_it():
    web = Web(Rollout(ROLLING, 1))
    web.broken = {f"web:{n}" for n in range(2, 20)}
    for n in range(2, 20):
        web.put(f"web:{n}")
    assert rollouts.stable_revision(web.record, web.progress).generation == 1
    web.say(UNDO)
    assert web.images == ["web:1"]


def test_the_change_cause_is_remembered():
    web = Web(Rollout(ROLLING, 1))
    cause = Metadata("web", NAMESPACE, annotations={rollouts.CHANGE_CAUSE: "new colours"})
    web.fabric.apply(c.PutWorkload(cause, service(replicas=4, image="web:2", rollout=web.rollout)))
    web.fabric.settle()
    assert [r.change_cause for r in web.record.history] == ["", "new colours"]


# -- what an entry may say --------------------------------------------------------------------------------


def test_an_older_generation_is_placed_only_by_a_plan_that_knows_of_the_rollout():
    web = Web(canary((50, MANUAL)))
    web.put("web:2")
    planned = c.PlannedReplica("web-extra", 1)
    assert web.fabric.apply(c.ApplyPlan(*KEY, replicas=(planned,))).result.changed == "unchanged"
    foreign = dataclasses.replace(web.progress, generation=1)
    assert web.fabric.apply(c.ApplyPlan(*KEY, replicas=(planned,), rollout=foreign)).result.changed == "unchanged"
    assert web.fabric.apply(c.ApplyPlan(*KEY, replicas=(planned,), rollout=web.progress)).result.changed == "updated"


def test_peoples_words_are_theirs():
    web = Web(canary((50, MANUAL)))
    web.put("web:2")
    forged = dataclasses.replace(web.progress, paused=True, promoted=True, step=1)
    web.fabric.apply(c.ApplyPlan(*KEY, rollout=forged))
    assert (web.progress.paused, web.progress.promoted, web.progress.step) == (False, False, 1)


def test_nothing_is_rolled_back_without_a_stable_version():
    web = Web(Rollout(ROLLING, 1))
    progress = RolloutProgress(1, 0, RolloutPhase.PROGRESSING)
    web.fabric.apply(c.ApplyPlan(*KEY, rollout=progress, roll_back=True))
    assert web.record.generation == 1


# -- system -----------------------------------------------------------------------------------------------


def test_a_system_workload_is_paused_resumed_and_rolled_back():
    web = Web(deadline(auto_rollback=True), kind=WorkloadType.SYSTEM)
    web.say(PAUSE)
    web.broken = {"web:2"}
    web.put("web:2")
    assert (web.of(1), web.phase) == (4, RolloutPhase.PAUSED)
    web.fabric.join("e")
    web.fabric.settle()
    assert web.of(1) == 5, "a node that joins gets what the others run"
    web.say(RESUME)
    web.advance(6 * MINUTE)
    assert (web.phase, web.images, web.of(3)) == (RolloutPhase.ROLLED_BACK, ["web:1"], 5)
    web.put("web:3")
    assert (web.phase, web.of(4)) == (RolloutPhase.COMPLETE, 5)


# -- owners -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("room", "left"), [(True, 2), (False, 1)])
def test_what_an_owner_evicts_moves_or_goes_down_to_what_must_stay_at_once(room, left):
    fabric = Fabric()
    for name in "ab":
        fabric.join(name, info=device(cpu_millis=200 if room else 100))
    rollout = Rollout(ROLLING, 1, 0, 1)
    fabric.put("web", service(replicas=2, rollout=rollout, disruption=Disruption(30_000)))
    fabric.settle()
    evicting = dataclasses.replace(fabric.state.nodes["a"].device, owner=OwnerTerms(evicting=True))
    for name in "ab" if not room else "a":
        fabric.apply(c.ReportNode(name, device=evicting))
    fabric.settle()
    assert len(fabric.ready("web")) == left


# -- what people see --------------------------------------------------------------------------------------


def test_the_status_says_how_the_rollout_stands():
    web = Web(canary((50, MANUAL)))
    assert workload_view(web.fabric.state, web.record).status.message == ""
    web.put("web:2")
    view = workload_view(web.fabric.state, web.record)
    assert (view.rollout, view.status.message) == (web.progress, "50 % are new; waits to be promoted")
    web.say(PAUSE)
    assert workload_view(web.fabric.state, web.record).status.message == "paused by `rollout pause`"


def test_a_drain_without_room_elsewhere_says_so():
    fabric = Fabric()
    fabric.join("a")
    fabric.put("web", service(rollout=Rollout(ROLLING, 1, 0, 1)))
    fabric.settle()
    told = []
    fabric.observers.append(lambda applied: told.extend(e.type for e in applied.events))
    fabric.apply(c.UpdateNode("a", draining=True))
    fabric.settle()
    fabric.advance(60 * MINUTE)
    assert len(fabric.ready("web")) == 1
    message = workload_view(fabric.state, fabric.state.workloads[KEY]).status.message
    assert message.startswith("1 pending in place of what is on a, to be drained: no node fits: ")
    assert "scheduling.placement_failed" in told


# -- preemption -------------------------------------------------------------------------------------------


def crowded():
    """Two nodes that are full of `low`, of priority 10."""
    fabric = Fabric()
    for name in "ab":
        fabric.join(name, info=device(cpu_millis=200))
    low = dataclasses.replace(service(replicas=4), priority=10)
    fabric.put("low", low)
    fabric.settle()
    return fabric


def test_what_fits_nowhere_takes_the_place_of_what_is_less_important():
    fabric = crowded()
    told = []
    fabric.observers.append(lambda applied: told.extend(e.type for e in applied.events))
    fabric.put("web", service(replicas=3))
    fabric.settle()
    assert len(fabric.ready("web")) == 3
    assert len(fabric.ready("low")) == 1
    assert told.count("scheduling.preempted") == 3
    assert [r.status.reason for r in fabric.replicas("low") if not r.node_id] == ["Unplaceable"] * 3


@pytest.mark.parametrize("priority", [10, 15, 19])
def test_a_small_difference_preempts_nothing(priority):
    fabric = crowded()
    fabric.put("web", dataclasses.replace(service(), priority=priority))
    fabric.settle()
    assert len(fabric.ready("low")) == 4


def test_a_system_workload_makes_room_on_each_of_its_nodes():
    fabric = crowded()
    fabric.put("web", service(kind=WorkloadType.SYSTEM))
    fabric.settle()
    assert fabric.places("web") == ["a", "b"]
    assert len(fabric.ready("low")) == 2


def test_preemption_is_checked_again_when_it_is_applied():
    fabric = crowded()
    fabric.put("web", service())
    fabric.put("same", dataclasses.replace(service(), priority=45))
    low = fabric.replicas("low")[0]
    own = dataclasses.replace(low, id="own", workload="same", generation=1)
    fabric.state = fabric.state.without_replica(low.id).with_replica(own)
    for victims in (("nobody",), ("own",)):
        plan = c.ApplyPlan(*KEY, preemptions=tuple(c.PlannedStop(v, "Preempted") for v in victims))
        assert fabric.apply(plan).result.changed == "unchanged"
    stop = (c.PlannedStop(fabric.replicas("low")[0].id, "Preempted"),)
    assert fabric.apply(c.ApplyPlan(*KEY, preemptions=stop)).result.changed == "updated"
    assert fabric.apply(c.ApplyPlan(*KEY, preemptions=stop)).result.changed == "unchanged"
