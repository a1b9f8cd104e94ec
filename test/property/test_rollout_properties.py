"""Rollouts under random histories, held to an executable model after every entry.

The model knows neither plans nor progress: it says, of any entry of the reconciler, how many replicas may be there
after it and how many must still serve, from what was there before it.
"""

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st

from cloudless.coordinator.core import commands as c
from cloudless.coordinator.core import rollouts
from cloudless.coordinator.core.reconcile.rebalance import STAYS_MS
from cloudless.coordinator.core.reconcile.rollout import step_of, stepwise, weighed
from cloudless.coordinator.core.reconcile.targets import bounds
from cloudless.core.annotation_rules import REBALANCE
from cloudless.core.model import DeviceClass, NodeState, OwnerTerms, ReplicaPhase, RolloutAction, RolloutPhase
from cloudless.core.spec import (
    MANUAL,
    Canary,
    CanaryStep,
    Disruption,
    Metadata,
    Placement,
    ReconnectRule,
    Rollout,
    RolloutStrategy,
    SpreadConstraint,
    WorkloadType,
)
from cloudless.testing.fabric_model import NAMESPACE, Fabric, device, service

NODES = ("a", "b", "c", "d")
KEY = (NAMESPACE, "web")
SPREAD = Placement(spread=(SpreadConstraint("node", 1),))
STEPS = st.lists(st.sampled_from([10, 25, 50, 75, 100]), min_size=1, max_size=3, unique=True).flatmap(
    lambda weights: st.tuples(*(st.builds(CanaryStep, st.just(w), PAUSE) for w in sorted(weights)))
)
PAUSE = st.sampled_from([0, 5_000, MANUAL])
CANARY = st.builds(Canary, STEPS)
STRATEGIES = (
    RolloutStrategy.ROLLING_UPDATE,
    RolloutStrategy.CANARY,
    RolloutStrategy.BLUE_GREEN,
    RolloutStrategy.RECREATE,
)


@st.composite
def rollout_rules(draw):
    strategy = draw(st.sampled_from(STRATEGIES))
    return Rollout(
        strategy=strategy,
        max_surge=draw(st.integers(0, 2)),
        max_unavailable=draw(st.integers(0, 2)),
        min_available=0 if strategy is RolloutStrategy.RECREATE else draw(st.integers(0, 3)),
        min_ready_ms=draw(st.sampled_from([0, 2_000])),
        progress_deadline_ms=draw(st.sampled_from([0, 10_000, 60_000])),
        auto_rollback=draw(st.booleans()),
        canary=draw(CANARY) if strategy is RolloutStrategy.CANARY else None,
    )


NODE = st.sampled_from(NODES)
OPERATIONS = st.one_of(
    st.tuples(st.just("image"), st.integers(1, 5)),
    st.tuples(st.just("image"), st.integers(1, 5)),
    st.tuples(st.just("rollout"), rollout_rules()),
    st.tuples(st.just("restart"), st.none()),
    st.tuples(st.just("scale"), st.integers(0, 5)),
    st.tuples(st.just("say"), st.sampled_from(list(RolloutAction))),
    st.tuples(st.just("undo"), st.integers(1, 6)),
    st.tuples(st.just("broken"), st.sets(st.integers(1, 5), max_size=2)),
    st.tuples(st.just("unready"), st.integers(0, 9)),
    st.tuples(st.just("state"), NODE, st.sampled_from([NodeState.READY, NodeState.UNREACHABLE, NodeState.LOST])),
    st.tuples(st.just("drain"), NODE, st.booleans()),
    st.tuples(st.just("evict"), NODE, st.booleans()),
    st.tuples(st.just("advance"), st.sampled_from([1, 500, 5_000, 31_000, 61_000])),
    st.tuples(st.just("loop"), st.none()),
    st.tuples(st.just("agents"), st.sets(NODE, min_size=1)),
    st.tuples(st.just("agents"), st.sets(NODE, min_size=2)),
    st.tuples(st.just("settle"), st.none()),
    st.tuples(st.just("rebalance"), st.booleans()),
    st.tuples(st.just("worse"), NODE, st.booleans()),
    st.tuples(st.just("look"), st.integers(2, 9)),
)


