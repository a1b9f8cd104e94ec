"""Reads see every write that was acknowledged before them, whichever coordinator is asked.

A call that only reads waits first until this coordinator's state is as new as the leader's (`Store.read_barrier`);
the metadata `cloudless-consistency: stale` leaves that out, and then any coordinator answers from what it has, also
where there is no leader. Where this coordinator leads alone the barrier costs nothing.

A follower lags behind the leader by a moment. A call that it refuses because of something that it does not know (yet)
is looked at once more behind the barrier, so that what one coordinator acknowledged is never unknown to the next.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from prometheus_client import Counter

from cloudless.coordinator.rpc.access import API
from cloudless.coordinator.rpc.call import Call
from cloudless.coordinator.rpc.pipeline import Proceed
from cloudless.errors import InvalidArgument, NotFound, PermissionDenied, Unauthenticated, Unavailable
from cloudless.identity.channel import CONSISTENCY_METADATA, LINEARIZABLE, STALE

# Calls that only read the replicated state, and streams that begin with it. Not here: what has to be answered without
# a leader (sessions, what coordinators ask of each other, health, the cluster's own status), and writes.
READS: Final = frozenset(
    API + name
    for name in (
        "TokenService/ListTokens",
        "NodeService/GetNode",
        "NodeService/ListNodes",
        "NodeService/WatchNodes",
        "WorkloadService/GetWorkload",
        "WorkloadService/ListWorkloads",
        "WorkloadService/WatchWorkloads",
        "WorkloadService/GetReplica",
        "WorkloadService/ListReplicas",
        "WorkloadService/WatchReplicas",
        "WorkloadService/ListRevisions",
        "WorkloadService/Logs",
        "PlanningService/ExplainPlacement",
        "PlanningService/PlanWorkloads",
        "PlanningService/Simulate",
        "WorkloadService/Exec",
        "ImageService/ImportImage",
        "ImageService/ListImages",
        "UserService/ListUsers",
        "UserService/WhoAmI",
        "EventService/ListEvents",
        "EventService/WatchEvents",
    )
)

# What a coordinator that lags behind may say, and a current one may not.
_LACKING: Final = frozenset({"UserUnknown", "NodeRemoved", "CertificateSuperseded", "RoleRequired"})

_STOPPING: Final = frozenset({"StoreClosed", "ShuttingDown"})

WAITED = Counter("cloudless_read_barriers_total", "Reads that waited until the state was current.", ["result"])
REPEATED = Counter("cloudless_calls_looked_at_again_total", "Calls refused by a state that lagged behind.", ["method"])


class Replicated(Protocol):
    """What this needs of the store."""

    @property
    def leading(self) -> bool: ...

    async def read_barrier(self) -> int: ...


class Consistency:
    """Stands before authentication: who may is asked of the state that the read will see. Raises Unavailable
    (NoLeader), InvalidArgument (BadConsistency)."""

    def __init__(self, store: Replicated) -> None:
        self._store = store
        self._passed = WAITED.labels("passed")

    async def __call__(self, call: Call, request: Any, proceed: Proceed) -> Any:
        if call.method in READS:
            return await self._read(call, request, proceed)
        if self._store.leading:
            return await proceed(call, request)
        return await self._twice(call, request, proceed)

    async def _read(self, call: Call, request: Any, proceed: Proceed) -> Any:
        wanted = call.metadata.get(CONSISTENCY_METADATA, LINEARIZABLE)
        if wanted == STALE:
            return await proceed(call, request)
        if wanted != LINEARIZABLE:
            raise InvalidArgument(
                f"metadata {CONSISTENCY_METADATA} must be {LINEARIZABLE} or {STALE}", reason="BadConsistency"
            )
        await self._barrier()
        return await proceed(call, request)

    async def _twice(self, call: Call, request: Any, proceed: Proceed) -> Any:
        try:
            return await proceed(call, request)
        except (NotFound, Unauthenticated, PermissionDenied) as error:
            # A stream's messages cannot be had again, once its handler has begun.
            begun = call.principal is not None and call.streaming
            if begun or not (isinstance(error, NotFound) or error.reason in _LACKING):
                raise
        # A write is repeated under its request id: it is done once.
        REPEATED.labels(call.method).inc()
        await self._barrier()
        return await proceed(call, request)

    async def _barrier(self) -> None:
        try:
            await self._store.read_barrier()
        except Unavailable as error:
            if error.reason in _STOPPING:
                raise
            WAITED.labels("no_leader").inc()
            raise Unavailable(
                "no leader confirms that this state is the newest: too few coordinators reach each other",
                reason="NoLeader",
                remedy="try again in a moment, or read what this coordinator has with --stale",
            ) from None
        self._passed.inc()
