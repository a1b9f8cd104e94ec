"""What a node does about the replicas assigned to it, known to it and found on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from cloudless.core.model import Assignment


@dataclass(frozen=True, slots=True)
class Start:
    """Assigned, and nothing of it is on the node."""

    assignment: Assignment


@dataclass(frozen=True, slots=True)
class Adopt:
    """Assigned, and already on the node: an earlier life of this agent made it."""

    assignment: Assignment


@dataclass(frozen=True, slots=True)
class Update:
    """Known, and its assignment changed (it shall stop now)."""

    assignment: Assignment


@dataclass(frozen=True, slots=True)
class Stop:
    """Known and no longer assigned."""

    replica_id: str


@dataclass(frozen=True, slots=True)
class RemoveUnknown:
    """On the node, and nobody asked for it."""

    replica_id: str


@dataclass(frozen=True, slots=True)
class LeaveAlone:
    """On the node, and there is no word yet from a coordinator or the journal: it may be wanted."""

    replica_id: str


Decision: TypeAlias = Start | Adopt | Update | Stop | RemoveUnknown | LeaveAlone


def plan(
    *,
    assignments: Mapping[str, Assignment] | None,
    known: Mapping[str, Assignment | None],
    found: frozenset[str],
) -> tuple[Decision, ...]:
    """One decision per replica that needs one, by replica id.

    `assignments`: what the node shall run, None before the first word from a coordinator or the journal.
    `known`: the replicas that are supervised already, with the assignment they follow (None: being removed).
    `found`: the sandboxes on the node. Repeatable: after its decisions are carried out it has none.
    """
    wanted = assignments or {}
    decisions: list[Decision] = []
    for replica_id in sorted({*wanted, *known, *found}):
        assignment = wanted.get(replica_id)
        if assignment is not None:
            if replica_id not in known:
                decisions.append(Adopt(assignment) if replica_id in found else Start(assignment))
            elif known[replica_id] != assignment:
                decisions.append(Update(assignment))
        elif assignments is None:
            if replica_id not in known:
                decisions.append(LeaveAlone(replica_id))
        elif replica_id in known:
            if known[replica_id] is not None:
                decisions.append(Stop(replica_id))
        else:
            decisions.append(RemoveUnknown(replica_id))
    return tuple(decisions)