class Model:
    """What any entry of the reconciler may do to the replicas of one service, given what was there before it."""

    def __init__(self, fabric):
        self.fabric = fabric
        self.before = self.look()
        fabric.observers.append(self.check)
        self.held = ((0, False), 0)  # generation and whether it is paused; since then, replicas of it at the beginning

    def look(self):
        state = self.fabric.state
        record = state.workloads.get(KEY)
        replicas = [r for r in state.replicas_of(*KEY) if not r.stopping]
        ready = {r.id for r in self.fabric.ready("web") if not r.stopping}
        staying = [r for r in replicas if not r.node_id or self.stays(state.nodes[r.node_id])]
        return record, replicas, ready, staying

    @staticmethod
    def stays(node):
        """Replicas on nodes that they leave, or that are out of reach, are there beside those that replace them."""
        owner = node.device.owner
        return node.state is NodeState.READY and not node.draining and not (owner and owner.evicting)

    def check(self, applied):
        earlier, self.before = self.before, self.look()
        self.hold()
        command = c.decode(self.fabric.log[-1]).command
        if not isinstance(command, c.ApplyPlan) or not applied.result.accepted or command.roll_back:
            return
        record, replicas, ready, staying = self.before
        was, _, was_ready, was_staying = earlier
        if record is None or was is None:
            return
        story = f"{command}\nrecord {was.rollout} {was.spec.rollout}\nwere {was_staying}\nare {replicas}"
        rollout, desired = record.spec.rollout, record.spec.replicas
        surge, floor = bounds(rollout, desired)
        self.total(record, surge, len(staying), len(was_staying), story)
        if rollout.strategy is not RolloutStrategy.RECREATE:
            anywhere = all(self.stays(node) for node in self.fabric.state.nodes.values())
            least = floor if anywhere else min(desired, rollout.min_available)
            assert len(ready) >= min(len(was_ready), least), f"floor {least}: {story}"
        progress = record.rollout
        if progress is None or progress.generation != record.generation or rollouts.is_complete(progress):
            return
        new = sum(r.generation == record.generation for r in staying)
        had = sum(r.generation == record.generation for r in was_staying)
        if rollouts.stable_revision(record, progress) is None:
            return
        if progress.paused and rollout.strategy is not RolloutStrategy.RECREATE:
            assert new <= max(had, self.held[1]), f"paused with {self.held}: {story}"
        step = step_of(rollout, progress)
        if not progress.paused and step is not None and stepwise(record, progress):
            assert new <= max(had, weighed(step, desired)), f"weight {step}: {story}"

    def hold(self):
        record, replicas, _, _ = self.before
        if record is not None:
            progress = record.rollout
            paused = progress is not None and progress.paused
            if self.held[0] != (record.generation, paused):
                self.held = ((record.generation, paused), sum(r.generation == record.generation for r in replicas))

    @staticmethod
    def total(record, surge, now, before, story):
        desired = record.spec.replicas
        beside = max(surge, desired) if record.spec.rollout.strategy is RolloutStrategy.BLUE_GREEN else surge
        assert now <= max(before, desired + beside), f"{now} replicas: {story}"


