"""Random small fabrics with everything that placement depends on, and how they change. From a seeded generator, so that
a test that names the seed can be repeated."""

from __future__ import annotations

import random

from cloudless.coordinator.core import amounts
from cloudless.coordinator.core.port_sharing import FEATURE
from cloudless.coordinator.core.state import State
from cloudless.core.model import (
    DeviceClass,
    DeviceInfo,
    Feature,
    Node,
    NodePresence,
    NodeReliability,
    NodeState,
    NodeUsage,
    OwnerTerms,
    Replica,
    ReplicaPhase,
    ReplicaStatus,
    RuntimeInfo,
    Taint,
    WorkloadRecord,
    WorkloadRevision,
)
from cloudless.core.replacing import replace
from cloudless.core.spec import (
    Affinity,
    AntiAffinity,
    Container,
    ContainerPort,
    Metadata,
    Placement,
    Protocol,
    ResourceAmounts,
    Resources,
    Rollout,
    SpreadConstraint,
    TaintEffect,
    Toleration,
    WorkloadSpec,
    WorkloadType,
)

NOW_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
KEYS = ("node", "zone", "region", "rack")
NAMES = ("web", "db", "cache")
TAINTS = (
    (),
    (),
    (),
    (Taint("k", "v", TaintEffect.NO_SCHEDULE),),
    (Taint("k", "", TaintEffect.NO_EXECUTE),),
    (Taint("p", "", TaintEffect.PREFER_NO_SCHEDULE),),
)


def node(rng: random.Random, name: str) -> Node:
    capacity = ResourceAmounts(
        rng.choice([0, 500, 2000, 2000]), rng.choice([0, 256, 1024, 1024]), rng.choice([0, 5, 50])
    )
    owner = None
    if rng.random() < 0.3:
        reason = rng.choice(["", "OutsideHours", "BatteryLow"])
        namespaces = rng.choice([(), (), ("default",), ("other", "third")])
        owner = OwnerTerms(accepting=rng.random() < 0.8, not_accepting_reason=reason, namespaces=namespaces)
    reliability = None
    if rng.random() < 0.5:
        reliability = NodeReliability(
            rng.randrange(1001),
            rng.choice([0, 0, rng.randrange(20_000)]),
            rng.choice([0, rng.randrange(9000)]),
            NOW_MS - rng.randrange(1000 * HOUR_MS),
            rng.choice([0, NOW_MS - rng.randrange(3000 * HOUR_MS)]),
        )
    presence = None
    if rng.random() < 0.3:
        presence = NodePresence(tuple(rng.choice([-1, 0, 500, 1000, rng.randrange(1001)]) for _ in range(168)))
    labels = rng.choice([{}, {"rack": "r1"}, {"rack": "r2"}])
    if rng.random() < 0.2:
        labels = {**labels, "cloudless.dev/cost": rng.choice(["0", "0.5", "3", "much"])}
    return Node(
        id=name,
        region=rng.choice(["eu", "us"]),
        zone=rng.choice(["", "z1", "z2", "z3"]),
        labels=labels,
        taints=rng.choice(TAINTS),
        cordoned=rng.random() < 0.1,
        draining=rng.random() < 0.05,
        state=rng.choice([NodeState.READY] * 8 + [*NodeState, None]),
        state_since_ms=NOW_MS - rng.choice([-5, 0, rng.randrange(10**8)]),
        reliability=reliability,
        presence=presence,
        device=DeviceInfo(
            device_class=rng.choice([None, *DeviceClass]),
            arch=rng.choice(["amd64", "arm64"]),
            capacity=capacity,
            metered=rng.random() < 0.3,
            power_source=rng.choice(["mains", "battery", ""]),
            runtimes=tuple(RuntimeInfo(name, "", rng.random() < 0.8) for name in ("containerd", "process")),
            features=(Feature(FEATURE, rng.random() < 0.8),) if rng.random() < 0.5 else (),
            owner=owner,
        ),
    )


def spec(rng: random.Random) -> WorkloadSpec:
    ports = (ContainerPort("p", 80, Protocol.TCP, rng.choice([8080, 8081])),) if rng.random() < 0.2 else ()
    runs = {"process": ("/bin/x",)} if rng.random() < 0.2 else {"image": "x"}
    asked = ResourceAmounts(
        rng.choice([0, 100, 500]), rng.choice([0, 64, 256]), rng.choice([0, 0, 10]), 0, rng.choice([0, 5])
    )
    placement = Placement(
        regions=rng.choice([(), ("eu",), ("us", "eu")]),
        zones=rng.choice([(), (), ("z2", "z1")]),
        required=rng.random() < 0.3,
        node_selector=rng.choice([{}, {}, {}, {"arch": "amd64"}, {"rack": "r1", "region": "eu"}]),
        tolerations=rng.choice([(), (Toleration("k", "Exists"),)]),
        affinity=tuple(_affinity(rng) for _ in range(rng.choice([0, 0, 0, 1, 2]))),
        anti_affinity=tuple(_anti_affinity(rng) for _ in range(rng.choice([0, 0, 1, 2]))),
        spread=tuple(
            SpreadConstraint(key, rng.randrange(3), rng.random() < 0.4)
            for key in rng.sample(KEYS, rng.choice([0, 0, 1, 2]))
        ),
    )
    return WorkloadSpec(
        type=WorkloadType.SERVICE,
        replicas=rng.randrange(6),
        priority=rng.choice([0, 45, 50, 60, 100]),
        containers=(Container("main", ports=ports, resources=Resources(asked), **runs),),
        placement=placement,
        rollout=Rollout(min_available=rng.choice([0, 0, 1, 2])),
    )


