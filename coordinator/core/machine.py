"""The state machine: the only way in which the replicated state changes.

`apply` is total and deterministic. It looks at nothing but the state and the entry: no clock, no randomness, no
iteration order of a hash table. Every member that applies the same entries holds the same state, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from cloudless.coordinator.core import commands as c
from cloudless.coordinator.core.apply_coordinators import (
    announce_coordinator,
    enroll_coordinator,
    record_event,
    remove_coordinator,
)
from cloudless.coordinator.core.apply_nodes import enroll_node, remove_node, renew_certificate, report_node, update_node
from cloudless.coordinator.core.apply_plan import apply_plan
from cloudless.coordinator.core.apply_replicas import report_replicas
from cloudless.coordinator.core.apply_rollouts import control_rollout
from cloudless.coordinator.core.apply_runs import start_run
from cloudless.coordinator.core.apply_tokens import create_token, revoke_token
from cloudless.coordinator.core.apply_users import put_user, revoke_user
from cloudless.coordinator.core.apply_workloads import (
    delete_workload,
    put_workload,
    restart_workload,
    scale_workload,
)
from cloudless.coordinator.core.outcome import ApplyResult, Change, RememberedResult
from cloudless.coordinator.core.state import State
from cloudless.coordinator.core.transition import Transition
from cloudless.core.model import Event
from cloudless.core.quick import quick_frozen
from cloudless.errors import CloudlessError

__all__ = ["APPLY", "Applied", "ApplyResult", "Change", "apply"]

_MESSAGE_MAX: Final = 2048  # characters
_REMEDY_MAX: Final = 512

ApplyFunction: TypeAlias = Callable[[Transition, Any], ApplyResult]


def _no_op(t: Transition, command: c.NoOp) -> ApplyResult:
    return t.accepted("unchanged")


APPLY: Final[Mapping[type[Any], ApplyFunction]] = {
    c.NoOp: _no_op,
    c.CreateToken: create_token,
    c.RevokeToken: revoke_token,
    c.EnrollNode: enroll_node,
    c.RenewCertificate: renew_certificate,
    c.UpdateNode: update_node,
    c.RemoveNode: remove_node,
    c.ReportNode: report_node,
    c.PutWorkload: put_workload,
    c.ScaleWorkload: scale_workload,
    c.DeleteWorkload: delete_workload,
    c.RestartWorkload: restart_workload,
    c.ApplyPlan: apply_plan,
    c.ReportReplicas: report_replicas,
    c.PutUser: put_user,
    c.RevokeUser: revoke_user,
    c.EnrollCoordinator: enroll_coordinator,
    c.AnnounceCoordinator: announce_coordinator,
    c.RemoveCoordinator: remove_coordinator,
    c.RecordEvent: record_event,
    c.ControlRollout: control_rollout,
    c.StartRun: start_run,
}


@quick_frozen
class Applied:
    """What one entry led to. `events` are those that it added, `changes` one per object that it touched."""

    state: State
    result: ApplyResult
    changes: tuple[Change, ...] = ()
    events: tuple[Event, ...] = ()


def apply(state: State, data: bytes, *, index: int, term: int, strict: bool = False, known: int = c.SCHEMA) -> Applied:
    """Applies the entry `data`, which stands at `index` of the log.

    An entry that cannot be read, or is of a schema above `known`, is refused with code `invalid_argument` (reason
    BadEntry) and changes nothing. A refused command
    changes nothing but the memory of its request id. A repeated request id gets the first answer and no second
    effect. A bug inside an apply function is refused with code `internal`; with `strict` it is raised instead,
    for tests. Never raises otherwise, except MemoryError: a member that cannot hold the state must stop rather
    than go on with another one than its peers.
    """
    try:
        entry = c.decode(data, known=known)
    except ValueError as error:
        return Applied(state, ApplyResult(code="invalid_argument", message=str(error), reason="BadEntry"))
    if entry.request_id:
        remembered = state.results.get(entry.request_id)
        if remembered is not None:
            return Applied(state, remembered.result)
    t = Transition(state, index=index, now_ms=entry.issued_at_ms, actor=entry.actor, request_id=entry.request_id)
    try:
        result = APPLY[type(entry.command)](t, entry.command)
    except CloudlessError as refusal:
        t, result = _refused(state, t, refusal)
    except MemoryError:
        raise
    except Exception as bug:
        if strict:
            raise
        t, result = _refused(state, t, bug)
    remembered = RememberedResult(entry.request_id, index, result) if entry.request_id else None
    return Applied(t.state.with_outcome(t.events, remembered), result, t.changes, tuple(t.events))


def _refused(state: State, t: Transition, error: Exception) -> tuple[Transition, ApplyResult]:
    """The answer to a refused command, and a transition in which nothing happened."""
    untouched = Transition(state, index=t.index, now_ms=t.now_ms, actor=t.actor, request_id=t.request_id)
    if isinstance(error, CloudlessError):
        # Kept for repeats, tens of thousands of them: a refusal that quotes a long text must not fill the memory.
        return untouched, ApplyResult(
            code=error.code,
            message=error.message[:_MESSAGE_MAX],
            reason=error.reason,
            remedy=error.remedy[:_REMEDY_MAX],
        )
    # The type alone: a bug's text may differ between members (an address, an order).
    return untouched, ApplyResult(code="internal", message=f"bug in apply: {type(error).__name__}", reason="Internal")
