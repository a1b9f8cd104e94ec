"""Affinity, anti-affinity and spread for all nodes at once, counting on while replicas are placed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from cloudless.coordinator.core.scheduler import columns
from cloudless.coordinator.core.scheduler.company import Term
from cloudless.coordinator.core.scheduler.facets import DOMAIN
from cloudless.coordinator.core.scheduler.table import Codes, Floats, Ints, NodeTable
from cloudless.coordinator.core.scheduler.verdicts import Verdict

_NO_ROWS: Final[Ints] = np.empty(0, np.int64)
ORDER: Final = ("affinity", "anti_affinity", "spread")  # the filters of this kind


class Neighbours:
    """One term of a planning run: how many replicas each place holds."""

    def __init__(self, table: NodeTable, term: Term, *, eligible: Ints) -> None:
        """`eligible` are the rows of nodes that a spread's skew is measured over."""
        facet = table.facet(DOMAIN + term.topology_key)
        self.term = term
        self._places = facet.codes
        self._counts: Ints = np.zeros(len(facet.values), np.int64)
        for node_id, count in term.counts.items():
            self._counts[facet.codes[table.index[node_id]]] += count
        self._total = int(self._counts.sum())
        self._measured = np.unique(facet.codes[eligible]) if term.filter == "spread" else None
        self._lowest = self._count_lowest()

    def _count_lowest(self) -> int:
        measured = self._measured
        return 0 if measured is None or not len(measured) else int(self._counts[measured].min())

    def take(self, row: int) -> Ints | None:
        """One replica more of the workload itself is on the node. The rows for which the term may say something else
        now; None: any."""
        if not self.term.own:
            return _NO_ROWS
        place = self._places[row]
        self._counts[place] += 1
        self._total += 1
        lowest, self._lowest = self._lowest, self._count_lowest()
        if self._lowest != lowest or (self.term.filter == "affinity" and self._total == 1):
            return None
        return np.flatnonzero(self._places == place)

    def excess(self) -> Ints:
        """By how much each place breaks the term: not at all up to 0."""
        return self._excess(self._counts)

    def _excess(self, counts: Ints) -> Ints:
        """The same, of places with so many replicas."""
        match self.term.filter:
            case "affinity":
                first = self._total == 0 and (self.term.own or not self.term.required)
                return np.zeros_like(counts) if first else (counts == 0).astype(np.int64)
            case "spread":
                return counts + (1 - self._lowest - self.term.max_skew)
        return counts

    def against(self, number: int) -> Codes:
        """The number for each node where the term is broken, and else 0."""
        found: Codes = np.where(self.excess() > 0, number, 0).astype(np.int32)[self._places]
        return found

    def points(self) -> Floats:
        """What breaking the term counts, for each node."""
        found: Floats = (columns.points(self.excess()) * self.term.weight)[self._places]
        return found

    def points_at(self, rows: Ints) -> Floats:
        """As `points`, for these nodes."""
        found: Floats = columns.points(self._excess(self._counts[self._places[rows]])) * self.term.weight
        return found


def judge(terms: Sequence[Neighbours], *, nodes: int) -> Codes:
    """What the filter that these terms make says: which of these terms a node breaks first, from 1; 0: none."""
    codes = np.zeros(nodes, np.int32)
    for number, each in enumerate(terms, start=1):
        codes = np.where(codes == 0, each.against(number), codes)
    return codes


def verdicts(terms: Sequence[Neighbours], *, nodes: int) -> list[tuple[Verdict, list[Neighbours]]]:
    """The verdicts of the required terms, each with those that it is made of."""
    found = []
    for name in ORDER:
        of_it = [each for each in terms if each.term.required and each.term.filter == name]
        if of_it:
            found.append((Verdict(name, judge(of_it, nodes=nodes), [t.term.reason for t in of_it]), of_it))
    return found
