"""The session hub: every node's session on this coordinator, and what their silence means.

gRPC-free: it serves any MessageStream, so that the simulator runs it as it is. `start` begins its loops: one follows
the store and tells each session when its node's assignments or the coordinators' addresses changed; one records nodes
that fell silent (`leases`); where there are other coordinators, one hears from them of the nodes that are connected
there (`observing`), so that reads here and the leader's decisions know of every node.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog
from prometheus_client import Counter, Gauge

from cloudless.api.v1 import member_pb2, session_pb2
from cloudless.clock import Clock
from cloudless.config import SessionConfig
from cloudless.coordinator.agent_session import ID_LENGTH_MAX, AgentSession, SessionStream, broke, removed
from cloudless.coordinator.channels import (
    Channel,
    ChannelStream,
    ChannelTable,
    RelayClientStream,
    RemoteChannel,
    not_connected,
)
from cloudless.coordinator.contest import Contests, replaced
from cloudless.coordinator.core.assignments import nodes_to_tell
from cloudless.coordinator.core.outcome import Change
from cloudless.coordinator.core.scheduler.table import Usages
from cloudless.coordinator.core.state import State
from cloudless.coordinator.health import HealthKeeper
from cloudless.coordinator.leases import HERE, Leases
from cloudless.coordinator.observing import Announcer, Observations, Observer, Peers, Sighting
from cloudless.coordinator.store import Batch, Store
from cloudless.core.model import NodeState, NodeUsage
from cloudless.errors import (
    CloudlessError,
    Compacted,
    DeadlineExceeded,
    InvalidArgument,
    Unavailable,
    WatchLagged,
)
from cloudless.identity.signing import Signer

log = structlog.get_logger(__name__)

HELLO_TIMEOUT_MS = 10_000
_ADDRESS_LENGTH_MAX = 128
_LOOP_RESTART_DELAY_S = 1.0
_LEADER_KEPT_MS = 100
# About a thousand sessions a second are told what many have to be told at once: what that makes them say, and the
# log write, takes as long as the telling, and heartbeats are to be answered meanwhile.
_CALLS_PER_TURN = 32
_BETWEEN_CALLS_S = 0.03
_STALE_MS_MIN = 5_000  # coordinators may pause where heartbeats are quick

SESSIONS = Gauge("cloudless_sessions", "Agents connected to this coordinator.")
SESSIONS_ENDED = Counter("cloudless_sessions_ended_total", "Sessions that ended, by cause.", ["cause"])


@dataclass(frozen=True, slots=True)
class LiveNode:
    """What is known of a connected node and is in no log. `usage` is None before the first heartbeat;
    `heartbeat_age_ms` counts from the last message; `clock_skew_ms` is how far the node's wall clock was ahead of
    its coordinator's at its Hello, the way there included. `coordinator_id` is the coordinator that it is connected
    to."""

    usage: NodeUsage | None
    heartbeat_age_ms: int
    heartbeat_at_monotonic_ms: int
    clock_skew_ms: int
    boot_id: str
    instance_id: str
    coordinator_id: str


class _Alone:
    """The peers of a coordinator that has none."""

    def ids(self) -> Sequence[str]:
        return ()

    async def observe(self, coordinator_id: str) -> AsyncGenerator[member_pb2.ObserveResponse, None]:
        raise Unavailable(f"there is no coordinator {coordinator_id}", reason="CoordinatorUnknown")
        yield  # an async generator

    def relay(self, coordinator_id: str) -> RelayClientStream:
        raise Unavailable(f"there is no coordinator {coordinator_id}", reason="CoordinatorUnknown")


class SessionHub:
    """All sessions of one coordinator. `coordinator_addresses` is asked at each Welcome and whenever the log says
    something new of the coordinators; `peers` reaches the others; `signer` signs what nodes keep (None: they get it
    unsigned); `new_channel_id` gives ids that cannot be guessed, `jitter` numbers in [0, 1)."""

    def __init__(
        self,
        store: Store[State],
        clock: Clock,
        config: SessionConfig,
        coordinator_addresses: Callable[[], Sequence[str]] | Sequence[str],
        *,
        coordinator_id: str = "",
        peers: Peers | None = None,
        signer: Signer | None = None,
        new_channel_id: Callable[[], str] = lambda: secrets.token_urlsafe(24),
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._clock = clock
        self._config = config
        self._addresses = (
            coordinator_addresses if callable(coordinator_addresses) else lambda: tuple(coordinator_addresses)
        )
        self._coordinator_id = coordinator_id
        self._peers: Peers = peers if peers is not None else _Alone()
        self._signer = signer
        self._leases = Leases(
            store,
            clock,
            config,
            actor=f"coordinator/{coordinator_id}",
            shared=lambda: bool(self._peers.ids()),
            on_silent=lambda node_id: self._announcer.connected(node_id),
        )
        self._health = HealthKeeper(store, clock, actor=f"coordinator/{coordinator_id}")
        self._contests = Contests(
            clock,
            config,
            incumbent=self._incumbent,
            propose=lambda event: store.propose(event, actor=f"coordinator/{coordinator_id}"),
        )
        self._channels = ChannelTable(new_channel_id)
        self._sessions: dict[str, AgentSession] = {}
        interval_ms = config.heartbeat_interval_ms
        self._announcer = Announcer(
            self._sessions, clock, interval_ms=interval_ms, patience_ms=self._leases.patience_ms
        )
        self._observations = Observations(
            clock, self, stale_ms=max(interval_ms * (config.heartbeat_misses + 1), _STALE_MS_MIN)
        )
        self._observer = Observer(self._observations, self._peers, interval_ms=interval_ms, jitter=jitter)
        self._leader, self._leader_known_until_ms = "", 0
        self._usages, self._usages_until_ms = Usages(), 0
        self._to_call: dict[Callable[[], None], None] = {}  # what sessions have still to be told, in this order
        self._call_due = asyncio.Event()
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
            asyncio.create_task(self._keep(self._observer.run), name="sessions-observe"),
            asyncio.create_task(self._keep(self._health.run), name="sessions-health"),
            asyncio.create_task(self._keep(self._call_in_turns), name="sessions-call"),
        ]

    async def close(self) -> None:
        """Ends every session and channel with Unavailable: the agents dial again. Records nothing of it."""
        self._closing = True
        self._announcer.close()
        for task in self._tasks:
            task.cancel()
        for session in list(self._sessions.values()):
            session.end(Unavailable("the coordinator is shutting down", reason="ShuttingDown"))
        self._channels.end_all()
        self._contests.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    # Sessions

    async def serve(self, node_id: str, stream: SessionStream, *, address: str = "") -> None:
        """Runs one agent's session; `node_id` comes from its certificate, `address` is where it is, for people.

        Returns when the node ended it, it broke, or the same agent has a newer one. Raises PermissionDenied
        (`NodeRemoved`), InvalidArgument (`HelloExpected`), DeadlineExceeded (no Hello), FailedPrecondition
        (`IdentityInUse`: another agent with this identity is connected; `SessionReplaced`: this one was silent, and
        another connected), Unavailable (`ShuttingDown`, `NoLeader`: the
        agent wants a coordinator that knows a leader).
        """
        if self._closing:
            raise Unavailable("the coordinator is shutting down", reason="ShuttingDown")
        await self._admit(node_id)
        hello = await self._hello(stream)
        if hello is None:
            return
        if hello.only_with_leader and self._leaderless():
            raise Unavailable("this coordinator knows no leader either", reason="NoLeader")
        address = address[:_ADDRESS_LENGTH_MAX]
        await self._contests.settle(
            node_id,
            instance_id=hello.instance_id[:ID_LENGTH_MAX],
            boot_id=hello.boot_id[:ID_LENGTH_MAX],
            address=address,
        )
        if self._closing:
            raise Unavailable("the coordinator is shutting down", reason="ShuttingDown")
        session = AgentSession(
            node_id,
            stream,
            hello,
            store=self._store,
            clock=self._clock,
            config=self._config,
            coordinator_id=self._coordinator_id,
            addresses=self._addresses,
            leaderless=self._leaderless,
            signer=self._signer,
            address=address,
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

    # Every node, wherever it is connected

    def live(self, node_id: str) -> LiveNode | None:
        """What the node last said of itself; None while it is connected nowhere."""
        sighting = self._elsewhere(node_id)
        if sighting is not None:
            return self._live(sighting.coordinator_id, sighting, sighting.usage)
        session = self._sessions.get(node_id)
        return None if session is None else self._live(self._coordinator_id, session, session.usage)

    def _elsewhere(self, node_id: str) -> Sighting | None:
        """The word of another coordinator on a node, where that is the freshest."""
        session, sighting = self._sessions.get(node_id), self._observations.get(node_id)
        fresher = sighting is not None and (session is None or sighting.heard_at_ms > session.heard_at_ms)
        return sighting if fresher else None

    def _live(self, coordinator_id: str, said: AgentSession | Sighting, usage: NodeUsage | None) -> LiveNode:
        return LiveNode(
            usage=usage,
            heartbeat_age_ms=self._clock.monotonic_ms() - said.heard_at_ms,
            heartbeat_at_monotonic_ms=said.heard_at_ms,
            clock_skew_ms=said.clock_skew_ms,
            boot_id=said.boot_id,
            instance_id=said.instance_id,
            coordinator_id=coordinator_id,
        )

    def usages(self) -> Mapping[str, NodeUsage]:
        """The live use of every connected node that has sent a heartbeat, by node id; for the scheduler."""
        observed = self._observations.usages()
        if not observed:
            return self._own_usages()
        usages = dict(observed)
        for name, session in self._sessions.items():
            if session.usage is not None and (name not in usages or self._elsewhere(name) is None):
                usages[name] = session.usage
        return usages

    def _own_usages(self) -> Usages:
        """Of a coordinator alone. Asked for each plan, with thousands of nodes: so it may be half a heartbeat old,
        unless a node came or came under pressure."""
        now_ms = self._clock.monotonic_ms()
        if now_ms >= self._usages_until_ms:
            self._usages = Usages((name, s.usage) for name, s in self._sessions.items() if s.usage is not None)
            self._usages_until_ms = now_ms + self._config.heartbeat_interval_ms // 2
        return self._usages

    def connected(self) -> frozenset[str]:
        """Ids of the nodes that have a session, here or with another coordinator."""
        return frozenset(self._sessions) | {sighting.node_id for sighting in self._observations.all()}

    def sessions(self) -> frozenset[str]:
        """Ids of the nodes that have a session here."""
        return frozenset(self._sessions)

    def observe(self) -> AsyncGenerator[member_pb2.ObserveResponse, None]:
        """What the nodes connected here say, for another coordinator that asks, for as long as it does."""
        return self._announcer.observe()

    # Channels

    async def open_channel(self, node_id: str, request: session_pb2.OpenChannel) -> Channel:
        """Opens a channel to a node, wherever it is connected; `request` says what for, its id is filled in. Close
        what you get.

        Raises FailedPrecondition with reason `NodeNotConnected`, Unavailable with reason `ChannelNotOpened` when the
        node does not dial in time, ResourceExhausted with reason `TooManyChannels`.
        """
        sighting = self._elsewhere(node_id)
        if sighting is not None:
            return await RemoteChannel.open(node_id, request, self._peers.relay(sighting.coordinator_id))
        return await self.open_channel_here(node_id, request)

    async def open_channel_here(self, node_id: str, request: session_pb2.OpenChannel) -> Channel:
        """As `open_channel`, for a node that is connected here: what another coordinator asks for goes no further."""
        session = self._sessions.get(node_id)
        if session is None:
            raise not_connected(node_id)
        return await self._channels.open(node_id, request, session.open_channel)

    async def accept_channel(self, node_id: str, stream: ChannelStream) -> None:
        """Serves one Channel call of a node until it ends. Raises PermissionDenied (`ChannelUnknown`,
        `NodeRemoved`)."""
        await self._admit(node_id)
        await self._channels.accept(node_id, stream)

    # One session's begin and end

    async def _admit(self, node_id: str) -> None:
        if node_id in self._store.snapshot.state.nodes:
            return
        await self._store.read_barrier()  # another coordinator may have enrolled it just now
        if node_id not in self._store.snapshot.state.nodes:
            raise removed(node_id)

    def _leaderless(self) -> bool:
        """Whether no leader is known here. Asked at each heartbeat of each node, so it may be a moment old."""
        if self._store.leading:
            return False
        now_ms = self._clock.monotonic_ms()
        if now_ms >= self._leader_known_until_ms:
            self._leader = self._store.leader_id
            self._leader_known_until_ms = now_ms + _LEADER_KEPT_MS
        return not self._leader

    async def _hello(self, stream: SessionStream) -> session_pb2.Hello | None:
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_MS / 1000):
                first = await stream.receive()
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
        self._announcer.connected(node_id)
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
        self._give_way(older, session.instance_id, replaced(node_id))

    def _give_way(self, older: AgentSession, other_instance: str, error: CloudlessError) -> None:
        log.warning(
            "session.replaced",
            node=older.node_id,
            instance=older.instance_id,
            other_instance=other_instance,
            reason=error.reason,
        )
        older.end(error)

    def _incumbent(self, node_id: str, instance_id: str) -> tuple[AgentSession | Sighting, int] | None:
        """Who has the node's session, unless it is of this instance; what other coordinators say is an interval old."""
        session = self._sessions.get(node_id)
        if session is not None:
            return None if session.instance_id == instance_id else (session, 0)
        sighting = self._observations.get(node_id)
        if sighting is None or sighting.instance_id == instance_id:
            return None
        return sighting, self._config.heartbeat_interval_ms

    def _heard(self, session: AgentSession) -> None:
        if session.pressed_anew:
            session.pressed_anew = False
            self._usages_until_ms = 0
        if self._sessions.get(session.node_id) is session:
            self._leases.heard(session.node_id, at_ms=session.heard_at_ms, late_ms=session.late_ms)

    def _ended(self, session: AgentSession, cause: str) -> None:
        node_id = session.node_id
        SESSIONS_ENDED.labels(cause).inc()
        log.info("session.ended", node=node_id, instance=session.instance_id, cause=cause)
        if self._sessions.get(node_id) is not session:
            return
        del self._sessions[node_id]
        self._usages_until_ms = 0
        SESSIONS.set(len(self._sessions))
        self._channels.session_ended(node_id)
        self._leases.disconnected(node_id, left=session.left)
        self._announcer.departed(node_id, session.left)
        self._contests.ended(node_id)

    # What other coordinators say (`observing.Listener`)

    def observed(self, sighting: Sighting, *, new: bool) -> None:
        tell = self._leases.connected if new else self._leases.heard
        tell(
            sighting.node_id,
            at_ms=sighting.heard_at_ms,
            holder=sighting.coordinator_id,
            patience_ms=sighting.patience_ms,
        )
        session = self._sessions.get(sighting.node_id)
        if session is None:
            return
        if sighting.instance_id == session.instance_id:
            if sighting.began_at_ms > session.began_at_ms:
                session.end()  # its agent moved, and the connection here was not given up yet
            return
        error = self._contests.yields(session, sighting)
        if error is not None:
            self._give_way(session, sighting.instance_id, error)

    def departed(self, node_id: str, coordinator_id: str, left: str) -> None:
        self._leases.disconnected(node_id, left=left, holder=coordinator_id)
        self._contests.ended(node_id)

    def coordinator_lost(self, coordinator_id: str) -> None:
        self._leases.holder_lost(coordinator_id)

    def _on_leadership(self, leading: bool) -> None:
        if not leading:
            self._leases.ceased_to_lead()
            return
        # Of a coordinator that is away nothing is known: its nodes have time to come to another.
        heard = {
            sighting.node_id: (sighting.coordinator_id, sighting.heard_at_ms)
            for sighting in self._observations.all()
            if not self._observations.is_lost(sighting.coordinator_id)
        }
        for name, session in self._sessions.items():
            if name not in heard or session.heard_at_ms >= heard[name][1]:
                heard[name] = (HERE, session.heard_at_ms)
        self._leases.began_to_lead(heard)

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
            self._coordinators_changed()
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
            session.replicas_changed()
        else:
            self._removed(session.node_id)

    def _on_batch(self, before: State, batch: Batch[State]) -> None:
        told = nodes_to_tell(before, batch.state, batch.changes)
        self._to_each([s.assignments_changed for node_id in told if (s := self._sessions.get(node_id)) is not None])
        for change in batch.changes:
            if change.kind == "node":
                self._node_changed(change, before, batch.state)
            elif change.kind == "replica":
                self._health.replica_changed(change, before, batch.state)
                replica = batch.state.replicas.get(change.key)
                session = self._sessions.get(replica.node_id) if replica is not None else None
                if session is not None:
                    session.replicas_changed()
            elif change.kind == "coordinator":
                self._coordinators_changed()

    def _node_changed(self, change: Change, before: State, after: State) -> None:
        if change.deleted:
            self._removed(change.key)
            return
        was, node = before.nodes.get(change.key), after.nodes.get(change.key)
        returned = was is not None and was.state is not NodeState.READY
        if node is not None and node.state is NodeState.READY and returned:
            self._leases.recorded_ready(change.key)

    def _coordinators_changed(self) -> None:
        self._observer.members_changed()
        self._to_each([session.coordinators_changed for session in self._sessions.values()])

    def _to_each(self, calls: Sequence[Callable[[], None]]) -> None:
        """Makes all sessions that a batch concerns do something; where they are many, a few at a time: thousands at
        once, each of which signs and writes, would be seconds in which no heartbeat is read."""
        if self._to_call or len(calls) > _CALLS_PER_TURN:
            self._to_call.update(dict.fromkeys(calls))
            self._call_due.set()
            return
        for call in calls:
            call()

    async def _call_in_turns(self) -> None:
        while True:
            await self._call_due.wait()
            self._call_due.clear()
            while self._to_call:
                for call in list(itertools.islice(self._to_call, _CALLS_PER_TURN)):
                    del self._to_call[call]
                    call()
                await asyncio.sleep(_BETWEEN_CALLS_S)

    def _removed(self, node_id: str) -> None:
        self._leases.forget(node_id)
        self._channels.end_all(node_id)
        session = self._sessions.get(node_id)
        if session is not None:
            session.end(removed(node_id))
