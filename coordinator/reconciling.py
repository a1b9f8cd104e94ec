"""Which reconcile loops a coordinator runs: the generic loop, tied to the pure decisions of the core."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from cloudless.config import SchedulerConfig
from cloudless.coordinator.core.reconcile import workload
from cloudless.coordinator.core.reconcile.dirty import dirty_keys, in_order
from cloudless.coordinator.core.state import State, WorkloadKey
from cloudless.coordinator.loops import ReconcileLoop
from cloudless.coordinator.store import Store
from cloudless.coordinator.weighing import weights_of
from cloudless.core.model import NodeUsage


def workload_loop(
    store: Store[State],
    *,
    usages: Callable[[], Mapping[str, NodeUsage]],
    scheduler: SchedulerConfig,
    rng: random.Random,
) -> ReconcileLoop[State, WorkloadKey]:
    """Keeps every workload as its spec wants it. `usages` gives what nodes use now, by id."""
    weights = weights_of(scheduler)

    def reconcile(state: State, key: WorkloadKey, now_ms: int, seed: int) -> workload.Plan:
        namespace, name = key
        return workload.reconcile(state, namespace, name, now_ms=now_ms, weights=weights, usage=usages(), id_seed=seed)

    return ReconcileLoop(
        store,
        name="workloads",
        dirty=lambda batch: in_order(dirty_keys(batch.changes, batch.state), batch.state),
        all_keys=lambda state: in_order(state.workloads, state),
        reconcile=reconcile,
        rng=rng,
        actor="system/reconciler",
    )
