"""A small model of a whole fabric around the coordinator's pure core, in one thread and without time passing.

The real state machine applies real bytes; the real reconcile function plans for dirty workloads as the loop of
the coordinator would; agents are a few lines that start what is assigned and stop what is not. After each entry
the state's invariants are checked. Virtual time moves only by `advance`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

from cloudless.coordinator.core import machine
from cloudless.coordinator.core.assignments import assignments_for
from cloudless.coordinator.core.commands import (
    SCHEMA,
    ApplyPlan,
    Command,
    CreateToken,
    EnrollNode,
    Entry,
    PutWorkload,
    ReportedReplica,
    ReportNode,
    ReportReplicas,
    encode,
)
from cloudless.coordinator.core.machine import Applied
from cloudless.coordinator.core.reconcile import dirty_keys, in_order, reconcile
from cloudless.coordinator.core.scheduler import Weights
from cloudless.coordinator.core.state import State, WorkloadKey
from cloudless.core.model import (
    DeviceClass,
    DeviceInfo,
    Feature,
    JoinToken,
    NodeState,
    Replica,
    ReplicaPhase,
    ReplicaStatus,
    RuntimeInfo,
)
from cloudless.core.spec import (
    Container,
    Disruption,
    Metadata,
    Placement,
    ResourceAmounts,
    Resources,
    RestartPolicy,
    RestartPolicyKind,
    Rollout,
    RolloutStrategy,
    WorkloadSpec,
    WorkloadType,
)

MIB = 2**20
START_MS = 1_700_000_000_000
NAMESPACE = "default"


def device(*, cpu_millis: int = 4000, memory_bytes: int = 4096 * MIB) -> DeviceInfo:
    return DeviceInfo(
        device_class=DeviceClass.SERVER,
        arch="amd64",
        os="linux",
        capacity=ResourceAmounts(cpu_millis=cpu_millis, memory_bytes=memory_bytes),
        runtimes=(RuntimeInfo("fake", "1", True),),
        features=(Feature("seccomp", True), Feature("apparmor", False, "not in this kernel")),
    )


def service(
    *,
    replicas: int = 1,
    cpu_millis: int = 100,
    memory_bytes: int = 64 * MIB,
    image: str = "web:1",
    placement: Placement | None = None,
    rollout: Rollout | None = None,
    disruption: Disruption | None = None,
    kind: WorkloadType = WorkloadType.SERVICE,
) -> WorkloadSpec:
    amounts = ResourceAmounts(cpu_millis=cpu_millis, memory_bytes=memory_bytes)
    return WorkloadSpec(
        type=kind,
        replicas=replicas,
        priority=50,
        containers=(Container("main", image=image, resources=Resources(requests=amounts)),),
        placement=placement or Placement(),
        restart_policy=RestartPolicy(RestartPolicyKind.ALWAYS),
        rollout=rollout or Rollout(strategy=RolloutStrategy.ROLLING_UPDATE, max_surge=1),
        disruption=disruption or Disruption(offline_grace_ms=30_000),
    )


class Fabric:
    """State, agents and the reconcile loop; every entry is applied strictly and the invariants checked."""

    def __init__(self) -> None:
        self.state = State.empty("test.local")
        self.log: list[bytes] = []
        self.now_ms = START_MS
        self.dirty: set[WorkloadKey] = set()
        self.wake_at_ms: dict[WorkloadKey, int] = {}
        self.fails: Callable[[Replica], bool] = lambda replica: False
        self.observers: list[Callable[[Applied], None]] = []
        self._seed = 0

    # -- the log ------------------------------------------------------------------------------------------

    def apply(self, command: Command, *, actor: str = "user/test", request_id: str = "") -> Applied:
        data = encode(Entry(SCHEMA, request_id, self.now_ms, actor, command))
        self.log.append(data)
        applied = machine.apply(self.state, data, index=len(self.log), term=1, strict=True)
        self.state = applied.state
        self.state.validate()
        self.dirty |= dirty_keys(applied.changes, self.state)
        for observe in self.observers:
            observe(applied)
        return applied

    # -- people -------------------------------------------------------------------------------------------

    def join(self, name: str, *, zone: str = "", region: str = "eu", info: DeviceInfo | None = None) -> None:
        token = JoinToken(
            f"t-{len(self.log)}",
            name,
            region=region,
            zone=zone or f"zone-{name}",
            max_uses=1,
            expires_at_ms=self.now_ms + 1000,
        )
        assert self.apply(CreateToken(token)).result.accepted
        assert self.apply(EnrollNode(token.id, name, f"key-{name}", "serial", self.now_ms + 10**9)).result.accepted
        assert self.apply(ReportNode(name, NodeState.READY, "connected", info or device())).result.accepted

    def put(self, name: str, spec: WorkloadSpec) -> Applied:
        return self.apply(PutWorkload(Metadata(name, NAMESPACE), spec))

    def replicas(self, name: str) -> list[Replica]:
        return self.state.replicas_of(NAMESPACE, name)

    def ready(self, name: str) -> list[Replica]:
        """The replicas that serve: ready, on a node within reach, whether or not they were told to stop."""
        return [
            r
            for r in self.replicas(name)
            if r.status.phase is ReplicaPhase.READY and self.state.nodes[r.node_id].state is NodeState.READY
        ]

    def places(self, name: str) -> list[str]:
        return sorted(r.node_id for r in self.replicas(name) if r.node_id and not r.stopping)

    # -- the loop and the agents --------------------------------------------------------------------------

    def reconcile_one(self, key: WorkloadKey) -> bool:
        """Plans and proposes for one workload; whether anything was proposed."""
        self._seed += 1
        self.wake_at_ms.pop(key, None)
        plan = reconcile(self.state, *key, now_ms=self.now_ms, weights=Weights(), usage={}, id_seed=self._seed)
        if plan.wake_at_ms is not None:
            assert plan.wake_at_ms > self.now_ms, "a deadline that has passed would spin"
            self.wake_at_ms[key] = plan.wake_at_ms
        index = len(self.log)
        for command in plan.commands:
            if isinstance(command, ApplyPlan):
                command = dataclasses.replace(command, planned_at_index=index)
            self.apply(command, actor="system/reconciler")
        return bool(plan.commands)

    def reconcile_dirty(self) -> int:
        """One round over what is dirty; how many plans there were."""
        keys, self.dirty = in_order(self.dirty, self.state), set()
        return sum(self.reconcile_one(key) for key in keys)

    def agents_step(self, only: Iterable[str] | None = None) -> bool:
        """Each agent within reach takes each of its replicas one phase further; whether anything changed."""
        before = self.state
        for node_id in sorted(self.state.nodes if only is None else only):
            node = self.state.nodes[node_id]
            if node.state is not NodeState.READY:
                continue
            reports = tuple(
                report
                for assignment in assignments_for(self.state, node_id)
                if (report := self._report(self.state.replicas[assignment.replica_id])) is not None
            )
            if reports:
                self.apply(ReportReplicas(node_id, reports), actor=f"node/{node_id}")
        return self.state is not before

    def _report(self, replica: Replica) -> ReportedReplica | None:
        if replica.stopping:
            return ReportedReplica(replica.id, gone=True)
        following = {
            ReplicaPhase.ASSIGNED: ReplicaPhase.STARTING,
            ReplicaPhase.STARTING: ReplicaPhase.FAILED if self.fails(replica) else ReplicaPhase.READY,
        }
        phase = following.get(replica.status.phase or ReplicaPhase.PENDING)
        if phase is None:
            return None
        return ReportedReplica(replica.id, ReplicaStatus(phase=phase, since_ms=self.now_ms))

    def settle(self, *, rounds_max: int = 300) -> int:
        """Runs loop and agents until nothing changes at this time; how many rounds it took."""
        for rounds in range(rounds_max):
            planned = self.reconcile_dirty()
            moved = self.agents_step()
            if not planned and not moved and not self.dirty:
                return rounds
        raise AssertionError(f"not stable after {rounds_max} rounds")

    def advance(self, ms: int) -> None:
        """Lets time pass, stopping at each deadline that the loop asked to be woken at."""
        until = self.now_ms + ms
        while self.wake_at_ms and (next_ms := min(self.wake_at_ms.values())) <= until:
            self.now_ms = max(self.now_ms, next_ms)
            self.dirty |= {key for key, at_ms in self.wake_at_ms.items() if at_ms <= self.now_ms}
            for key in self.dirty:
                self.wake_at_ms.pop(key, None)
            self.settle()
        self.now_ms = until
        self.settle()


def refusal(applied: Applied) -> tuple[str, str]:
    """Code and reason of a refused command, which must have changed nothing."""
    assert not applied.result.accepted, applied.result
    assert (applied.changes, applied.events) == ((), ())
    assert applied.result.message
    return applied.result.code, applied.result.reason
