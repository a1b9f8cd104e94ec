"""The phases of a replica as its node sees them, as a table.

    Assigned -> Preparing -> Starting -> Running <-> Ready
    any of them -> Succeeded | Failed -> Stopping -> (gone)

A restart leads back to Starting; a sandbox that vanished (the device rebooted) back to Preparing. Pending is
the coordinator's word for "placed nowhere", Lost its word for "its node is gone": no agent enters either.
"""

from __future__ import annotations

from typing import Final

from cloudless.core.model import ReplicaPhase as P

_ALIVE: Final = frozenset({P.PREPARING, P.STARTING, P.RUNNING, P.READY, P.SUCCEEDED, P.FAILED, P.STOPPING})

TRANSITIONS: Final[dict[P, frozenset[P]]] = {
    P.PENDING: frozenset(),
    P.ASSIGNED: _ALIVE,
    P.PREPARING: _ALIVE,
    P.STARTING: _ALIVE,
    P.RUNNING: _ALIVE,
    P.READY: _ALIVE,
    P.SUCCEEDED: frozenset({P.STOPPING}),
    P.FAILED: frozenset({P.STOPPING}),
    P.STOPPING: frozenset(),
    P.LOST: frozenset(),
}


class IllegalTransition(Exception):
    """A bug: the table does not allow this step. The message tells the replica's story."""


def move(before: P, after: P, *, story: str) -> P:
    """`after`, when the table allows it or nothing changes; raises IllegalTransition otherwise."""
    if before is after or after in TRANSITIONS[before]:
        return after
    allowed = ", ".join(sorted(TRANSITIONS[before])) or "nothing"
    raise IllegalTransition(f"{before} -> {after} is not allowed (from {before}: {allowed}); {story}")