class Scene:
    def __init__(self, rollout, replicas, *, moves=False):
        self.fabric = Fabric()
        for name in NODES:
            self.fabric.join(name)
        self.rollout = rollout
        self.image = 1
        self.broken = set()
        self.annotations = {REBALANCE: "true"} if moves else {}
        self.put(replicas)
        self.fabric.settle()
        self.fabric.advance(5_000)
        self.model = Model(self.fabric)
        self.fabric.fails = self.fails

    @property
    def record(self):
        return self.fabric.state.workloads[KEY]

    def fails(self, replica):
        image = self.fabric.state.spec_of(replica).containers[0].image
        return int(image.removeprefix("web:")) in self.broken

    def put(self, replicas):
        disruption = Disruption(offline_grace_ms=5_000, on_reconnect=ReconnectRule.KEEP_OLDEST)
        spec = service(
            replicas=replicas, image=f"web:{self.image}", rollout=self.rollout, disruption=disruption, placement=SPREAD
        )
        self.fabric.apply(c.PutWorkload(Metadata("web", NAMESPACE, {}, self.annotations), spec))

    def report(self, replica, phase):
        status = dataclasses.replace(replica.status, phase=phase)
        self.fabric.apply(c.ReportReplicas(replica.node_id, (c.ReportedReplica(replica.id, status),)))

    def perform(self, operation):
        fabric = self.fabric
        match operation:
            case ("image", version):
                self.image = version
                self.put(self.record.spec.replicas)
            case ("rollout", rollout):
                self.rollout = rollout
                self.put(self.record.spec.replicas)
            case ("restart", _):
                fabric.apply(c.RestartWorkload(*KEY))
            case ("scale", replicas):
                fabric.apply(c.ScaleWorkload(*KEY, replicas))
            case ("say", action):
                fabric.apply(c.ControlRollout(*KEY, action))
            case ("undo", generation):
                fabric.apply(c.ControlRollout(*KEY, RolloutAction.UNDO, generation))
            case ("broken", images):
                self.broken = images
            case ("unready", which):
                ready = fabric.ready("web")
                if ready:
                    self.report(ready[which % len(ready)], ReplicaPhase.RUNNING)
            case ("state", node, state):
                fabric.apply(c.ReportNode(node, state, "test"))
            case ("drain", node, draining):
                fabric.apply(c.UpdateNode(node, draining=draining, cordoned=draining))
            case ("evict", node, evicting):
                owner = OwnerTerms(accepting=not evicting, evicting=evicting)
                fabric.apply(c.ReportNode(node, device=dataclasses.replace(device(), owner=owner)))
            case ("advance", ms):
                fabric.now_ms += ms
                fabric.dirty |= {key for key, at_ms in fabric.wake_at_ms.items() if at_ms <= fabric.now_ms}
            case ("rebalance", asked):
                self.annotations = {REBALANCE: "true"} if asked else {}
                self.put(self.record.spec.replicas)
            case ("worse", node, worse):
                info = dataclasses.replace(
                    device(), device_class=DeviceClass.PHONE, metered=True, power_source="battery"
                )
                fabric.apply(c.ReportNode(node, device=info if worse else device()))
            case ("look", times):
                fabric.settle()
                for _ in range(times):
                    fabric.now_ms = max(fabric.now_ms, min(fabric.wake_at_ms.values(), default=0))
                    fabric.reconcile_one(KEY)
                    if any(r.status.phase is ReplicaPhase.ASSIGNED for r in fabric.replicas("web")):
                        return
            case ("loop", _):
                fabric.reconcile_dirty()
            case ("agents", names):
                fabric.agents_step(sorted(names))
            case ("settle", _):
                fabric.settle()

    def heal(self):
        """Everything within reach and in good order; people let the rollout go on; time enough for every delay."""
        fabric = self.fabric
        self.broken = set()
        for name in NODES:
            fabric.apply(c.ReportNode(name, NodeState.READY, "healed", device()))
            fabric.apply(c.UpdateNode(name, cordoned=False))
        for replica in fabric.replicas("web"):
            if replica.status.phase is ReplicaPhase.RUNNING:
                self.report(replica, ReplicaPhase.READY)
        if self.record.rollout is not None and self.record.rollout.paused:
            fabric.apply(c.ControlRollout(*KEY, RolloutAction.RESUME))
        fabric.settle()
        fabric.advance(300_000)
        self.perform(("rebalance", False))  # which would look at it each minute for all these hours
        fabric.settle()
        fabric.advance(3_600_000)
        for _ in range(10):
            fabric.apply(c.ControlRollout(*KEY, RolloutAction.PROMOTE))
            fabric.settle()
            fabric.advance(3_600_000)

    def begin_move(self, node):
        """Makes a node a bad place and, where nothing is in the way, waits until what is there begins to move."""
        fabric = self.fabric
        for action in (RolloutAction.RESUME, *[RolloutAction.PROMOTE] * 4):
            fabric.apply(c.ControlRollout(*KEY, action))
            fabric.settle()
        fabric.now_ms += STAYS_MS
        fabric.dirty.add(KEY)
        for name in NODES:
            self.perform(("worse", name, name == node))
        self.perform(("look", 12))

    def ends(self):
        """All is as it was asked for in the end, and stays so."""
        self.heal()
        record, fabric = self.record, self.fabric
        held = fabric.replicas("web")
        story = f"{record.rollout} {record.spec} {held}"
        assert [r.status.phase for r in held] == [ReplicaPhase.READY] * record.spec.replicas, story
        assert {r.generation for r in held} <= {record.generation}, story
        assert rollouts.is_complete(record.rollout), story
        assert record.rollout.phase in (RolloutPhase.COMPLETE, RolloutPhase.ROLLED_BACK), story
        entries = len(fabric.log)
        fabric.dirty.add(KEY)
        fabric.settle()
        assert len(fabric.log) == entries, "a stable fabric is left alone"
        fabric.apply(c.DeleteWorkload(*KEY))
        fabric.settle()
        assert KEY not in fabric.state.workloads


