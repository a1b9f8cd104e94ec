"""Which steps nodes and replicas may take, as tables. Everything else is refused or ignored with a reason.

    replica   Pending -> Assigned -> Preparing -> Starting -> Running <-> Ready
              any that runs -> Succeeded | Failed -> Stopping -> (gone);  any that is placed -> Lost -> (gone)
    node      Enrolling -> Ready <-> Unreachable -> Lost -> Ready

Pending, Assigned and Lost are the coordinator's words, which no node reports.
"""

from __future__ import annotations

from typing import Final

from cloudless.core.model import NodeState as N
from cloudless.core.model import ReplicaPhase as P

_REPORTED: Final = frozenset({P.PREPARING, P.STARTING, P.RUNNING, P.READY, P.STOPPING, P.SUCCEEDED, P.FAILED})

# From the recorded phase to the phases that a node may report next. A restart in place leads back to Starting
# or Preparing. What ended does not begin again: the reconciler replaces it.
REPLICA: Final[dict[P, frozenset[P]]] = {
    P.PENDING: frozenset(),
    P.ASSIGNED: _REPORTED,
    P.PREPARING: _REPORTED,
    P.STARTING: _REPORTED,
    P.RUNNING: _REPORTED,
    P.READY: _REPORTED,
    P.STOPPING: frozenset({P.SUCCEEDED, P.FAILED}),
    P.SUCCEEDED: frozenset({P.STOPPING}),
    P.FAILED: frozenset({P.STOPPING}),
    P.LOST: frozenset(),
}

# A node that leaves in good order goes from Ready to Lost at once.
NODE: Final[dict[N, frozenset[N]]] = {
    N.ENROLLING: frozenset({N.READY}),
    N.READY: frozenset({N.UNREACHABLE, N.LOST}),
    N.UNREACHABLE: frozenset({N.READY, N.LOST}),
    N.LOST: frozenset({N.READY}),
}


def replica_may(before: P, after: P) -> bool:
    return before is after or after in REPLICA[before]


def node_may(before: N, after: N) -> bool:
    return before is after or after in NODE[before]
