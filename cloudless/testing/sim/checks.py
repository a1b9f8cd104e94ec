"""What must hold at every step of a simulation, and what must be true in the end."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from cloudless.agent.runtime.base import ContainerState
from cloudless.config import SchedulerConfig
from cloudless.coordinator.core import amounts, rollouts, runs
from cloudless.coordinator.core.scheduler.kinds import eligible_nodes
from cloudless.coordinator.core.scheduler.plan import place
from cloudless.coordinator.core.snapshot import state_hash
from cloudless.coordinator.core.state import State
from cloudless.coordinator.weighing import weights_of
from cloudless.core.model import NodeState, ReplicaPhase, WorkloadRecord
from cloudless.core.spec import WorkloadType
from cloudless.testing.sim import workloads

if TYPE_CHECKING:
    from cloudless.testing.sim.agents import SimAgent
    from cloudless.testing.sim.world import World


class History:
    """A running hash of what was decided: two runs of one seed must agree in every step."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.steps = 0

    def add(self, *words: object) -> None:
        self._hash.update(repr(words).encode())
        self.steps += 1

    def digest(self) -> str:
        return self._hash.hexdigest()[:16]


def always(state: State, *, thoroughly: bool = True) -> None:
    """After each entry: fragments never exceed what a node offers, and every replica has an owner and a spec;
    `thoroughly`: all that the state says of itself, its indexes among it."""
    if thoroughly:
        state.validate()
    for replica in state.replicas.values():
        record = state.workloads.get((replica.namespace, replica.workload))
        assert record is not None, f"{replica.id} belongs to no workload"
        assert state.spec_of(replica) is not None, f"generation {replica.generation} of {replica.id} is not kept"
    for node_id in sorted(state.replicas_by_node):
        capacity, used = state.nodes[node_id].device.capacity, state.reserved.get(node_id, amounts.NOTHING)
        # What stops may be more than a device that became smaller offers; what it shall run may not.
        if amounts.exceeded(used, capacity):
            held = [r for r in state.replicas_on(node_id) if not r.stopping]
            over = amounts.exceeded(amounts.total(r.fragment for r in held), capacity)
            assert not over, f"{node_id}: more {over} are reserved than it has"


def no_second_copy(world: World) -> None:
    """No replica id runs on two devices, unless both say to be the same node."""
    seen: dict[str, SimAgent] = {}
    for agent in world.devices():
        for replica_id, sandbox in agent.device.sandboxes.items():
            if any(c.view.state is ContainerState.RUNNING for c in sandbox.containers.values()):
                other = seen.setdefault(replica_id, agent)
                second = other is not agent and other.identity != agent.identity
                assert not second, f"{replica_id} runs on {other.name} and on {agent.name}"


def converged(world: World, wanted: dict[str, int], drained: str) -> str:
    """Empty when the fabric is as it was asked for; else what is missing. `wanted`: replicas of services, by workload;
    `drained`: the node that shall be empty, if any.

    - every node is ready; every service has so many ready replicas of its newest generation, whose rollout is complete;
      a system workload has one on each node that takes it; runs of jobs and crons have ended;
    - a replica may wait for a place as long as the scheduler finds none for it on the state as it is;
    - devices hold what is assigned to them, and what shall run does.
    """
    for coordinator in world.coordinators.values():
        if coordinator.store is None:
            return f"{coordinator.name} is down"
    leader = world.leader()
    if leader is None or leader.store is None:
        return "nobody leads"
    state = leader.store.snapshot.state
    for node_id in sorted(state.nodes):
        if state.nodes[node_id].state is not NodeState.READY:
            return f"{node_id} is {state.nodes[node_id].state}"
    names = {name for _, name in state.workloads}
    kept = {name for name in wanted if workloads.kind_of(name) is not WorkloadType.JOB}  # jobs may have expired
    if not kept <= names <= set(wanted):
        return f"workloads are {sorted(names)}, not {sorted(wanted)}"
    for key in sorted(state.workloads):
        if missing := _missing(state, state.workloads[key], wanted[key[1]]):
            return f"{key[1]}: {missing}"
    if drained and (left := state.replicas_by_node.get(drained)):
        return f"{drained} is drained and has {sorted(left)}"
    for agent in world.agents:
        if missing := _not_as_told(state, agent):
            return missing
    return ""


def _missing(state: State, record: WorkloadRecord, wanted: int) -> str:
    spec = record.spec
    replicas = state.replicas_of(record.metadata.namespace, record.metadata.name)
    if spec.type in runs.RUN_TYPES:
        unfinished = [run.number for run in record.runs if runs.is_unfinished(run)]
        if unfinished or (spec.type is WorkloadType.JOB and not record.runs):
            return f"runs {unfinished} have not ended"
        left = [r.id for r in replicas if not runs.is_result(r)]
        return f"{left} are left of runs" if left else ""
    if spec.type is WorkloadType.SYSTEM:
        wanted = len(eligible_nodes(state, spec, namespace=record.metadata.namespace))
    elif spec.replicas != wanted:
        return f"{spec.replicas} replicas are asked for, not {wanted}"
    ready = [r for r in replicas if r.status.phase is ReplicaPhase.READY and not r.stopping]
    waiting = [r for r in replicas if not r.node_id]
    if len(replicas) != wanted or len(ready) + len(waiting) != wanted:
        return f"wanted {wanted}, has {sorted(str(r.status.phase) for r in replicas)}"
    if waiting:
        return "replicas wait" if _has_place(state, record) else ""
    if any(r.generation != record.generation for r in ready):
        return f"not all replicas are of generation {record.generation}"
    if record.rollout is None or not rollouts.is_complete(record.rollout):
        return "" if not wanted else f"its rollout is {record.rollout.phase if record.rollout else 'unknown'}"
    return ""


def _has_place(state: State, record: WorkloadRecord) -> bool:
    now_ms = max(node.state_since_ms for node in state.nodes.values())
    found = place(state, record, 1, weights=weights_of(SchedulerConfig()), usage={}, now_ms=now_ms)
    return any(decision.node_id for decision in found)


def _not_as_told(state: State, agent: SimAgent) -> str:
    placed = {r.id: r for r in state.replicas_on(agent.name)}
    held = agent.device.sandboxes
    results = {replica_id for replica_id, replica in placed.items() if runs.is_result(replica)}
    if set(held) - results != set(placed) - results:
        return f"{agent.name} holds {sorted(set(held) ^ set(placed))} against its assignments"
    for replica_id in sorted(set(held) - results):
        containers = held[replica_id].containers.values()
        if not containers or any(c.view.state is not ContainerState.RUNNING for c in containers):
            return f"{replica_id} does not run on {agent.name}"
    return ""


def differing(world: World, index: int) -> str:
    """Empty when every coordinator has come to this index at least, and all that are at the same one hold the same
    state; else what is missing. Raises AssertionError where two states differ."""
    hashes: dict[int, tuple[str, str]] = {}
    for name, coordinator in world.coordinators.items():
        if coordinator.store is None or coordinator.store.snapshot.index < index:
            return f"{name} has not come to entry {index}"
        snapshot = coordinator.store.snapshot
        found = state_hash(snapshot.state)
        other, expected = hashes.setdefault(snapshot.index, (name, found))
        assert found == expected, f"{name} and {other} differ at entry {snapshot.index}"
    return "" if len(hashes) == 1 else f"the coordinators are at {sorted(hashes)}"
