"""Replicas of services that ask for it move to clearly better nodes: when, how, and what keeps them where they are."""

import dataclasses
import itertools

import pytest

from cloudless.coordinator.core import commands as c
from cloudless.coordinator.core.reconcile import dirty_keys, reconcile
from cloudless.coordinator.core.reconcile.rebalance import LOOK_EVERY_MS, STAYS_MS
from cloudless.coordinator.core.scheduler import Weights
from cloudless.coordinator.core.scheduler.better import MARGIN, better_place
from cloudless.coordinator.core.state import State
from cloudless.coordinator.core.what_if import WhatIf
from cloudless.core.annotation_rules import REBALANCE
from cloudless.core.model import (
    Coordinator,
    DeviceClass,
    NodeState,
    NodeUsage,
    PlacementDecision,
    ReplicaPhase,
    RolloutAction,
    Taint,
)
from cloudless.core.spec import (
    Affinity,
    AntiAffinity,
    Metadata,
    Placement,
    Rollout,
    RolloutStrategy,
    SpreadConstraint,
    TaintEffect,
    WorkloadType,
)
from cloudless.core.validation import validate_metadata
from cloudless.testing.fabric_model import NAMESPACE, Fabric, device, service

KEY = (NAMESPACE, "web")
MINUTE = 60_000
SPREAD = Placement(spread=(SpreadConstraint("zone", 1),))
ROLLING = RolloutStrategy.ROLLING_UPDATE


def metadata(name="web", *, word="true", labels=None):
    return Metadata(name, NAMESPACE, labels or {}, {REBALANCE: word} if word else {})


def phone():
    """A device that does the same work, and scores lower by far."""
    return dataclasses.replace(device(), device_class=DeviceClass.PHONE, power_source="battery", metered=True)


class Web:
    """A service that opted in, on a fabric whose nodes come one after the other; what its events told."""

    def __init__(self, *nodes, word="true", **spec):
        self.fabric = Fabric()
        for name in nodes:
            self.fabric.join(name)
        self.told = []
        self.fabric.observers.append(lambda applied: self.told.extend(applied.events))
        self.spec, self.word = spec, word
        self.put()
        self.fabric.settle()

    def put(self, **changes):
        self.spec |= changes
        return self.fabric.apply(c.PutWorkload(metadata(word=self.word), service(**self.spec)))

    @property
    def rollout(self):
        return self.fabric.state.workloads[KEY].rollout

    @property
    def places(self):
        return self.fabric.places("web")

    @property
    def moves(self):
        return [(e.metadata["from"], e.metadata["to"]) for e in self.told if e.type == "scheduling.rebalanced"]

    def until_moving(self):
        """The two replicas of a move that has just begun: the one that goes and the one that comes."""
        for _ in range(20):
            self.fabric.now_ms = min(self.fabric.wake_at_ms.values())
            self.fabric.reconcile_one(KEY)
            comes = [r for r in self.fabric.replicas("web") if r.replaces and r.status.phase is ReplicaPhase.ASSIGNED]
            if comes:
                return self.fabric.state.replicas[comes[0].replaces], comes[0]
        raise AssertionError("nothing moves")


@pytest.fixture
def crowded():
    """Both replicas in one zone, beside a new node in another one."""
    web = Web("a", replicas=2, placement=SPREAD)
    web.fabric.join("b")
    return web


def test_a_node_that_joins_gets_its_share_and_the_old_one_stops_last(crowded):
    goes, comes = crowded.until_moving()
    assert (goes.node_id, comes.node_id) == ("a", "b")
    assert not goes.stopping
    assert crowded.moves == [("a", "b")]
    crowded.fabric.settle()
    assert crowded.places == ["a", "b"]
    stops = [e for e in crowded.told if e.type == "scheduling.reschedule"]
    assert [(e.resource, e.metadata["reason"]) for e in stops] == [(f"replica/{goes.id}", "Rebalanced")]
    events = [e.type for e in crowded.told]
    assert events.index("scheduling.rebalanced") < events.index("replica.ready", events.index("scheduling.rebalanced"))
    assert events[::-1].index("replica.ready") > events[::-1].index("scheduling.reschedule")


