"""The session hub: every node's session on this coordinator, and what their silence means.

gRPC-free: it serves any MessageStream, so that the simulator runs it as it is. `start` begins two loops: one follows
the store and tells each session when its node's assignments changed; one records nodes that fell silent (`leases`).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog
from prometheus_client import Counter, Gauge

from cloudless.api.v1 import session_pb2
from cloudless.clock import Clock
from cloudless.config import SessionConfig
from cloudless.coordinator.agent_session import AgentSession, SessionStream, broke, removed
from cloudless.coordinator.channels import ChannelStream, ChannelTable, NodeChannel, not_connected
from cloudless.coordinator.core.assignments import nodes_to_tell
from cloudless.coordinator.core.state import State
from cloudless.coordinator.leases import Leases
from cloudless.coordinator.store import Batch, Store
from cloudless.core.model import NodeUsage
from cloudless.errors import (
    CloudlessError,
    Compacted,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    Unavailable,
    WatchLagged,
)

log = structlog.get_logger(__name__)

HELLO_TIMEOUT_MS = 10_000
_LOOP_RESTART_DELAY_S = 1.0

SESSIONS = Gauge("cloudless_sessions", "Agents connected to this coordinator.")
SESSIONS_ENDED = Counter("cloudless_sessions_ended_total", "Sessions that ended, by cause.", ["cause"])


@dataclass(frozen=True, slots=True)
class LiveNode:
    """What is known of a connected node and is in no log. `usage` is None before the first heartbeat;
    `heartbeat_age_ms` counts from the last message; `clock_skew_ms` is how far the node's wall clock was ahead of
    ours at its Hello, the way there included."""

    usage: NodeUsage | None
    heartbeat_age_ms: int
    heartbeat_at_monotonic_ms: int
    clock_skew_ms: int
    boot_id: str
    instance_id: str


class SessionHub:
    """All sessions of one coordinator. `coordinator_addresses` is read at each Welcome, so that it may be filled in
    later; `new_channel_id` gives ids that cannot be guessed."""

    def __init__(
        self,
        store: Store[State],
        clock: Clock,
        config: SessionConfig,
        coordinator_addresses: Sequence[str],
        *,
        coordinator_id: str = "",
        new_channel_id: Callable[[], str] = lambda: secrets.token_urlsafe(24),
    ) -> None:
        self._store = store
        self._clock = clock
        self._config = config
        self._addresses = coordinator_addresses
        self._coordinator_id = coordinator_id
        self._leases = Leases(store, clock, config, actor=f"coordinator/{coordinator_id}")
        self._channels = ChannelTable(new_channel_id)
        self._sessions: dict[str, AgentSession] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False

    # Life

    async def start(self) -> None:
        """Begins to follow the store and to judge the silent. Nodes recorded as ready get the return grace from
        here."""
        self._store.on_leadership(self._on_leadership)
        self._tasks = [
            asyncio.create_task(self._keep(self._follow), name="sessions-follow"),
            asyncio.create_task(self._keep(self._leases.run), name="sessions-judge"),
        ]

    async def close(self) -> None:
        """Ends every session and channel with Unavailable: the agents dial again. Records nothing of it."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        for session in list(self._sessions.values()):
            session.end(Unavailable("the coordinator is shutting down", reason="ShuttingDown"))
        self._channels.end_all()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    # Sessions

    async def serve(self, node_id: str, stream: SessionStream) -> None:
        """Runs one agent's session; `node_id` comes from its certificate.

        Returns when the node ended it, it broke, or the same agent has a newer one. Raises PermissionDenied
        (`NodeRemoved`), InvalidArgument (`HelloExpected`), DeadlineExceeded (no Hello), FailedPrecondition
        (`SessionReplaced`: another agent with this identity connected), Unavailable (`ShuttingDown`).
        """
        if self._closing:
            raise Unavailable("the coordinator is shutting down", reason="ShuttingDown")
        self._admit(node_id)
        hello = await self._hello(stream)
        if hello is None:
            return
        session = AgentSession(
            node_id,
            stream,
            hello,
            store=self._store,
            clock=self._clock,
            config=self._config,
            coordinator_id=self._coordinator_id,
            addresses=self._addresses,
        )
        self._replace(node_id, session)
        cause = "failed"
        try:
            await session.run(lambda: self._heard(session))
            cause = "left" if session.left else "closed"
        except asyncio.CancelledError:
            cause = "broke"
            raise
        except CloudlessError as error:
            cause = "broke" if broke(error) and error.reason != "ShuttingDown" else error.reason
            if cause != "broke":
                raise
        finally:
            self._ended(session, cause)
            await stream.close()

    def live(self, node_id: str) -> LiveNode | None:
        """What the node last said of itself; None while it is not connected here."""
        session = self._sessions.get(node_id)
        if session is None:
            return None
        return LiveNode(
            usage=session.usage,
            heartbeat_age_ms=self._clock.monotonic_ms() - session.heard_at_ms,
            heartbeat_at_monotonic_ms=session.heard_at_ms,
            clock_skew_ms=session.clock_skew_ms,
            boot_id=session.boot_id,
            instance_id=session.instance_id,
        )

    def usages(self) -> dict[str, NodeUsage]:
        """The live use of every connected node that has sent a heartbeat, by node id; for the scheduler."""
        return {name: session.usage for name, session in self._sessions.items() if session.usage is not None}

    def connected(self) -> frozenset[str]:
        """Ids of the nodes that have a session here."""
        return frozenset(self._sessions)

    # Channels

    async def open_channel(self, node_id: str, request: session_pb2.OpenChannel) -> NodeChannel:
        """Opens a channel to a node; `request` says what for, its id is filled in here. Close what you get.

        Raises FailedPrecondition with reason `NodeNotConnected`, Unavailable with reason `ChannelNotOpened` when the
        node does not dial in time, ResourceExhausted with reason `TooManyChannels`.
        """
        session = self._sessions.get(node_id)
        if session is None:
            raise not_connected(node_id)
        return await self._channels.open(node_id, request, session.open_channel)

    async def accept_channel(self, node_id: str, stream: ChannelStream) -> None:
        """Serves one Channel call of a node until it ends. Raises PermissionDenied (`ChannelUnknown`,
        `NodeRemoved`)."""
        self._admit(node_id)
        await self._channels.accept(node_id, stream)

    # One session's begin and end

    def _admit(self, node_id: str) -> None:
        if node_id not in self._store.snapshot.state.nodes:
            raise removed(node_id)

    async def _hello(self, stream: SessionStream) -> session_pb2.Hello | None:
        try:
            first = await asyncio.wait_for(stream.receive(), HELLO_TIMEOUT_MS / 1000)
        except TimeoutError:
            raise DeadlineExceeded("no hello came", reason="HelloExpected") from None
        except Unavailable:
            return None
        if first is None:
            return None
        if first.WhichOneof("message") != "hello":
            raise InvalidArgument("a session begins with a hello", reason="HelloExpected")
        return first.hello

    def _replace(self, node_id: str, session: AgentSession) -> None:
        older = self._sessions.get(node_id)
        self._sessions[node_id] = session
        self._leases.connected(node_id, at_ms=session.heard_at_ms)
        SESSIONS.set(len(self._sessions))
        log.info(
            "session.connected",
            node=node_id,
            instance=session.instance_id,
            boot=session.boot_id,
            clock_skew_ms=session.clock_skew_ms,
        )
        if older is None:
            return
        if older.instance_id == session.instance_id:
            older.end()  # the agent itself moved to a new connection
            return
        # A restarted agent whose old connection was not yet given up looks the same; two that live replace each
        # other again and again, and each time it is said.
        log.warning(
            "session.replaced", node=node_id, older_instance=older.instance_id, newer_instance=session.instance_id
        )
        older.end(
            FailedPrecondition(
                f"another agent with the identity of node {node_id} connected",
                reason="SessionReplaced",
                remedy="if two devices share one data folder, enrol one of them anew under its own name",
            )
        )

    def _heard(self, session: AgentSession) -> None:
        if self._sessions.get(session.node_id) is session:
            self._leases.heard(session.node_id, at_ms=session.heard_at_ms)

    def _ended(self, session: AgentSession, cause: str) -> None:
        node_id = session.node_id
        SESSIONS_ENDED.labels(cause).inc()
        log.info("session.ended", node=node_id, instance=session.instance_id, cause=cause)
        if self._sessions.get(node_id) is not session:
            return
        del self._sessions[node_id]
        SESSIONS.set(len(self._sessions))
        self._channels.session_ended(node_id)
        self._leases.disconnected(node_id, left=session.left)

    def _on_leadership(self, leading: bool) -> None:
        if leading:
            self._leases.began_to_lead({name: s.heard_at_ms for name, s in self._sessions.items()})

    async def _keep(self, job: Callable[[], Awaitable[None]]) -> None:
        """A bug in a loop is said aloud and must not silence the loop: it begins anew from the present state."""
        while True:
            try:
                return await job()
            except Exception:
                log.error("sessions.loop_failed", exc_info=True)
                await asyncio.sleep(_LOOP_RESTART_DELAY_S)

    # Following the store

    async def _follow(self) -> None:
        while True:
            snapshot = self._store.snapshot
            state = snapshot.state
            for session in list(self._sessions.values()):
                self._after_gap(session, state)
            try:
                watch = self._store.watch(snapshot.index)
                try:
                    async for batch in watch:
                        self._on_batch(state, batch)
                        state = batch.state
                finally:
                    watch.close()
            except (WatchLagged, Compacted) as error:
                log.info("sessions.watch_restarted", cause=error.message)
            except Unavailable:
                return  # the store is closed; whoever closed it ends this coordinator

    def _after_gap(self, session: AgentSession, state: State) -> None:
        if session.node_id in state.nodes:
            session.assignments_changed()
        else:
            self._removed(session.node_id)

    def _on_batch(self, before: State, batch: Batch[State]) -> None:
        for node_id in nodes_to_tell(before, batch.state, batch.changes):
            session = self._sessions.get(node_id)
            if session is not None:
                session.assignments_changed()
        for change in batch.changes:
            if change.kind == "node" and change.deleted:
                self._removed(change.key)

    def _removed(self, node_id: str) -> None:
        self._leases.forget(node_id)
        self._channels.end_all(node_id)
        session = self._sessions.get(node_id)
        if session is not None:
            session.end(removed(node_id))
