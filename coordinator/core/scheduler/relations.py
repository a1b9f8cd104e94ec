"""Which workloads concern each other: found by labels, by terms that keep others away, by host ports.

`Relations` belongs to one version of `state.workloads`. It is persistent as that is: the next version is derived from
it by the workloads that changed, and the one before stays valid.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar

from immutables import Map

from cloudless.coordinator.core.state import Ids, State, Touched, WorkloadKey, touched_since
from cloudless.core.model import WorkloadRecord
from cloudless.core.spec import Affinity, AntiAffinity, WorkloadSpec

Label: TypeAlias = tuple[str, str, str]  # (namespace, key, value)
Repulsion: TypeAlias = tuple[int, AntiAffinity]  # (generation, required term about others)

_KEPT: Final = 4  # versions; several states are looked at in turns when forecasts are made

K = TypeVar("K")


def selects(term: Affinity | AntiAffinity, *, owner: str, name: str, labels: Mapping[str, str]) -> bool:
    """Whether a term of the workload `owner` is about the workload `name` of the same namespace."""
    if term.match_labels:
        return all(labels.get(key) == value for key, value in term.match_labels.items())
    return name == (term.workload or owner)


def required_about_others(record: WorkloadRecord) -> Iterator[Repulsion]:
    """The required anti-affinity of each generation that is kept, as far as it may be about other workloads."""
    name = record.metadata.name
    for revision in record.history:
        for term in revision.spec.placement.anti_affinity:
            if term.required and (term.match_labels or term.workload not in ("", name)):
                yield revision.generation, term


def host_ports(record: WorkloadRecord) -> bool:
    return any(_has_host_ports(revision.spec) for revision in record.history)


def _has_host_ports(spec: WorkloadSpec) -> bool:
    return any(port.host_port for container in spec.containers for port in container.ports)


@dataclass(frozen=True, slots=True)
class Relations:
    workloads: Map[WorkloadKey, WorkloadRecord]
    touched: Touched | None
    by_label: Map[Label, Ids]  # names of workloads that have it
    repelling: Map[WorkloadKey, tuple[Repulsion, ...]]
    repelling_name: Map[WorkloadKey, Ids]  # names of those that repel this workload by its name
    repelling_label: Map[Label, Ids]  # names of those that repel workloads with this label, among others
    with_host_ports: Map[WorkloadKey, bool]

    @classmethod
    def empty(cls) -> Relations:
        return cls(Map(), None, Map(), Map(), Map(), Map(), Map())

    def matching(self, namespace: str, labels: Mapping[str, str]) -> list[WorkloadKey]:
        """The workloads of the namespace that have all these labels (at least one), in order."""
        found = [self.by_label.get((namespace, key, value), _NONE) for key, value in labels.items()]
        fewest, *others = sorted(found, key=len)
        return [(namespace, name) for name in sorted(fewest) if all(name in names for names in others)]

    def repulsions(self, record: WorkloadRecord) -> list[tuple[WorkloadKey, int, AntiAffinity]]:
        """Required terms of other workloads that are about this one, in order: whose, of which generation."""
        namespace, me = record.metadata.namespace, record.metadata.name
        labels = record.metadata.labels
        names = set(self.repelling_name.get((namespace, me), _NONE))
        for key, value in labels.items():
            names |= set(self.repelling_label.get((namespace, key, value), _NONE))
        names.discard(me)
        return [
            ((namespace, name), generation, term)
            for name in sorted(names)
            for generation, term in self.repelling[(namespace, name)]
            if selects(term, owner=name, name=me, labels=labels)
        ]

    def derived(self, state: State, keys: Iterable[WorkloadKey]) -> Relations:
        """The relations of a state that differs from this one's in these workloads at most."""
        by_label, by_name, by_other = self.by_label, self.repelling_name, self.repelling_label
        repelling, ports = self.repelling, self.with_host_ports
        for key in dict.fromkeys(keys):
            before, after = self.workloads.get(key), state.workloads.get(key)
            if before is after:
                continue
            old_labels, new_labels = _labels(key, before), _labels(key, after)
            by_label = _moved(by_label, key[1], old_labels, new_labels)
            old, new = repelling.get(key, ()), () if after is None else tuple(required_about_others(after))
            if old != new:
                by_name = _moved(by_name, key[1], _names(key, old), _names(key, new))
                by_other = _moved(by_other, key[1], _first_labels(key, old), _first_labels(key, new))
                repelling = repelling.set(key, new) if new else repelling.delete(key)
            if after is not None and host_ports(after):
                ports = ports.set(key, True)
            elif key in ports:
                ports = ports.delete(key)
        return Relations(state.workloads, state.touched_workloads, by_label, repelling, by_name, by_other, ports)


_NONE: Final[Ids] = Map()


def _labels(key: WorkloadKey, record: WorkloadRecord | None) -> list[Label]:
    return [] if record is None else [(key[0], name, value) for name, value in record.metadata.labels.items()]


def _names(key: WorkloadKey, repulsions: Iterable[Repulsion]) -> list[WorkloadKey]:
    return [(key[0], term.workload) for _, term in repulsions if not term.match_labels]


def _first_labels(key: WorkloadKey, repulsions: Iterable[Repulsion]) -> list[Label]:
    """One label of each term; whoever lacks it is not meant."""
    return [(key[0], *min(term.match_labels.items())) for _, term in repulsions if term.match_labels]


def _moved(index: Map[K, Ids], name: str, old: Iterable[K], new: Iterable[K]) -> Map[K, Ids]:
    kept = dict.fromkeys(new)
    gone = [key for key in dict.fromkeys(old) if key not in kept]
    for key in gone:
        names = index[key].delete(name)
        index = index.set(key, names) if names else index.delete(key)
    for key in kept:
        members: Ids = index.get(key, _NONE)
        if name not in members:
            index = index.set(key, members.set(name, True))
    return index


_recent: Final[list[Relations]] = []  # newest last; what is in it follows from the states it was asked about


def relations_of(state: State) -> Relations:
    """The relations of the state's workloads."""
    for known in reversed(_recent):
        if known.workloads is state.workloads:
            return known
    for position in range(len(_recent) - 1, -1, -1):
        keys = touched_since(state.touched_workloads, _recent[position].touched)
        if keys is not None:
            return _remembered(_remembered(_recent.pop(position)).derived(state, keys))
    known = _recent[-1] if _recent else Relations.empty()
    return _remembered(known.derived(state, [*known.workloads, *state.workloads]))


def _remembered(relations: Relations) -> Relations:
    _recent.append(relations)
    del _recent[:-_KEPT]
    return relations
