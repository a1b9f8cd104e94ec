"""Which nodes are of the kind that a spec asks for; for workloads that run on each of them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from cloudless.coordinator.core.scheduler import filters
from cloudless.coordinator.core.scheduler.table import nodes_of
from cloudless.coordinator.core.scheduler.verdicts import judge
from cloudless.coordinator.core.state import State
from cloudless.core.spec import WorkloadSpec


def matching_nodes(state: State, spec: WorkloadSpec) -> list[str]:
    """Ids of the nodes that are of the kind that the spec asks for, whatever their present condition; in order."""
    return _passing(state, filters.kind_filters(spec))


def eligible_nodes(state: State, spec: WorkloadSpec, *, namespace: str | None = None) -> list[str]:
    """Ids of the nodes that match the spec, are ready and take new work, whether or not there is room; in order.
    With a namespace, only those whose owners admit it."""
    return _passing(state, (*filters.condition_filters(namespace), *filters.kind_filters(spec)))


def _passing(state: State, found: Iterable[filters.Filter]) -> list[str]:
    table = nodes_of(state)
    passing = np.ones(len(table), np.bool_)
    for verdict in judge(table, found):
        passing &= verdict.codes == 0
    return [table.ids[row] for row in np.flatnonzero(passing).tolist()]
