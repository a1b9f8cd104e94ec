"""What must hold at every step of a simulation, and what must be true in the end."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from cloudless.agent.runtime.base import ContainerState
from cloudless.coordinator.core.snapshot import state_hash
from cloudless.coordinator.core.state import State
from cloudless.core.model import NodeState, ReplicaPhase

if TYPE_CHECKING:
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


def always(state: State) -> None:
    """After each entry: indexes are right and fragments never exceed what a node offers."""
    state.validate()
    for node_id in sorted(state.nodes):
        capacity = state.nodes[node_id].device.capacity
        replicas = state.replicas_on(node_id)
        for amount in ("cpu_millis", "memory_bytes", "storage_bytes"):
            total = sum(getattr(replica.fragment, amount) for replica in replicas)
            limit = getattr(capacity, amount)
            assert not limit or total <= limit, f"{node_id}: {amount} {total} > {limit}"


def no_second_copy(world: Any) -> None:
    """No replica id runs on two devices."""
    seen: dict[str, str] = {}
    for agent in world.agents:
        for replica_id, sandbox in agent.device.sandboxes.items():
            if any(c.view.state is ContainerState.RUNNING for c in sandbox.containers.values()):
                assert replica_id not in seen, f"{replica_id} runs on {seen[replica_id]} and on {agent.name}"
                seen[replica_id] = agent.name


def converged(world: World, wanted: dict[str, int]) -> str:
    """Empty when the fabric is as it was asked for; else what is missing."""
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
    if names != set(wanted):
        return f"workloads are {sorted(names)}, not {sorted(wanted)}"
    for name in sorted(wanted):
        replicas = state.replicas_of("default", name)
        phases = sorted(str(r.status.phase) for r in replicas)
        if len(replicas) != wanted[name] or any(r.status.phase is not ReplicaPhase.READY for r in replicas):
            return f"{name}: wanted {wanted[name]}, has {phases}"
    for agent in world.agents:
        placed = {r.id for r in state.replicas_on(agent.name)}
        held = set(agent.device.sandboxes)
        if held != placed:
            return f"{agent.name} holds {sorted(held ^ placed)} against its assignments"
        for replica_id in sorted(held):
            containers = agent.device.sandboxes[replica_id].containers.values()
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
