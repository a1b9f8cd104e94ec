"""All nodes of a state as columns, for decisions over many of them.

A `NodeTable` belongs to one version of the nodes, of what is reserved on them and of their live use. It never changes,
apart from remembering columns that were asked for; the next version is derived from it by the nodes that changed, and
shares what is equal. Rows are in the order of the nodes' ids.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import islice, zip_longest
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
from immutables import Map

from cloudless.coordinator.core import amounts
from cloudless.coordinator.core.scheduler import facets, score
from cloudless.coordinator.core.scheduler.relations import relations_of
from cloudless.coordinator.core.state import State, touched_since
from cloudless.core.model import Node, NodeState, NodeUsage
from cloudless.core.spec import ResourceAmounts

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]
Port = tuple[int, str]

# Rows of `NodeTable.facts`.
CAPACITY: Final = slice(0, len(amounts.ACCOUNTED))
READY, SINCE, KNOWN, AVAILABLE, LOSSES, FAILED, UPDATED, FIRST_READY, PRIOR = range(5, 14)
# Rows of `NodeTable.judged`.
COST, NETWORK, NEAR = range(3)

_KEPT: Final = 4  # versions; several states are looked at in turns when forecasts are made
_STRETCH: Final = 256
_VALUES_SPARE: Final = 1024  # values of a facet that no node has any more, beyond the number of nodes


T = TypeVar("T")


class Usages(dict[str, NodeUsage]):
    """Live use by node id that nobody changes any more: the same object is the same use, and need not be compared."""

    __slots__ = ()


class Facet:
    """Each node's value of a facet, as a code: its place among `values`, which only ever grow and are shared by the
    versions of a table."""

    __slots__ = ("codes", "lookup", "values")

    def __init__(self, codes: Codes, values: list[Any], lookup: dict[Any, int]) -> None:
        self.codes = codes
        self.values = values
        self.lookup = lookup

    @classmethod
    def of(cls, values: Iterable[Hashable]) -> Facet:
        facet = cls(np.empty(0, np.int32), [], {})
        facet.codes = facet.encoded(values)
        return facet

    def encoded(self, values: Iterable[Hashable]) -> Codes:
        lookup, known = self.lookup, self.values
        codes = []
        for value in values:
            code = lookup.get(value)
            if code is None:
                code = lookup[value] = len(known)
                known.append(value)
            codes.append(code)
        return np.array(codes, np.int32)

    def with_rows(self, rows: Ints, values: Iterable[Hashable]) -> Facet:
        codes = self.codes.copy()
        codes[rows] = self.encoded(values)
        return Facet(codes, self.values, self.lookup)


class NodeTable:
    """`used` and the capacities are in the order of `amounts.ACCOUNTED`, `facts` and `judged` as the names above."""

    def __init__(self, state: State) -> None:
        """Of a state without nodes."""
        self._nodes_map: Map[str, Node] = Map()
        self._reserved_map: Map[str, ResourceAmounts] = Map()
        self._touched = state.touched_nodes
        self.ids: list[str] = []
        self.index: dict[str, int] = {}
        self.nodes: list[Node] = []
        self.usages: list[NodeUsage | None] = []
        self._usage: Mapping[str, NodeUsage] | None = None  # the newest that came as `Usages`
        self._reporting: list[list[str]] = []  # who told of its use, in the order of the last report, in stretches
        self._reports: list[list[NodeUsage]] = []
        self._reporting_rows: Ints | None = None  # the row of each; -1: no such node. None: rows have moved since
        self.used: Ints = np.zeros((len(amounts.ACCOUNTED), 0), np.int64)
        self.facts: Ints = np.zeros((PRIOR + 1, 0), np.int64)
        self.judged: Floats = np.zeros((NEAR + 1, 0), np.float64)
        self.weeks: npt.NDArray[np.uint16] | None = None  # presence per mille, hours by nodes; None: of no device
        self._facets: dict[str, Facet] = {}
        self._ports: Map[str, frozenset[Port]] | None = None  # by node id, where some are held; None: not asked yet

    def __len__(self) -> int:
        return len(self.ids)

    def facet(self, name: str) -> Facet:
        """The facet's column, made when it is first asked for."""
        found = self._facets.get(name)
        if found is None:
            if name == facets.PRESSURE:
                found = Facet.of(map(facets.pressure, self.usages))
            elif name in (facets.DOMAIN + "node", facets.DOMAIN + "hostname"):
                found = Facet(np.arange(len(self.ids), dtype=np.int32), self.ids, self.index)
            else:
                found = Facet.of(map(facets.reader(name), self.nodes))
            self._facets[name] = found
        return found

    def holders(self, state: State, ports: frozenset[Port]) -> dict[int, list[Port]]:
        """Which of these host ports are held, by the row of the node. `state` is the one the table is of."""
        if self._ports is None:
            held: dict[str, frozenset[Port]] = {}
            for key in relations_of(state).with_host_ports:
                for replica_id in state.replicas_by_workload.get(key, ()):
                    node_id = state.replicas[replica_id].node_id
                    if node_id in self.index and node_id not in held:
                        held[node_id] = frozenset(state.host_ports_on(node_id))
            self._ports = Map({node_id: taken for node_id, taken in held.items() if taken})
        return {
            self.index[node_id]: sorted(ports & taken)
            for node_id, taken in self._ports.items()
            if not ports.isdisjoint(taken)
        }

    def is_of(self, state: State) -> bool:
        return (
            self._nodes_map is state.nodes
            and self._reserved_map is state.reserved
            and self._touched is state.touched_nodes
        )

    def changed_since(self, state: State) -> list[str] | None:
        """The nodes that a later state changed; None where that is not known."""
        return touched_since(state.touched_nodes, self._touched)

    def differing(self, state: State) -> list[str]:
        """The nodes in which any state differs, by looking at all of them. Host ports are not looked at."""
        nodes, reserved = self._nodes_map, self._reserved_map
        found = [i for i, node in state.nodes.items() if nodes.get(i) is not node]
        found += [i for i in self.ids if i not in state.nodes]
        found += [i for i, used in state.reserved.items() if reserved.get(i) is not used]
        return found + [i for i in reserved if i not in state.reserved]

    # -- the next version ---------------------------------------------------------------------------------

    def derived(self, state: State, touched: Iterable[str], *, ports_known: bool) -> NodeTable:
        """The table of a state that differs from this one's in these nodes at most."""
        ids = sorted(set(touched))
        table = self._copy()
        table._nodes_map, table._reserved_map = state.nodes, state.reserved
        table._touched = state.touched_nodes
        if self._ports is not None:
            table._ports = _with_ports(self._ports, state, ids) if ports_known else None
        gone = [self.index[i] for i in ids if i in self.index and i not in state.nodes]
        if gone:
            table._drop(gone)
        come = [i for i in ids if i not in self.index and i in state.nodes]
        if come:
            table._insert(come)
        present = [i for i in ids if i in state.nodes]
        if present:
            table._reserve(present, state.reserved)
            changed = [i for i in present if self._nodes_map.get(i) is not state.nodes[i]]
            table._describe(changed, state.nodes)
        return table

    def _copy(self) -> NodeTable:
        table = object.__new__(NodeTable)
        table.__dict__.update(self.__dict__)
        table._facets = dict(self._facets)
        return table

    def _drop(self, rows: list[int]) -> None:
        self._move(lambda column: np.delete(column, rows, axis=-1))
        gone = set(rows)
        for name in ("ids", "nodes", "usages"):
            setattr(self, name, [item for row, item in enumerate(getattr(self, name)) if row not in gone])
        self._renumber()

    def _insert(self, ids: list[str]) -> None:
        at = [bisect_left(self.ids, i) for i in ids]
        self._move(lambda column: np.insert(column, at, 0, axis=-1))
        if len(ids) > 32:
            merged = dict(zip(self.ids, zip(self.nodes, self.usages, strict=True), strict=True))
            self.ids = sorted((*self.ids, *ids))
            self.nodes = [merged[i][0] if i in merged else Node() for i in self.ids]
            self.usages = [merged[i][1] if i in merged else None for i in self.ids]
        else:
            self.ids, self.nodes, self.usages = list(self.ids), list(self.nodes), list(self.usages)
            for shift, (position, node_id) in enumerate(zip(at, ids, strict=True)):
                self.ids.insert(position + shift, node_id)
                self.nodes.insert(position + shift, Node())
                self.usages.insert(position + shift, None)
        self._renumber()
        pressure = self._facets.get(facets.PRESSURE)
        if pressure is not None:
            self._facets[facets.PRESSURE] = pressure.with_rows(self._rows(ids), [()] * len(ids))

    def _move(self, change: Any) -> None:
        self.used, self.facts, self.judged = change(self.used), change(self.facts), change(self.judged)
        if self.weeks is not None:
            self.weeks = change(self.weeks)
        for name in (facets.DOMAIN + "node", facets.DOMAIN + "hostname"):
            self._facets.pop(name, None)
        for name, facet in self._facets.items():
            self._facets[name] = Facet(change(facet.codes), facet.values, facet.lookup)

    def _renumber(self) -> None:
        self._reporting_rows = self._usage = None
        self.index = {node_id: row for row, node_id in enumerate(self.ids)}

    def _reserve(self, ids: Sequence[str], reserved: Mapping[str, ResourceAmounts]) -> None:
        rows = self._rows(ids)
        values = [_amounts(reserved.get(i, amounts.NOTHING)) for i in ids]
        self.used = self.used.copy()
        self.used[:, rows] = np.array(values, np.int64).T

    def _describe(self, ids: Sequence[str], nodes: Mapping[str, Node]) -> None:
        if not ids:
            return
        rows, found = self._rows(ids), [nodes[i] for i in ids]
        self.nodes = list(self.nodes)
        for row, node in zip(rows.tolist(), found, strict=True):
            self.nodes[row] = node
        self.facts = self.facts.copy()
        self.facts[:, rows] = np.array([_facts(node) for node in found], np.int64).T
        self._remember_weeks(rows, found)
        for name, facet in list(self._facets.items()):
            if name == facets.PRESSURE or facet.lookup is self.index:
                continue
            if len(facet.values) > len(self.ids) + _VALUES_SPARE:
                del self._facets[name]
            else:
                self._facets[name] = facet.with_rows(rows, map(facets.reader(name), found))
        self._judge(rows)

    def _remember_weeks(self, rows: Ints, nodes: Sequence[Node]) -> None:
        if self.weeks is None and all(node.presence is None for node in nodes):
            return
        if self.weeks is None:
            self.weeks = np.full((score.WEEK_HOURS, len(self.ids)), 1000, np.uint16)
        self.weeks = self.weeks.copy()
        for row, node in zip(rows.tolist(), nodes, strict=True):
            week = score.week(node.presence)
            self.weeks[:, row] = 1000 if week is None else week

    def _judge(self, rows: Ints) -> None:
        judged = []
        for row in rows.tolist():
            node, usage = self.nodes[row], self.usages[row]
            near = score.nearness(usage)
            judged.append(
                (score.cost(node, usage), score.network_penalty(node, usage), np.nan if near is None else near)
            )
        self.judged = self.judged.copy()
        self.judged[:, rows] = np.array(judged, np.float64).T

    def _rows(self, ids: Sequence[str]) -> Ints:
        return np.array([self.index[i] for i in ids], np.int64)

    def with_usage(self, usage: Mapping[str, NodeUsage]) -> NodeTable:
        """The table with this live use; the same one where nothing of it changed."""
        if usage is self._usage:
            return self
        table = self._copy()
        table._usage = usage if isinstance(usage, Usages) else None
        if self._reporting_rows is not None and _same(self._reporting, usage):
            at = self._reporting_rows
            table._reports, found = _renewed(self._reports, usage.values())
            changed: list[tuple[int, NodeUsage | None]] = [(int(at[i]), new) for i, new in found if at[i] >= 0]
            if not found:
                self._usage = table._usage
                return self
        else:
            table._reporting, table._reports = list(_stretches(usage)), list(_stretches(usage.values()))
            table._reporting_rows = np.array([self.index.get(node_id, -1) for node_id in usage], np.int64)
            rows = enumerate(zip(self.ids, self.usages, strict=True))
            changed = [(row, usage.get(node_id)) for row, (node_id, old) in rows if usage.get(node_id) is not old]
        if changed:
            table._report(changed)
        return table

    def _report(self, changed: Sequence[tuple[int, NodeUsage | None]]) -> None:
        self.usages = list(self.usages)
        for row, report in changed:
            self.usages[row] = report
        rows = np.array([row for row, _ in changed], np.int64)
        self._judge(rows)
        pressure = self._facets.get(facets.PRESSURE)
        if pressure is not None:
            self._facets[facets.PRESSURE] = pressure.with_rows(rows, (facets.pressure(u) for _, u in changed))