def _target(rng: random.Random) -> tuple[str, dict[str, str]]:
    return rng.choice([("", {}), (rng.choice(NAMES), {}), ("", {"tier": "a"}), ("", {"tier": "b", "app": "db"})])


def _affinity(rng: random.Random) -> Affinity:
    workload, labels = _target(rng)
    required = rng.random() < 0.5
    return Affinity(workload, labels, rng.choice(KEYS), required, 0 if required else rng.choice([0, 1, 50, 100]))


def _anti_affinity(rng: random.Random) -> AntiAffinity:
    workload, labels = _target(rng)
    required = rng.random() < 0.5
    return AntiAffinity(workload, rng.choice(KEYS), required, labels, 0 if required else rng.choice([0, 1, 50]))


def workload(rng: random.Random, name: str, before: WorkloadRecord | None = None) -> WorkloadRecord:
    """A workload, or the next generation of it, which keeps the one before."""
    made = spec(rng)
    generation = 1 if before is None else before.generation + 1
    history = () if before is None else before.history[-1:]
    labels = rng.choice([{}, {"tier": "a"}, {"tier": "b", "app": "db"}])
    return WorkloadRecord(
        Metadata(name, "default", labels),
        made,
        generation=generation,
        history=(*history, WorkloadRevision(generation, made)),
    )


def usage(rng: random.Random) -> NodeUsage:
    return NodeUsage(
        battery_percent=rng.randrange(101),
        power_source=rng.choice(["", "mains", "battery"]),
        metered=rng.random() < 0.3,
        rtt_us=rng.choice([0, rng.randrange(10**6)]),
        pressure=rng.choice([(), (), (), ("memory",), ("memory", "disk")]),
    )


def with_replica(rng: random.Random, state: State, name: str, replica_id: str) -> State:
    """One more replica of the workload on some node, if that has room."""
    record = state.workloads[("default", name)]
    revision = rng.choice(record.history)
    node_id = rng.choice(sorted(state.nodes))
    fragment = amounts.fragment_of(revision.spec)
    used = amounts.plus(state.reserved.get(node_id, amounts.NOTHING), fragment)
    if amounts.exceeded(used, state.nodes[node_id].device.capacity):
        return state
    phase = rng.choice([ReplicaPhase.READY] * 4 + [ReplicaPhase.FAILED, ReplicaPhase.LOST])
    lost = phase is ReplicaPhase.LOST
    return state.with_replica(
        Replica(
            replica_id,
            name,
            "default",
            revision.generation,
            node_id,
            stopping=lost or rng.random() < 0.2,
            status=ReplicaStatus(phase),
            fragment=amounts.NOTHING if lost else fragment,
            assigned_at_ms=NOW_MS - rng.randrange(10**6),
        )
    )


def cluster(rng: random.Random, *, nodes_max: int = 8, replicas_max: int = 4) -> State:
    state = State.empty("t")
    for number in range(rng.randrange(nodes_max + 1)):
        state = state.with_node(node(rng, f"n{number}"))
    for name in NAMES:
        state = state.with_workload(workload(rng, name))
        if state.nodes:
            for index in range(rng.randrange(replicas_max + 1)):
                state = with_replica(rng, state, name, f"{name}-{index}")
    return state


def changed(rng: random.Random, state: State, step: int) -> State:
    """What may happen next: a node comes, goes or is another; a replica comes, goes or fails; a workload changes."""
    ids, replica_ids = sorted(state.nodes), sorted(state.replicas)
    match rng.randrange(7):
        case 0:
            return state.with_node(node(rng, rng.choice([f"m{step}", f"a{step}", f"z{step}"])))
        case 1 if ids:
            empty = [node_id for node_id in ids if node_id not in state.replicas_by_node]
            return state.without_node(rng.choice(empty)) if empty else state
        case 2 if ids:
            return state.with_node(node(rng, rng.choice(ids)))
        case 3 if replica_ids:
            return state.without_replica(rng.choice(replica_ids))
        case 4 if replica_ids:
            replica = state.replicas[rng.choice(replica_ids)]
            if rng.random() < 0.5:
                return state.with_replica(replace(replica, stopping=True))
            lost = replace(replica.status, phase=ReplicaPhase.LOST)
            return state.with_replica(replace(replica, stopping=True, status=lost, fragment=amounts.NOTHING))
        case 5:
            key = ("default", rng.choice(NAMES))
            record = workload(rng, key[1], state.workloads[key])
            kept = {revision.generation for revision in record.history}
            if all(state.replicas[i].generation in kept for i in state.replicas_by_workload.get(key, ())):
                return state.with_workload(record)
            return state
    return with_replica(rng, state, rng.choice(NAMES), f"s{step}") if ids else state
