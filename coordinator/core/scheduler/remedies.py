"""What would make a workload fit that fits nowhere: single changes, each tried with the scheduler itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, TypeVar

from cloudless.coordinator.core import amounts
from cloudless.coordinator.core.priority import PRIORITY_GAP
from cloudless.coordinator.core.scheduler import topology
from cloudless.coordinator.core.scheduler.filters import FORMAT, Room, rooms, untolerated
from cloudless.coordinator.core.scheduler.plan import Board
from cloudless.coordinator.core.scheduler.preemption import victims
from cloudless.coordinator.core.scheduler.score import Weights
from cloudless.coordinator.core.state import State
from cloudless.core.fields import KEY
from cloudless.core.model import Node, NodeState, NodeUsage, Taint, WorkloadRecord
from cloudless.core.replacing import replace
from cloudless.core.spec import Container, ContainerPort, Placement, ResourceAmounts, Toleration, WorkloadSpec

ALTERNATIVES_MAX: Final = 3  # of one kind: taints, labels, nodes
PRIORITY_MAX: Final = 100
_MIB: Final = 2**20
_PORTS_TRIED: Final = 1000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fit:
    """`change` in words, after which a replica would go to the node. `path` is where the change is made in the
    manifest; empty: it is none of the manifest."""

    change: str
    node_id: str
    path: str = ""


@dataclass(frozen=True, slots=True)
class _Trial:
    change: str
    path: str = ""
    spec: WorkloadSpec | None = None  # None: as it is
    node: Node | None = None  # in place of the one with its id
    at_ease: str = ""  # the id of a node without pressure


def would_fit_if(
    state: State,
    record: WorkloadRecord,
    *,
    weights: Weights,
    usage: Mapping[str, NodeUsage],
    now_ms: int,
) -> tuple[Fit, ...]:
    """Single changes after which one more replica of the workload's present spec would fit, cheapest first: what
    people do to a node, then what the manifest gives up, then what others give up for it, then what time may bring.
    Empty where it fits already, and where nothing that is known helps. The work is bounded: some thirty placements."""
    board = Board(state, record, weights=weights, usage=usage, now_ms=now_ms)
    if board.feasible:
        return ()
    found = []
    for trial in _trials(state, record, board):
        fit = _tried(state, record, trial, weights=weights, usage=usage, now_ms=now_ms)
        if fit is not None:
            found.append(fit)
    found += _by_priority(state, record, weights=weights, usage=usage, now_ms=now_ms)
    for trial in _by_waiting(board):
        fit = _tried(state, record, trial, weights=weights, usage=usage, now_ms=now_ms)
        if fit is not None:
            found.append(fit)
    if not found:
        for trial in _smaller_in_all(record.spec, board):
            fit = _tried(state, record, trial, weights=weights, usage=usage, now_ms=now_ms)
            if fit is not None:
                found.append(fit)
    return tuple(found)


def _tried(
    state: State,
    record: WorkloadRecord,
    trial: _Trial,
    *,
    weights: Weights,
    usage: Mapping[str, NodeUsage],
    now_ms: int,
) -> Fit | None:
    if trial.spec is not None:
        record = replace(record, spec=trial.spec)
    if trial.node is not None:
        state = state.with_node(trial.node)
    if trial.at_ease:
        usage = {**usage, trial.at_ease: replace(usage[trial.at_ease], pressure=())}
    decision = Board(state, record, weights=weights, usage=usage, now_ms=now_ms).place()
    return Fit(trial.change, decision.node_id, trial.path) if decision.node_id else None


def _trials(state: State, record: WorkloadRecord, board: Board) -> Iterator[_Trial]:
    spec = record.spec
    yield from _uncordoned(board)
    yield from _tolerating(spec, board)
    yield from _elsewhere(spec, board)
    yield from _selecting(spec, board)
    yield from _other_ports(state, spec, board)
    yield from _less_company(spec, board)
    yield from _smaller(spec, board)


def _nodes(board: Board, filter_name: str) -> Iterator[Node]:
    """The nodes that only this filter objects to."""
    return (board.table.nodes[row] for row in board.verdicts.only(filter_name).tolist())


def _most_frequent(items: Iterator[T]) -> list[T]:
    """The most frequent ones first; among equals, the one that came first."""
    return [item for item, _ in Counter(items).most_common(ALTERNATIVES_MAX)]


# -- nodes ------------------------------------------------------------------------------------------------


def _uncordoned(board: Board) -> Iterator[_Trial]:
    for node in islice(_nodes(board, "cordoned"), ALTERNATIVES_MAX):
        change = f"uncordon {node.id}" + (", which ends its drain" if node.draining else "")
        yield _Trial(change, node=replace(node, cordoned=False, draining=False))


def _by_waiting(board: Board) -> Iterator[_Trial]:
    for node in islice(_nodes(board, "ready"), ALTERNATIVES_MAX):
        if node.state in (NodeState.UNREACHABLE, NodeState.LOST):
            yield _Trial(f"wait until {node.id} is back", node=replace(node, state=NodeState.READY))
    for node in islice(_nodes(board, "owner"), ALTERNATIVES_MAX):
        terms = node.device.owner
        if terms is not None and not terms.accepting:
            open_again = replace(node.device, owner=replace(terms, accepting=True))
            yield _Trial(f"wait until the owner of {node.id} admits work", node=replace(node, device=open_again))
    for node in islice(_nodes(board, "pressure"), ALTERNATIVES_MAX):
        yield _Trial(f"wait until {node.id} is not under pressure", at_ease=node.id)


# -- kind -------------------------------------------------------------------------------------------------


def _placed(spec: WorkloadSpec, placement: Placement) -> WorkloadSpec:
    return replace(spec, placement=placement)


def _tolerating(spec: WorkloadSpec, board: Board) -> Iterator[_Trial]:
    placement = spec.placement

    def lone_taints() -> Iterator[Taint]:
        for node in _nodes(board, "taints"):
            taints = untolerated(placement.tolerations, node.taints)
            if len(taints) == 1:
                yield taints[0]

    for taint in _most_frequent(lone_taints()):
        toleration = Toleration(taint.key, "Equal", taint.value, taint.effect)
        value = f"={taint.value}" if taint.value else ""
        yield _Trial(
            f"tolerate the taint {taint.key}{value}:{taint.effect}",
            "spec.placement.tolerations",
            _placed(spec, replace(placement, tolerations=(*placement.tolerations, toleration))),
        )


def _selecting(spec: WorkloadSpec, board: Board) -> Iterator[_Trial]:
    placement = spec.placement
    wanted = dict(placement.node_selector)

    def lone_mismatches() -> Iterator[tuple[str, str | None]]:
        for node in _nodes(board, "selector"):
            there = [(key, topology.value_of(node, key)) for key in sorted(wanted)]
            differing = [(key, value) for key, value in there if value != wanted[key]]
            if len(differing) == 1:
                yield differing[0]

    for key, value in _most_frequent(lone_mismatches()):
        others = {name: text for name, text in wanted.items() if name != key}
        if value:
            change, selector = f"select {key}={value} instead of {key}={wanted[key]}", {**others, key: value}
        else:
            change, selector = f"drop {key}={wanted[key]} from the node selector", others
        path = f"spec.placement.nodeSelector.{key}"
        yield _Trial(change, path, _placed(spec, replace(placement, node_selector=selector)))
    if len(wanted) > 1:
        change, path = "drop the node selector", "spec.placement.nodeSelector"
        yield _Trial(change, path, _placed(spec, replace(placement, node_selector={})))


def _elsewhere(spec: WorkloadSpec, board: Board) -> Iterator[_Trial]:
    if len(board.verdicts.only("locality")):
        relaxed = replace(spec.placement, required=False)
        change = "prefer the regions and zones instead of requiring them"
        yield _Trial(change, "spec.placement.required", _placed(spec, relaxed))


# -- company and ports ------------------------------------------------------------------------------------


def _less_company(spec: WorkloadSpec, board: Board) -> Iterator[_Trial]:
    placement = spec.placement
    if len(board.verdicts.only("spread")):
        for index, constraint in enumerate(placement.spread):
            if constraint.required:
                relaxed = _at(placement.spread, index, replace(constraint, required=False))
                change = f"prefer the spread over {constraint.topology_key} instead of requiring it"
                path = f"spec.placement.spread[{index}].required"
                yield _Trial(change, path, _placed(spec, replace(placement, spread=relaxed)))
    if len(board.verdicts.only("anti_affinity")):
        for index, term in enumerate(placement.anti_affinity):
            if term.required:
                apart = _at(placement.anti_affinity, index, replace(term, required=False))
                change = f"prefer the anti-affinity by {term.topology_key} instead of requiring it"
                path = f"spec.placement.antiAffinity[{index}].required"
                yield _Trial(change, path, _placed(spec, replace(placement, anti_affinity=apart)))
    if len(board.verdicts.only("affinity")):
        for index, wish in enumerate(placement.affinity):
            if wish.required:
                near = _at(placement.affinity, index, replace(wish, required=False))
                change = f"prefer the affinity by {wish.topology_key} instead of requiring it"
                path = f"spec.placement.affinity[{index}].required"
                yield _Trial(change, path, _placed(spec, replace(placement, affinity=near)))


def _at(items: tuple[T, ...], index: int, item: T) -> tuple[T, ...]:
    return (*items[:index], item, *items[index + 1 :])


def _other_ports(state: State, spec: WorkloadSpec, board: Board) -> Iterator[_Trial]:
    asked = amounts.host_ports_of(spec)
    for node in islice(_nodes(board, "host_ports"), ALTERNATIVES_MAX):
        taken = state.host_ports_on(node.id, sharing=board.me if board.shares_ports(node.id) else None)
        conflicts = [
            (c, p)
            for c, container in enumerate(spec.containers)
            for p, port in enumerate(container.ports)
            if port.host_port and (port.host_port, port.protocol or "TCP") in taken
        ]
        if len(conflicts) != 1:
            continue
        (at, number), (container, port) = conflicts[0], _port(spec, *conflicts[0])
        protocol = port.protocol or "TCP"
        higher = range(port.host_port + 1, min(port.host_port + _PORTS_TRIED, 65_535) + 1)
        free = next((p for p in higher if (p, protocol) not in taken and (p, protocol) not in asked), None)
        if free is not None:
            ports = _at(container.ports, number, replace(port, host_port=free))
            changed = replace(spec, containers=_at(spec.containers, at, replace(container, ports=ports)))
            path = f"spec.containers[{at}].ports[{number}].hostPort"
            yield _Trial(f"use host port {free} instead of {port.host_port}", path, changed)


def _port(spec: WorkloadSpec, container: int, port: int) -> tuple[Container, ContainerPort]:
    return spec.containers[container], spec.containers[container].ports[port]


# -- room -------------------------------------------------------------------------------------------------


def _smaller(spec: WorkloadSpec, board: Board) -> Iterator[_Trial]:
    for room in rooms(amounts.fragment_of(spec)):
        rows = board.verdicts.only(room.name)
        if len(rows):
            verdict = next(v for v in board.verdicts if v.name == room.name)
            yield from _lowered(spec, room, int(verdict.free[rows].max()))


def _smaller_in_all(spec: WorkloadSpec, board: Board) -> Iterator[_Trial]:
    """All resources at once, to what is free on the node that lacks the least."""
    asked = rooms(amounts.fragment_of(spec))
    rows = board.verdicts.only(*(room.name for room in asked)).tolist()
    said = {verdict.name: verdict for verdict in board.verdicts}

    def share(row: int) -> float:
        return min(min(1.0, int(said[room.name].free[row]) / room.ask) for room in asked)

    for row in sorted(rows, key=share, reverse=True)[:1]:
        changed, words = spec, list[str]()
        for room in asked:
            if said[room.name].codes[row]:
                lowered = next(_lowered(changed, room, int(said[room.name].free[row])), None)
                if lowered is None or lowered.spec is None:
                    return
                changed, words = lowered.spec, [*words, lowered.change]
        yield _Trial(" and ".join(words), "spec.containers", changed)


def _lowered(spec: WorkloadSpec, room: Room, free: int) -> Iterator[_Trial]:
    """The request of the container that asks for the most, so that a replica asks for `free` at most."""
    if room.resource == "memory_bytes" and free >= _MIB:
        free -= free % _MIB
    asks = [getattr(_requested(container), room.resource) for container in spec.containers]
    most = max(range(len(asks)), key=lambda index: (asks[index], -index))
    left = asks[most] - (room.ask - free)
    if left <= 0:
        return
    container = spec.containers[most]
    requests = _with_amount(container.resources.requests, room.resource, left)
    resources = replace(container.resources, requests=requests)
    changed = replace(spec, containers=_at(spec.containers, most, replace(container, resources=resources)))
    write: Callable[[int], str] = FORMAT[room.resource]
    whose = "" if len(spec.containers) == 1 else f" of container {container.name}"
    key = ResourceAmounts.__dataclass_fields__[room.resource].metadata.get(KEY, room.resource)
    change = f"lower the {room.name} request{whose} from {write(asks[most])} to {write(left)}"
    yield _Trial(change, f"spec.containers[{most}].resources.requests.{key}", changed)


def _requested(container: Container) -> ResourceAmounts:
    return amounts.fragment_of(WorkloadSpec(containers=(container,)))


def _with_amount(requests: ResourceAmounts, resource: str, value: int) -> ResourceAmounts:
    return replace(requests, **{resource: value})


# -- others -----------------------------------------------------------------------------------------------


def _by_priority(
    state: State, record: WorkloadRecord, *, weights: Weights, usage: Mapping[str, NodeUsage], now_ms: int
) -> Sequence[Fit]:
    """The least priority with which replicas of others would make room."""
    here = {state.workloads[key].spec.priority + PRIORITY_GAP for key in state.replicas_by_workload}
    higher = sorted(priority for priority in here if record.spec.priority < priority <= PRIORITY_MAX)

    def tried(priority: int) -> Fit | None:
        raised = replace(record, spec=replace(record.spec, priority=priority))
        found = victims(state, raised, weights=weights, usage=usage, now_ms=now_ms)
        if found is None:
            return None
        return Fit(f"raise the priority to {priority}: {found.summary}", found.node_id, "spec.priority")

    best = tried(higher[-1]) if higher else None
    low, high = 0, len(higher) - 1
    while best is not None and low < high:  # a higher priority never makes less room
        middle = (low + high) // 2
        found = tried(higher[middle])
        if found is None:
            low = middle + 1
        else:
            best, high = found, middle
    return () if best is None else (best,)
