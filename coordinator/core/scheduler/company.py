"""What a replica wants of its neighbours: affinity, anti-affinity in both directions, and spread.

`company` reads from the state which replicas count for which term, per node; whoever places brings them to the places
of each term's topology key, and counts on as it places.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from cloudless.coordinator.core.scheduler.relations import selects
from cloudless.coordinator.core.state import State, WorkloadKey
from cloudless.core.model import Replica, ReplicaPhase, WorkloadRecord
from cloudless.core.spec import Affinity, AntiAffinity

FULL_WEIGHT: Final = 100


class Related(Protocol):
    """Where to look workloads up; `Relations` is one."""

    def matching(self, namespace: str, labels: dict[str, str], /) -> list[WorkloadKey]: ...

    def repulsions(self, record: WorkloadRecord, /) -> list[tuple[WorkloadKey, int, AntiAffinity]]: ...


@dataclass(slots=True)
class Term:
    """`filter` is affinity, anti_affinity or spread. `counts` is per node, by id. `own`: replicas of the workload
    itself count, so that each one that is placed does. A preferred term counts `weight`, up to 1."""

    filter: str
    topology_key: str
    required: bool
    weight: float
    own: bool
    counts: Counter[str]
    reason: str  # in words, against a node that breaks it
    max_skew: int = 0


@dataclass(slots=True)
class Company:
    """`own` is how many replicas of the workload stay on each node, `failed_on` the nodes where one failed and is
    still there. Preferences come in the order of `terms`."""

    own: Counter[str]
    failed_on: frozenset[str]
    terms: list[Term]


def company(state: State, record: WorkloadRecord, related: Related, *, ignoring: Collection[str]) -> Company:
    """`ignoring` are ids of replicas of the workload that are about to be replaced, and do not count."""
    name, placement = record.metadata.name, record.spec.placement
    own: Counter[str] = Counter()
    failed = set()
    replicas, generation = state.replicas, record.generation
    staying = []
    for replica_id in state.replicas_by_workload.get((record.metadata.namespace, name), ()):
        replica = replicas[replica_id]
        if replica.status.phase is ReplicaPhase.FAILED:
            failed.add(replica.node_id)
        if replica.generation == generation and _stays(replica) and replica_id not in ignoring:
            staying.append(replica.node_id)
    own.update(staying)
    nodes = state.nodes
    for node_id in [node_id for node_id in own if node_id not in nodes]:
        del own[node_id]  # those that are placed nowhere
    terms = []
    for each in placement.spread:
        over, skew = each.topology_key, max(1, each.max_skew)
        reason = f"spread: one more here would exceed a skew of {skew} over {over}"
        terms.append(Term("spread", over, each.required, 1.0, True, Counter(own), reason, skew))
    for term in placement.anti_affinity:
        counts, itself = _counted(state, record, related, term, own, ignoring)
        reason = f"anti-affinity: {_who(term, name)} is in the same {term.topology_key}"
        terms.append(Term("anti_affinity", term.topology_key, term.required, _weight(term), itself, counts, reason))
    for wish in placement.affinity:
        counts, itself = _counted(state, record, related, wish, own, ignoring)
        reason = f"affinity: {_who(wish, name)} is not in the same {wish.topology_key}"
        terms.append(Term("affinity", wish.topology_key, wish.required, _weight(wish), itself, counts, reason))
    for key, generation, term in related.repulsions(record):
        there = [r for r in _replicas(state, key) if r.generation == generation and _is_there(r)]
        if there:
            counts = Counter(r.node_id for r in there)
            reason = f"anti-affinity: {key[1]} keeps others out of the same {term.topology_key}"
            terms.append(Term("anti_affinity", term.topology_key, True, 1.0, False, counts, reason))
    return Company(own, frozenset(node_id for node_id in failed if node_id in nodes), terms)


def _counted(
    state: State,
    record: WorkloadRecord,
    related: Related,
    term: Affinity | AntiAffinity,
    own: Counter[str],
    ignoring: Collection[str],
) -> tuple[Counter[str], bool]:
    """The replicas that a term is about, per node, and whether the workload's own are among them.

    Of the workload itself those of the present generation count that are to stay: a rollout spreads the new replicas
    among themselves and is not held up by the old ones. To be apart from others means from all that is still there,
    to be near them from all that stays.
    """
    namespace, name = record.metadata.namespace, record.metadata.name
    if term.match_labels:
        keys = related.matching(namespace, dict(term.match_labels))
    else:
        keys = [(namespace, term.workload or name)]
    itself = selects(term, owner=name, name=name, labels=record.metadata.labels)
    counts = Counter(own) if itself else Counter()
    here = _stays if isinstance(term, Affinity) else _is_there
    for key in keys:
        if key[1] != name:
            counts.update(r.node_id for r in _replicas(state, key) if here(r) and r.id not in ignoring)
    return counts, itself


def _replicas(state: State, key: WorkloadKey) -> Iterable[Replica]:
    replicas, nodes = state.replicas, state.nodes
    for replica_id in state.replicas_by_workload.get(key, ()):
        replica = replicas[replica_id]
        if replica.node_id in nodes:
            yield replica


def _is_there(replica: Replica) -> bool:
    return replica.status.phase is not ReplicaPhase.LOST


def _stays(replica: Replica) -> bool:
    return not replica.stopping and replica.status.phase is not ReplicaPhase.LOST


def _weight(term: Affinity | AntiAffinity) -> float:
    return (term.weight or FULL_WEIGHT) / FULL_WEIGHT


def _who(term: Affinity | AntiAffinity, name: str) -> str:
    if not term.match_labels:
        return term.workload or name
    labels = ",".join(f"{key}={value}" for key, value in sorted(term.match_labels.items()))
    return f"a workload with {labels}"