def _stretches(items: Iterable[T]) -> Iterator[list[T]]:
    """Short lists of the items. Most of what is reported is what was reported before: comparing stretch by stretch
    touches each item once, while it is at hand."""
    rest = iter(items)
    while stretch := list(islice(rest, _STRETCH)):
        yield stretch


def _same(before: Sequence[list[str]], after: Iterable[str]) -> bool:
    return all(old == new for old, new in zip_longest(before, _stretches(after)))


def _renewed(
    before: Sequence[list[NodeUsage]], after: Iterable[NodeUsage]
) -> tuple[list[list[NodeUsage]], list[tuple[int, NodeUsage]]]:
    """The reports after as many reports before, and those that differ, each with its place."""
    stretches, found = [], []
    for number, (old, new) in enumerate(zip(before, _stretches(after), strict=True)):
        if old == new:
            stretches.append(old)
            continue
        stretches.append(new)
        pairs = enumerate(zip(old, new, strict=True), number * _STRETCH)
        found += [(place, two) for place, (one, two) in pairs if one is not two]
    return stretches, found


def _amounts(value: ResourceAmounts) -> tuple[int, ...]:
    return value.cpu_millis, value.memory_bytes, value.storage_bytes, value.egress_bps, value.pids


def _facts(node: Node) -> tuple[int, ...]:
    record = node.reliability
    history = (
        (0, 0, 0, 0, 0, 0)
        if record is None
        else (
            1,
            min(1000, max(0, record.available_permille)),
            max(0, record.losses_milli),
            max(0, record.failed_starts_milli),
            record.updated_at_ms,
            record.first_ready_at_ms,
        )
    )
    ready = int(node.state is NodeState.READY)
    prior = score.AVAILABILITY_PERMILLE[node.device.device_class]
    return *_amounts(node.device.capacity), ready, node.state_since_ms, *history, prior