def test_the_decision_and_the_event_say_what_is_better(crowded):
    goes, comes = crowded.until_moving()
    stored = comes.placement
    assert [shown.node_id for shown in stored.candidates] == ["b", "a"]
    assert stored.candidates[0].total - stored.candidates[1].total > 1
    assert stored.summary == (
        f"b scores {stored.candidates[0].total:.3f} against {stored.candidates[1].total:.3f} of a, "
        "which breaks fewer preferences"
    )
    (event,) = [e for e in crowded.told if e.type == "scheduling.rebalanced"]
    assert event.resource == f"replica/{comes.id}"
    assert event.description == f"takes the place of {goes.id} on a: {stored.summary}"
    assert dict(event.metadata) == {"workload": "web", "replaces": goes.id, "from": "a", "to": "b"}


def test_it_rests_once_nothing_is_better(crowded):
    crowded.fabric.advance(10 * MINUTE)
    entries = len(crowded.fabric.log)
    crowded.fabric.advance(3 * STAYS_MS)
    assert crowded.moves == [("a", "b")]
    assert len(crowded.fabric.log) == entries


@pytest.mark.parametrize("word", ["", "false"])
def test_who_did_not_ask_is_left_alone(word):
    web = Web("a", word=word, replicas=2, placement=SPREAD)
    web.fabric.join("b")
    web.fabric.settle()
    assert KEY not in web.fabric.wake_at_ms
    web.fabric.advance(STAYS_MS)
    assert web.places == ["a", "a"]


def test_asking_later_is_enough():
    web = Web("a", word="", replicas=2, placement=SPREAD)
    web.fabric.join("b")
    web.fabric.settle()
    web.word = "true"
    applied = web.put()
    assert dirty_keys(applied.changes, web.fabric.state) == {KEY}
    web.fabric.settle()
    web.fabric.advance(5 * MINUTE)
    assert web.places == ["a", "b"]
    assert web.fabric.state.workloads[KEY].generation == 1


def test_a_clearly_better_score_is_enough_and_a_slightly_better_one_is_not():
    def placed(better):
        web = Web("a")
        web.fabric.apply(c.ReportNode("a", device=phone()))
        web.fabric.join("b", info=better)
        web.fabric.advance(20 * MINUTE)
        return web

    moved = placed(device())
    assert moved.places == ["b"]
    summary = moved.fabric.replicas("web")[0].placement.summary
    assert summary.startswith("b scores 0.")
    assert "preferences" not in summary
    assert placed(dataclasses.replace(phone(), metered=False)).places == ["a"]


def test_a_better_score_is_not_bought_with_a_wish():
    quiet = AntiAffinity(workload="noise", topology_key="node", required=False, weight=1)
    web = Web("a", placement=Placement(anti_affinity=(quiet,)))
    web.fabric.apply(c.ReportNode("a", device=phone()))
    web.fabric.join("b")
    web.fabric.put("noise", service(placement=Placement(node_selector={"node": "b"})))
    web.fabric.settle()
    web.fabric.advance(10 * MINUTE)
    assert (web.places, web.moves) == (["a"], [])
    web.fabric.apply(c.DeleteWorkload(NAMESPACE, "noise"))
    web.fabric.settle()
    web.fabric.advance(10 * MINUTE)
    assert web.places == ["b"]