@settings(deadline=None, max_examples=120)
@given(rollout_rules(), st.integers(1, 5), st.booleans(), st.lists(OPERATIONS, max_size=40))
def test_every_step_keeps_the_bounds_and_the_end_is_what_was_asked_for(rollout, replicas, moves, operations):
    scene = Scene(rollout, replicas, moves=moves)
    for operation in operations:
        scene.perform(operation)
    scene.ends()


@settings(deadline=None, max_examples=60)
@given(rollout_rules(), st.integers(1, 5), st.lists(st.tuples(NODE, st.lists(OPERATIONS, max_size=6)), max_size=4))
def test_what_happens_in_the_middle_of_a_move_breaks_no_bound(rollout, replicas, episodes):
    scene = Scene(dataclasses.replace(rollout, max_surge=max(1, rollout.max_surge)), replicas, moves=True)
    for node, operations in episodes:
        scene.begin_move(node)
        for operation in operations:
            scene.perform(operation)
    scene.ends()


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(NODE, st.sampled_from(["lose", "break"])), max_size=3),
    st.sampled_from([s for s in STRATEGIES if s is not RolloutStrategy.RECREATE]),
    st.integers(1, 4),
    st.integers(0, 12),
)
def test_a_version_that_never_works_goes_away_and_the_old_one_serves_throughout(faults, strategy, replicas, when):
    """Whatever node is lost meanwhile: as many serve as before, except for the moment until a lost one is replaced."""
    steps = Canary((CanaryStep(50, 1_000),)) if strategy is RolloutStrategy.CANARY else None
    rollout = Rollout(strategy, 1, 0, replicas, 0, 60_000, True, steps)
    scene = Scene(rollout, replicas)
    fabric = scene.fabric
    scene.broken = {2}
    scene.perform(("image", 2))
    for _ in range(when):
        fabric.reconcile_dirty()
        fabric.agents_step()
    for node, fault in faults:
        if fault == "lose" and sum(n.state is NodeState.READY for n in fabric.state.nodes.values()) > 1:
            fabric.apply(c.ReportNode(node, NodeState.LOST, "test"))
        fabric.settle()
        assert len(fabric.ready("web")) >= replicas
    fabric.settle()
    fabric.advance(120_000)
    assert len(fabric.ready("web")) == replicas
    record = scene.record
    assert record.spec.containers[0].image == "web:1"
    assert record.rollout.phase is RolloutPhase.ROLLED_BACK
    assert rollouts.is_complete(record.rollout)
    generation = record.generation
    fabric.advance(3_600_000)
    assert scene.record.generation == generation, "what was rolled back is not tried again"


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 3), st.lists(OPERATIONS, max_size=25))
def test_system_workloads_come_to_their_end_too(unavailable, operations):
    fabric = Fabric()
    for name in NODES:
        fabric.join(name)
    scene = Scene.__new__(Scene)
    scene.fabric, scene.image, scene.broken, scene.annotations = fabric, 1, set(), {}
    scene.rollout = Rollout(RolloutStrategy.ROLLING_UPDATE, 0, unavailable, 0, 0, 30_000, True)

    def put(replicas):
        spec = service(image=f"web:{scene.image}", rollout=scene.rollout, kind=WorkloadType.SYSTEM)
        fabric.put("web", spec)

    scene.put = put
    put(0)
    fabric.fails = scene.fails
    fabric.settle()
    for operation in operations:
        if operation[0] not in ("rollout", "scale"):
            scene.perform(operation)
    scene.heal()
    record, held = scene.record, fabric.replicas("web")
    story = f"{record.rollout} {held}"
    assert sorted(r.node_id for r in held) == sorted(NODES), story
    assert {r.status.phase for r in held} == {ReplicaPhase.READY}, story
    assert {r.generation for r in held} == {record.generation}, story
    assert rollouts.is_complete(record.rollout), story


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from(list(ReconnectRule)),
    st.integers(1, 4),
    NODE,
    st.sampled_from([NodeState.UNREACHABLE, NodeState.LOST]),
    st.booleans(),
    st.lists(NODE, max_size=3),
)
def test_on_reconnect_the_rule_says_which_copy_stays(rule, replicas, node, state, broken, flapped):
    """Ready copies come before others, then the rule decides; what was never away stays, and losers stop in order."""
    fabric = Fabric()
    for name in NODES:
        fabric.join(name)
    for name in flapped:  # nodes whose replicas came and went before, without being replaced
        fabric.now_ms += 1_000
        fabric.apply(c.ReportNode(name, NodeState.UNREACHABLE))
        fabric.apply(c.ReportNode(name, NodeState.READY))
    fabric.put("web", service(replicas=replicas, disruption=Disruption(1_000, rule)))
    fabric.settle()
    for name in flapped:
        fabric.now_ms += 1_000
        fabric.apply(c.ReportNode(name, NodeState.UNREACHABLE))
        fabric.apply(c.ReportNode(name, NodeState.READY))
    fabric.advance(10_000)
    before = {r.id: r.node_id for r in fabric.replicas("web")}
    away = {replica_id for replica_id, on in before.items() if on == node}
    fabric.apply(c.ReportNode(node, state))
    fabric.settle()
    fabric.advance(5_000)
    replaced = {r.id for r in fabric.ready("web")}
    assert len(replaced) == replicas
    fabric.apply(c.ReportNode(node, NodeState.READY))
    for replica in fabric.replicas("web"):
        if broken and replica.id in away and not replica.stopping:
            status = dataclasses.replace(replica.status, phase=ReplicaPhase.RUNNING)
            fabric.apply(c.ReportReplicas(node, (c.ReportedReplica(replica.id, status),)))
    least = []
    fabric.observers.append(lambda applied: least.append(sum(not r.stopping for r in fabric.ready("web"))))
    fabric.settle()
    fabric.advance(10_000)
    after = {r.id for r in fabric.replicas("web")}
    assert min(least, default=replicas) >= replicas
    old_stay = rule is ReconnectRule.KEEP_OLDEST and state is NodeState.UNREACHABLE and not broken
    assert after == (set(before) if old_stay else replaced)