def _with_ports(ports: Map[str, frozenset[Port]], state: State, ids: Iterable[str]) -> Map[str, frozenset[Port]]:
    if not relations_of(state).with_host_ports:
        return Map()
    for node_id in ids:
        taken = frozenset(state.host_ports_on(node_id)) if node_id in state.replicas_by_node else frozenset()
        if taken:
            ports = ports.set(node_id, taken)
        elif node_id in ports:
            ports = ports.delete(node_id)
    return ports


_recent: Final[list[NodeTable]] = []  # newest last; what is in it follows from the states it was asked about


def table_of(state: State, usage: Mapping[str, NodeUsage]) -> NodeTable:
    """The table of the state's nodes with this live use, derived from one that was asked for lately."""
    return _remembered(_advanced(state).with_usage(usage))


def nodes_of(state: State) -> NodeTable:
    """The table of the state's nodes, whatever their live use; to look at what does not depend on it."""
    return _remembered(_advanced(state))


def _remembered(table: NodeTable) -> NodeTable:
    _recent.append(table)
    del _recent[:-_KEPT]
    return table


def _advanced(state: State) -> NodeTable:
    for position in range(len(_recent) - 1, -1, -1):
        if _recent[position].is_of(state):
            return _recent.pop(position)
    for position in range(len(_recent) - 1, -1, -1):
        touched = _recent[position].changed_since(state)
        if touched is not None:
            return _remembered(_recent.pop(position)).derived(state, touched, ports_known=True)
    if _recent and len(state.nodes) >= len(_recent[-1]) // 2:
        return _recent[-1].derived(state, _recent[-1].differing(state), ports_known=False)
    return NodeTable(state).derived(state, state.nodes, ports_known=False)