def test_a_margin_lies_between_two_scores_and_their_difference_decides():
    """`better_place` itself, over what the round trip to the own node costs."""
    web = Web("a", "b")
    (replica,) = web.fabric.replicas("web")
    own, other = replica.node_id, "b" if replica.node_id == "a" else "a"
    record = web.fabric.state.workloads[KEY]
    seen = set()
    for rtt_ms in (1, 5, 20, 50, 100, 300, 1000):
        usage = {own: NodeUsage(rtt_us=rtt_ms * 1000), other: NodeUsage(rtt_us=1000)}
        found = better_place(
            web.fabric.state, record, replica, weights=Weights(), usage=usage, now_ms=web.fabric.now_ms
        )
        seen.add(found is not None)
        if found is not None:
            assert found.node_id == other
            assert found.candidates[0].total - found.candidates[-1].total >= MARGIN
    assert seen == {True, False}


@pytest.mark.parametrize(
    ("placement", "spoil", "words"),
    [
        (Placement(node_selector={"disk": "fast"}), "label", "node selector asks for disk=fast"),
        (Placement(regions=("eu",), required=True), "", None),
        (Placement(spread=(SpreadConstraint("zone", 1, True),)), "crowd", "spread: one more here"),
    ],
)
def test_where_it_may_not_be_any_more_it_leaves(placement, spoil, words):
    fabric_of = {"label": ("a", "b"), "": ("a", "b"), "crowd": ("a",)}[spoil]
    web = Web(replicas=2 if spoil == "crowd" else 1, placement=placement)
    for name in fabric_of:
        web.fabric.join(name)
        web.fabric.apply(c.UpdateNode(name, set_labels={"disk": "fast"}))
    web.fabric.settle()
    (was, *_) = web.places
    if spoil == "label":
        web.fabric.apply(c.UpdateNode(was, remove_labels=("disk",)))
    elif spoil == "crowd":
        web.fabric.join("b")
    web.fabric.advance(5 * MINUTE)
    if words is None:
        assert web.moves == []
    else:
        ((source, target),) = web.moves
        assert (source, target in fabric_of or target == "b") == (was, True)
        moved = [r for r in web.fabric.replicas("web") if r.replaces]
        assert moved[0].placement.summary.startswith(f"may not stay on {was}: {words}")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda f: f.apply(c.UpdateNode("a", cordoned=True)),
        lambda f: f.apply(c.UpdateNode("a", set_taints=(Taint("busy", "", TaintEffect.NO_SCHEDULE),))),
    ],
)
def test_a_node_that_takes_no_more_keeps_what_it_has(spoil):
    web = Web("a")
    web.fabric.join("b")
    spoil(web.fabric)
    web.fabric.advance(20 * MINUTE)
    assert (web.places, web.moves) == (["a"], [])


def test_a_neighbour_that_moved_is_followed():
    near = Placement(affinity=(Affinity(workload="db", topology_key="zone", required=True),))
    web = Web("a", "b")
    fabric = web.fabric
    fabric.put("db", service(placement=Placement(node_selector={"node": "a"})))
    fabric.settle()
    web.put(placement=near)
    fabric.settle()
    assert web.places == ["a"]
    fabric.put("db", service(placement=Placement(node_selector={"node": "b"})))
    fabric.advance(10 * MINUTE)
    assert fabric.places("db") == web.places == ["b"]


# -- how fast ---------------------------------------------------------------------------------------------


def test_one_at_a_time_and_a_minute_between():
    web = Web("a", replicas=6, placement=SPREAD)
    web.fabric.join("b")
    when, most = [], []

    def observe(applied):
        when.extend(e.time_ms for e in applied.events if e.type == "scheduling.rebalanced")
        most.append(sum(not r.stopping for r in web.fabric.replicas("web")))

    web.fabric.observers.append(observe)
    web.fabric.advance(STAYS_MS)
    assert web.places == ["a"] * 3 + ["b"] * 3
    assert max(most) == 7
    assert len(when) == 3
    assert all(later - earlier >= MINUTE for earlier, later in itertools.pairwise(when))


