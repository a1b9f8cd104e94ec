"""The plan for one workload."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cloudless.coordinator.core.commands import ApplyPlan, Command
from cloudless.coordinator.core.reconcile import census as censuses
from cloudless.coordinator.core.reconcile.draft import Draft
from cloudless.coordinator.core.reconcile.jobs import plan_runs
from cloudless.coordinator.core.reconcile.service import plan_service
from cloudless.coordinator.core.reconcile.system import plan_system
from cloudless.coordinator.core.runs import is_result
from cloudless.coordinator.core.scheduler.score import Weights
from cloudless.coordinator.core.state import State
from cloudless.core.model import NodeUsage
from cloudless.core.spec import WorkloadType


@dataclass(frozen=True, slots=True)
class Plan:
    """What to propose now, and when to look again even if nothing changes (None: no need).

    The proposer sets `planned_at_index` of each ApplyPlan to the index of the snapshot that it planned on.
    """

    commands: tuple[Command, ...] = ()
    wake_at_ms: int | None = None


def reconcile(
    state: State,
    namespace: str,
    name: str,
    *,
    now_ms: int,
    weights: Weights,
    usage: Mapping[str, NodeUsage],
    id_seed: int,
    rebalancing: bool = True,
) -> Plan:
    """What brings the workload nearer to what is wanted of it; an empty plan when nothing does.

    `now_ms` is wall clock time, as log entries have it. `usage` is what nodes report live, for as many as are
    known. `id_seed` names new replicas; a fresh random number for each call keeps their ids from being used
    twice. Without `rebalancing` no move to a better node is begun, and none waited for. A plan is bounded; when more is
    to do, the changes that it causes lead to the next one.
    """
    record = state.workloads.get((namespace, name))
    if record is None:
        return Plan()
    deadlines = censuses.Deadlines(now_ms)
    census = censuses.take(state, record, deadlines)
    draft = Draft(state, record, census, weights=weights, usage=usage, now_ms=now_ms, id_seed=id_seed)
    draft.give_up(replica for replica in census.lost if not is_result(replica))
    if record.deleting:
        draft.give_up(census.given_up)
    elif record.spec.type is WorkloadType.SYSTEM:
        plan_system(draft, deadlines)
    elif record.spec.type in (WorkloadType.SERVICE, None):
        plan_service(draft, deadlines, rebalancing=rebalancing)
    else:
        plan_runs(draft, deadlines)
    draft.make_room()
    command = draft.command()
    empty = ApplyPlan(namespace=namespace, workload=name)
    return Plan(() if command == empty else (command,), deadlines.earliest_ms)
