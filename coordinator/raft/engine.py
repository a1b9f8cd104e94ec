"""The Raft engine: the pure core of `raft.core`, driven over the log, a transport and the event loop's timers."""

from __future__ import annotations

from cloudless.coordinator.engine import EngineParts, StateHost
from cloudless.coordinator.raft.link import Transport
from cloudless.coordinator.raft.options import RaftOptions

__all__ = ["RaftEngine", "RaftOptions", "open_raft"]


class RaftEngine:
    """Implements `coordinator.engine.Engine` and `coordinator.engine.Membership`."""

    @property
    def cluster_id(self) -> str:
        """Of the configuration in force; "" on a member that has not heard of its cluster yet."""
        raise NotImplementedError


async def open_raft(parts: EngineParts, host: StateHost, *, transport: Transport, options: RaftOptions) -> RaftEngine:
    """Recovers the host from the newest snapshot, the log's shape and the configuration, starts the transport, and
    returns a member that takes part. `functools.partial(open_raft, transport=..., options=...)` is an `OpenEngine`.

    The transport is the engine's from then on: it is closed with the engine, or when this raises. What is committed is
    known only from a leader; so the host catches up with the log after this returned. A sole voter needs no other: it
    has applied its whole log and leads, unless its disk is full.

    Raises Corrupt, DiskFull, FailedPrecondition (MemberRemoved), Unavailable.
    """
    raise NotImplementedError