def test_a_look_is_had_once_a_minute_however_often_the_workload_is_looked_at(crowded):
    crowded.fabric.settle()
    at_ms = crowded.fabric.wake_at_ms[KEY]
    for later_ms, looks in ((-1, False), (10_000, False), (30_000, False), (0, True)):
        now_ms = at_ms + 5 * MINUTE + later_ms
        plan = reconcile(crowded.fabric.state, *KEY, now_ms=now_ms, weights=Weights(), usage={}, id_seed=1)
        assert bool(plan.commands) == looks
        if not looks:
            assert 0 < plan.wake_at_ms - now_ms <= LOOK_EVERY_MS


def test_looks_of_different_workloads_are_spread_over_the_minute():
    fabric = Fabric()
    fabric.join("a")
    for number in range(40):
        fabric.apply(c.PutWorkload(metadata(f"web-{number}"), service(cpu_millis=10, memory_bytes=1)))
    fabric.settle()
    assert len({at_ms % LOOK_EVERY_MS // 6_000 for at_ms in fabric.wake_at_ms.values()}) > 6


def test_each_replica_has_its_turn():
    web = Web("a", "b", "c", replicas=3, placement=Placement(node_selector={"disk": "fast"}))
    for name in "abc":
        web.fabric.apply(c.UpdateNode(name, set_labels={"disk": "fast"}))
    web.fabric.settle()
    assert web.places == ["a", "b", "c"]
    web.fabric.apply(c.UpdateNode("b", remove_labels=("disk",)))
    web.fabric.advance(7 * MINUTE)
    assert [source for source, _ in web.moves] == ["b"]


def test_what_was_moved_stays_for_an_hour():
    web = Web("a")
    web.fabric.apply(c.ReportNode("a", device=phone()))
    web.fabric.join("b")
    web.fabric.advance(10 * MINUTE)
    assert web.moves == [("a", "b")]
    web.fabric.apply(c.ReportNode("a", device=device()))
    web.fabric.apply(c.ReportNode("b", device=phone()))
    web.fabric.advance(45 * MINUTE)
    assert web.moves == [("a", "b")]
    web.fabric.advance(20 * MINUTE)
    assert web.moves == [("a", "b"), ("b", "a")]


def test_two_that_chase_each_other_do_so_at_an_hourly_pace():
    web = Web("a", "b", placement=Placement(affinity=(Affinity(workload="shy", topology_key="zone", weight=100),)))
    shy = Placement(anti_affinity=(AntiAffinity(workload="web", topology_key="zone", required=False),))
    web.fabric.apply(c.PutWorkload(metadata("shy"), service(placement=shy)))
    web.fabric.advance(6 * STAYS_MS)
    assert 0 < len(web.moves) <= 2 * 7


# -- what it must not do ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rollout",
    [Rollout(RolloutStrategy.RECREATE), Rollout(ROLLING, max_surge=0, max_unavailable=1)],
)
def test_where_there_must_never_be_one_more_nothing_moves(rollout):
    web = Web("a", replicas=2, placement=SPREAD, rollout=rollout)
    web.fabric.join("b")
    web.fabric.advance(10 * MINUTE)
    assert web.moves == []


@pytest.mark.parametrize("kind", [WorkloadType.SYSTEM, WorkloadType.JOB])
def test_other_kinds_never_move(kind):
    web = Web("a", replicas=0 if kind is WorkloadType.SYSTEM else 1, kind=kind)
    web.fabric.apply(c.ReportNode("a", device=phone()))
    web.fabric.join("b")
    web.fabric.settle()
    web.fabric.advance(STAYS_MS)
    assert web.moves == []


def begins(web):
    """Whether a move would begin at any time of the next minutes, if nothing happened until then."""
    for later_ms in range(0, 6 * MINUTE, 9_000):
        now_ms = web.fabric.now_ms + later_ms
        plan = reconcile(web.fabric.state, *KEY, now_ms=now_ms, weights=Weights(), usage={}, id_seed=1)
        if any(planned.replaces for command in plan.commands for planned in command.replicas):
            return True
    return False


def report(web, phase):
    replica = web.fabric.replicas("web")[0]
    status = dataclasses.replace(replica.status, phase=phase)
    web.fabric.apply(c.ReportReplicas(replica.node_id, (c.ReportedReplica(replica.id, status),)))


def stop_one(web):
    web.fabric.apply(c.ApplyPlan(*KEY, stops=(c.PlannedStop(web.fabric.replicas("web")[0].id, "Test"),)))


@pytest.mark.parametrize(
    "disturb",
    [
        lambda web: web.fabric.apply(c.ReportNode("c", NodeState.UNREACHABLE)),
        lambda web: web.fabric.apply(c.ReportNode("c", NodeState.LOST)),
        lambda web: web.fabric.apply(c.UpdateNode("c", draining=True, cordoned=True)),
        lambda web: web.fabric.apply(c.ControlRollout(*KEY, RolloutAction.PAUSE)),
        lambda web: report(web, ReplicaPhase.RUNNING),
        lambda web: report(web, ReplicaPhase.FAILED),
        lambda web: report(web, ReplicaPhase.SUCCEEDED),
        stop_one,
        lambda web: web.put(replicas=5),
        lambda web: web.put(replicas=3),
        lambda web: (web.put(replicas=3), web.fabric.reconcile_one(KEY)),
        lambda web: web.put(image="web:2"),
        lambda web: web.put(rollout=Rollout(ROLLING, max_surge=1, min_ready_ms=3_600_000)),
    ],
)
def test_nothing_moves_while_anything_else_is_the_matter(disturb):
    web = Web("a", "c", replicas=4, placement=SPREAD)
    web.fabric.join("b")
    assert begins(web)
    disturb(web)
    assert not begins(web)


def test_members_of_an_older_version_are_not_given_what_they_do_not_know(crowded):
    old = Coordinator("old", "0.9", schema=2)
    crowded.fabric.state = crowded.fabric.state.with_coordinator(old)
    crowded.fabric.advance(10 * MINUTE)
    assert crowded.moves == []
    crowded.fabric.state = crowded.fabric.state.with_coordinator(dataclasses.replace(old, schema=c.SCHEMA))
    crowded.fabric.advance(10 * MINUTE)
    assert crowded.moves == [("a", "b")]


def test_a_forecast_does_not_count_on_moves_and_comes_to_an_end(monkeypatch):
    monkeypatch.setattr(State, "validate", lambda state: None)  # of hundreds of replicas, after each of their entries
    fabric = Fabric()
    fabric.join("a", info=device(cpu_millis=10**6, memory_bytes=2**40))
    for number in range(200):
        name = f"web-{number}"
        fabric.apply(c.PutWorkload(metadata(name), service(replicas=2, placement=SPREAD)))
    fabric.settle()
    fabric.join("b", info=device(cpu_millis=10**6, memory_bytes=2**40))
    fabric.settle()
    asked = WhatIf(fabric.state, index=len(fabric.log), now_ms=fabric.now_ms, weights=Weights(), usage={})
    asked.apply(c.PutWorkload(metadata("one-more"), service()))
    steps = asked.forecast().steps
    assert [(s.workload, s.change) for s in steps] == [("one-more", "start")]


# -- when it goes wrong -----------------------------------------------------------------------------------


def test_a_successor_that_fails_is_dropped_and_not_tried_again_at_once(crowded):
    crowded.fabric.fails = lambda replica: bool(replica.replaces)
    goes, comes = crowded.until_moving()
    crowded.fabric.settle()
    assert crowded.places == ["a", "a"]
    assert goes.id in crowded.fabric.state.replicas
    assert comes.id not in crowded.fabric.state.replicas
    assert len(crowded.moves) == 1
    assert (crowded.rollout.moves_failed, crowded.rollout.move_failed_at_ms) == (1, crowded.fabric.now_ms)
    assert [r.attempt for r in crowded.fabric.replicas("web")] == [0, 0]
    crowded.fabric.advance(4 * STAYS_MS)
    assert 6 <= len(crowded.moves) <= 9, "each failure doubles the pause, up to an hour"
    crowded.fabric.fails = lambda replica: False
    crowded.fabric.advance(2 * STAYS_MS)
    assert crowded.places == ["a", "b"]
    assert (crowded.rollout.moves_failed, crowded.rollout.move_failed_at_ms) == (0, 0)


def test_a_successor_that_does_not_become_ready_is_given_up(crowded):
    goes, comes = crowded.until_moving()
    deadline_ms = crowded.fabric.now_ms + 10 * MINUTE
    fabric = crowded.fabric

    def at(now_ms):
        fabric.now_ms = now_ms
        fabric.reconcile_one(KEY)
        return fabric.state.replicas.get(comes.id)

    assert not at(deadline_ms - 1).stopping
    assert fabric.wake_at_ms[KEY] == deadline_ms
    assert at(deadline_ms).stop_reason == "NotReadyInTime"
    assert crowded.rollout.moves_failed == 1
    fabric.agents_step(["b"])
    fabric.reconcile_one(KEY)
    assert crowded.places == ["a", "a"]
    assert not fabric.state.replicas[goes.id].stopping


@pytest.mark.parametrize("state", [NodeState.UNREACHABLE, NodeState.LOST])
def test_a_successor_whose_node_goes_away_leaves_things_as_they_were(crowded, state):
    goes, _ = crowded.until_moving()
    crowded.fabric.apply(c.ReportNode("b", state))
    crowded.fabric.settle()
    crowded.fabric.advance(STAYS_MS)
    assert crowded.places.count("a") == 2
    assert not crowded.fabric.state.replicas[goes.id].stopping
    crowded.fabric.apply(c.ReportNode("b", NodeState.READY))
    crowded.fabric.settle()
    crowded.fabric.advance(2 * STAYS_MS)
    assert crowded.places == ["a", "b"]


def test_one_that_goes_and_is_not_ready_any_more_waits_all_the_same(crowded):
    goes, _ = crowded.until_moving()
    status = dataclasses.replace(goes.status, phase=ReplicaPhase.RUNNING)
    crowded.fabric.apply(c.ReportReplicas("a", (c.ReportedReplica(goes.id, status),)))
    crowded.fabric.reconcile_dirty()
    assert not crowded.fabric.state.replicas[goes.id].stopping
    crowded.fabric.settle()
    assert crowded.places == ["a", "b"]


def test_it_never_costs_availability(crowded):
    """Another replica fails in the middle of a move: the one that goes serves on until as many as wanted do."""
    goes, comes = crowded.until_moving()
    fabric = crowded.fabric
    (other,) = [r for r in fabric.replicas("web") if r.id not in (goes.id, comes.id)]
    fabric.agents_step(["b"])
    fabric.agents_step(["b"])
    failed = dataclasses.replace(other.status, phase=ReplicaPhase.FAILED)
    fabric.apply(c.ReportReplicas("a", (c.ReportedReplica(other.id, failed),)))
    fabric.reconcile_dirty()
    assert not fabric.state.replicas[goes.id].stopping
    fabric.settle()
    assert len(crowded.places) == 2
    assert len([r for r in fabric.ready("web") if not r.stopping]) == 2


def test_a_drain_in_the_middle_of_a_move_is_a_drain(crowded):
    goes, _ = crowded.until_moving()
    crowded.fabric.apply(c.UpdateNode("a", draining=True, cordoned=True))
    crowded.fabric.settle()
    assert crowded.places == ["b", "b"]
    reasons = {e.metadata["reason"] for e in crowded.told if e.type == "scheduling.reschedule"}
    assert reasons == {"NodeDraining"}
    assert goes.id not in crowded.fabric.state.replicas


def test_where_the_successor_s_node_drains_the_other_one_stays(crowded):
    goes, _ = crowded.until_moving()
    crowded.fabric.apply(c.UpdateNode("b", draining=True, cordoned=True))
    crowded.fabric.settle()
    assert crowded.places == ["a", "a"]
    assert not crowded.fabric.state.replicas[goes.id].stopping


@pytest.mark.parametrize("change", [{"image": "web:2"}, {"replicas": 1}, {"replicas": 4}])
def test_what_people_ask_for_in_the_middle_of_a_move_comes_about(crowded, change):
    crowded.until_moving()
    crowded.put(**change)
    crowded.fabric.settle()
    held = crowded.fabric.replicas("web")
    record = crowded.fabric.state.workloads[KEY]
    assert [r.status.phase for r in held] == [ReplicaPhase.READY] * record.spec.replicas
    assert {r.generation for r in held} == {record.generation}


# -- the entry --------------------------------------------------------------------------------------------


def decision(node_id):
    return PlacementDecision(node_id, summary=f"on {node_id}")


def test_an_entry_that_does_not_fit_moves_nothing(crowded):
    fabric = crowded.fabric
    first, second = fabric.replicas("web")
    fabric.put("other", service())
    fabric.settle()
    (foreign,) = fabric.replicas("other")

    def propose(replaces, node_id="b", *, generation=1, replica_id="web-new01"):
        planned = c.PlannedReplica(replica_id, generation, decision(node_id), replaces=replaces)
        plan = c.ApplyPlan(*KEY, replicas=(planned,))
        assert c.schema_of(plan) == 3
        return fabric.apply(plan).result.changed

    assert propose("nobody") == "unchanged"
    assert propose(foreign.id) == "unchanged"
    assert propose(first.id, "a") == "unchanged"
    assert propose(first.id, "") == "unchanged"
    assert propose(first.id, "nowhere") == "unchanged"
    assert propose(first.id, generation=2) == "unchanged"
    assert propose(first.id, replica_id=second.id) == "unchanged"
    assert propose(first.id) == "updated"
    assert propose(first.id, replica_id="web-new02") == "unchanged", "it is being replaced"
    fabric.apply(c.ApplyPlan(*KEY, stops=(c.PlannedStop(second.id, "Test"),)))
    assert propose(second.id, replica_id="web-new02") == "unchanged", "it is stopping"


@pytest.mark.parametrize("disturb", [lambda web: report(web, ReplicaPhase.FAILED), lambda web: web.put(image="web:2")])
def test_what_failed_or_is_outdated_is_not_moved(crowded, disturb):
    first = crowded.fabric.replicas("web")[0]
    disturb(crowded)
    generation = crowded.fabric.state.workloads[KEY].generation
    planned = c.PlannedReplica("web-new01", generation, decision("b"), replaces=first.id)
    assert crowded.fabric.apply(c.ApplyPlan(*KEY, replicas=(planned,))).result.changed == "unchanged"


def test_a_node_that_was_taken_meanwhile_leaves_everything_as_it_is(crowded):
    goes = crowded.fabric.replicas("web")[0]
    crowded.fabric.apply(c.UpdateNode("b", cordoned=True))
    planned = c.PlannedReplica("web-new01", 1, decision("b"), replaces=goes.id)
    assert crowded.fabric.apply(c.ApplyPlan(*KEY, replicas=(planned,))).result.changed == "unchanged"
    assert "web-new01" not in crowded.fabric.state.replicas


# -- the manifest -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("word", "valid"), [("true", True), ("false", True), ("yes", False), ("", False)])
def test_the_annotation_says_true_or_false(word, valid):
    found = validate_metadata(Metadata("web", NAMESPACE, annotations={REBALANCE: word}))
    assert not found if valid else [v.path for v in found] == [f"metadata.annotations.{REBALANCE}"]
