"""What agents say to the other coordinators, as far as this one has to know it.

Every agent has its session with one coordinator; reads anywhere and the leader's scheduler and leases need to know of
all. Each coordinator therefore subscribes to every other one:

    Announcer     on the answering side: what the sessions here say, for each coordinator that asks
    Observer      on the asking side: keeps one subscription per other coordinator, for ever
    Observations  what came of it: one table, in which the freshest word on a node wins

gRPC-free: `Peers` is a thin adapter in production and a function call in the simulator. Ages travel, not times, so
that clocks need not agree; here they become times of the monotonic clock of this coordinator.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Protocol

import structlog
from prometheus_client import Counter, Gauge

from cloudless.api.v1 import member_pb2, types_pb2
from cloudless.clock import Clock
from cloudless.core.model import NodeUsage
from cloudless.errors import CloudlessError
from cloudless.streams import MessageStream

log = structlog.get_logger(__name__)

RETRY_DELAY_MS_MIN: Final = 100
RETRY_DELAY_MS_MAX: Final = 2_000
CONNECT_TIMEOUT_MS: Final = 5_000
# Heartbeat intervals without an answer, after which a coordinator counts as away.
SILENT_INTERVALS: Final = 2
# Who connects within this time is told together: a thousand agents that return make no thousand answers.
_GATHER_MS: Final = 25

OBSERVED = Gauge("cloudless_coordinators_observed", "Other coordinators whose agents are known here.")
OBSERVATIONS_LOST = Counter("cloudless_coordinator_observations_lost_total", "Times another coordinator fell silent.")

RelayStream = MessageStream[member_pb2.RelayChannelRequest, member_pb2.RelayChannelResponse]


class Peers(Protocol):
    """The other coordinators, as the session hub reaches them."""

    def ids(self) -> Sequence[str]:
        """Those that are members now and can be reached, by id, without this one."""
        ...

    def observe(self, coordinator_id: str) -> AsyncGenerator[member_pb2.ObserveResponse, None]:
        """One subscription (MemberService.Observe). Raises CloudlessError where it fails; closing it ends it."""
        ...

    def relay(self, coordinator_id: str) -> RelayStream:
        """One MemberService.RelayChannel call; it opens with its first message. Its errors carry the code and reason
        that the other coordinator gave. Raises Unavailable where there is no such coordinator."""
        ...


class Listener(Protocol):
    """Who has to hear of what other coordinators say. Times are monotonic ms of this coordinator."""

    def observed(self, sighting: Sighting, *, new: bool) -> None:
        """A node has a session there; `new`: it had none a moment ago."""
        ...

    def departed(self, node_id: str, coordinator_id: str, left: str) -> None:
        """Its session there ended; `left` is why it said goodbye, empty when it did not."""
        ...

    def coordinator_lost(self, coordinator_id: str) -> None:
        """That coordinator fell silent: of its nodes nothing is known from now on."""
        ...


@dataclass(frozen=True)
class Sighting:
    """One node in the words of the coordinator that it is connected to. Times are monotonic ms of this coordinator,
    late by the way between the two. `reported` is None before its first heartbeat."""

    node_id: str
    coordinator_id: str
    heard_at_ms: int
    began_at_ms: int  # its Hello
    clock_skew_ms: int
    boot_id: str
    instance_id: str
    reported: types_pb2.NodeUsage | None
    address: str = ""  # from where it is connected
    patience_ms: int = 0  # the silence that is taken for its end there; 0: that version does not say

    @cached_property
    def usage(self) -> NodeUsage | None:
        # Field by field: the general conversion takes twenty times as long, for thousands of nodes each second.
        told = self.reported
        if told is None:
            return None
        return NodeUsage(
            cpu_millis=told.cpu_millis,
            memory_bytes=told.memory_bytes,
            storage_bytes=told.storage_bytes,
            battery_percent=told.battery_percent,
            power_source=told.power_source,
            metered=told.metered,
            rtt_us=told.rtt_us,
            pressure=tuple(told.pressure),
        )


class Observations:
    """The nodes that are connected to other coordinators. What a coordinator that fell silent has said is kept until
    it is `stale_ms` old: its agents move, and until they did it is the best that is known."""

    def __init__(self, clock: Clock, listener: Listener, *, stale_ms: int) -> None:
        self._clock = clock
        self._listener = listener
        self._stale_ms = stale_ms
        self._tables: dict[str, dict[str, Sighting]] = {}  # by coordinator, then node
        self._lost: dict[str, None] = {}  # coordinators that fell silent
        self._usages: dict[str, NodeUsage] | None = None  # None: to be made anew

    def get(self, node_id: str) -> Sighting | None:
        """The freshest word on a node; None where no other coordinator has it."""
        freshest: Sighting | None = None
        for table in self._tables.values():
            sighting = table.get(node_id)
            if sighting is None or self._is_stale(sighting):
                continue
            if freshest is None or sighting.heard_at_ms > freshest.heard_at_ms:
                freshest = sighting
        return freshest

    def all(self) -> Iterator[Sighting]:
        """The freshest word on each node."""
        names = dict.fromkeys(name for table in self._tables.values() for name in table)
        for name in names:
            sighting = self.get(name)
            if sighting is not None:
                yield sighting

    def usages(self) -> Mapping[str, NodeUsage]:
        """What those nodes use that have said so, by node id. Made once per answer, for it is asked for often."""
        if self._usages is None:
            self._usages = {s.node_id: s.usage for s in self.all() if s.usage is not None}
        return self._usages

    def is_lost(self, coordinator_id: str) -> bool:
        """Whether it has fallen silent."""
        return coordinator_id in self._lost

    def take(self, coordinator_id: str, answer: member_pb2.ObserveResponse) -> None:
        """Takes in one answer of a coordinator."""
        now_ms = self._clock.monotonic_ms()
        self._usages = None
        table = self._tables.setdefault(coordinator_id, {})
        # It may have been restarted meanwhile: what it does not know any more need not have left.
        returned = coordinator_id in self._lost
        self._lost.pop(coordinator_id, None)
        for departure in answer.departures:
            if table.pop(departure.node_id, None) is not None:
                self._listener.departed(departure.node_id, coordinator_id, departure.left)
        for node in answer.nodes:
            before = table.get(node.node_id)
            reported = node.usage if node.HasField("usage") else before.reported if before is not None else None
            sighting = table[node.node_id] = Sighting(
                node_id=node.node_id,
                coordinator_id=coordinator_id,
                heard_at_ms=now_ms - max(node.heartbeat_age_ms, 0),
                began_at_ms=now_ms - max(node.session_age_ms, 0),
                clock_skew_ms=node.clock_skew_ms,
                boot_id=node.boot_id,
                instance_id=node.instance_id,
                reported=reported,
                address=node.address,
                patience_ms=max(node.patience_ms, 0),
            )
            self._listener.observed(sighting, new=before is None)
        if answer.partial:
            return
        named = {node.node_id for node in answer.nodes}
        for name in [name for name in table if name not in named]:
            del table[name]
            if not returned:
                self._listener.departed(name, coordinator_id, "")

    def lost(self, coordinator_id: str) -> None:
        """Its subscription broke, or it said nothing for too long."""
        if coordinator_id not in self._tables:
            return
        if coordinator_id not in self._lost:
            self._lost[coordinator_id] = None
            self._listener.coordinator_lost(coordinator_id)
        self._usages = None
        table = self._tables[coordinator_id]
        for name in [name for name, sighting in table.items() if self._is_stale(sighting)]:
            del table[name]

    def forget(self, coordinator_id: str) -> None:
        """It is no member any more."""
        self.lost(coordinator_id)
        self._tables.pop(coordinator_id, None)
        self._lost.pop(coordinator_id, None)

    def _is_stale(self, sighting: Sighting) -> bool:
        return (
            sighting.coordinator_id in self._lost
            and self._clock.monotonic_ms() - sighting.heard_at_ms >= self._stale_ms
        )


class Observer:
    """Keeps one subscription per other coordinator until cancelled. `jitter` gives numbers in [0, 1)."""

    def __init__(
        self,
        observations: Observations,
        peers: Peers,
        *,
        interval_ms: int,
        jitter: Callable[[], float],
    ) -> None:
        self._observations = observations
        self._peers = peers
        self._silence_s = SILENT_INTERVALS * interval_ms / 1000
        self._jitter = jitter
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._look = asyncio.Event()

    def members_changed(self) -> None:
        """Looks at `Peers.ids` again."""
        self._look.set()

    async def run(self) -> None:
        try:
            while True:
                self._look.clear()
                members = self._peers.ids()
                for name in [name for name in self._tasks if name not in members]:
                    await _cancel(self._tasks.pop(name))
                    self._observations.forget(name)
                for name in members:
                    if name not in self._tasks or self._tasks[name].done():
                        self._tasks[name] = asyncio.create_task(self._follow(name), name=f"observe-{name}")
                await self._look.wait()
        finally:
            tasks, self._tasks = list(self._tasks.values()), {}
            for task in tasks:
                await _cancel(task)
            OBSERVED.set(0)

    async def _follow(self, name: str) -> None:
        failures = 0
        while True:
            answered, cause = False, "it ended the stream"
            try:
                async with aclosing(self._peers.observe(name)) as answers:
                    async for answer in _patiently(answers, CONNECT_TIMEOUT_MS / 1000, self._silence_s):
                        if not answered:
                            answered, failures = True, 0
                            OBSERVED.inc()
                            log.info("coordinator.observed", coordinator=name, nodes=len(answer.nodes))
                        self._observations.take(name, answer)
            except CloudlessError as error:
                cause = error.message
            except TimeoutError:
                cause = "it says nothing"
            except Exception as error:
                # A bug must not end the subscription; the hub's other work depends on it.
                log.error("coordinator.observation_failed", coordinator=name, exc_info=error)
                cause = type(error).__name__
            finally:
                if answered:
                    OBSERVED.dec()
            self._observations.lost(name)
            if answered:
                OBSERVATIONS_LOST.inc()
                log.warning("coordinator.observation_lost", coordinator=name, cause=cause)
            delay_ms = min(RETRY_DELAY_MS_MIN * 2 ** min(failures, 10), RETRY_DELAY_MS_MAX)
            failures += 1
            await asyncio.sleep(delay_ms * (0.5 + 0.5 * self._jitter()) / 1000)


async def _patiently(
    answers: AsyncIterator[member_pb2.ObserveResponse], first_s: float, then_s: float
) -> AsyncIterator[member_pb2.ObserveResponse]:
    """The answers; raises TimeoutError when the next one does not come in time."""
    patience_s = first_s
    while True:
        try:
            async with asyncio.timeout(patience_s):
                answer = await anext(answers)
        except StopAsyncIteration:
            return
        patience_s = then_s
        yield answer


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


class ObservedSession(Protocol):
    """What of a session other coordinators hear. Times are monotonic ms."""

    node_id: str
    boot_id: str
    instance_id: str
    clock_skew_ms: int
    heard_at_ms: int
    began_at_ms: int
    reported: types_pb2.NodeUsage | None
    address: str


class _Subscription:
    """One coordinator that asks: what it has not been told yet."""

    def __init__(self) -> None:
        self.connected: dict[str, None] = {}
        self.departed: dict[str, str] = {}
        self.due = asyncio.Event()
        self.told: dict[str, types_pb2.NodeUsage | None] = {}  # the use that it knows


class Announcer:
    """Tells other coordinators of the sessions here: all of them once per interval, and who comes or goes at once.
    `sessions` is the hub's own table, by node id; `patience_ms` says how long a node may be silent."""

    def __init__(
        self,
        sessions: Mapping[str, ObservedSession],
        clock: Clock,
        *,
        interval_ms: int,
        patience_ms: Callable[[str], int] = lambda node_id: 0,
    ) -> None:
        self._sessions = sessions
        self._patience_ms = patience_ms
        self._clock = clock
        self._interval_ms = interval_ms
        self._subscriptions: dict[_Subscription, None] = {}
        self._closed = False

    def connected(self, node_id: str) -> None:
        """There is news of a node with a session here: it began, or the node fell silent."""
        for subscription in self._subscriptions:
            subscription.connected[node_id] = None
            subscription.due.set()

    def departed(self, node_id: str, left: str) -> None:
        for subscription in self._subscriptions:
            subscription.departed[node_id] = left
            subscription.due.set()

    def close(self) -> None:
        """Ends every subscription. What the sessions do from now on is told to nobody: that a coordinator stops says
        nothing of its nodes."""
        self._closed = True
        for subscription in self._subscriptions:
            subscription.due.set()

    async def observe(self) -> AsyncGenerator[member_pb2.ObserveResponse, None]:
        """One subscription; it ends with `close`. A reader that is slow is told less often."""
        subscription = _Subscription()
        self._subscriptions[subscription] = None
        try:
            while not self._closed:
                subscription.due.clear()
                yield self._answer(subscription, partial=False)
                until_ms = self._clock.monotonic_ms() + self._interval_ms
                while await self._happened(subscription, until_ms):
                    yield self._answer(subscription, partial=True)
        finally:
            del self._subscriptions[subscription]

    async def _happened(self, subscription: _Subscription, until_ms: int) -> bool:
        """Whether there is something to tell before the time is over."""
        left_ms = until_ms - self._clock.monotonic_ms()
        if left_ms <= 0 or self._closed:
            return False
        try:
            async with asyncio.timeout(left_ms / 1000):
                await subscription.due.wait()
        except TimeoutError:
            return False
        if self._closed:
            return False
        await asyncio.sleep(min(_GATHER_MS, left_ms) / 1000)
        subscription.due.clear()
        return not self._closed

    def _answer(self, subscription: _Subscription, *, partial: bool) -> member_pb2.ObserveResponse:
        now_ms = self._clock.monotonic_ms()
        answer = member_pb2.ObserveResponse(partial=partial)
        for node_id, left in subscription.departed.items():
            answer.departures.add(node_id=node_id, left=left)
        names = list(subscription.connected) if partial else list(self._sessions)
        subscription.connected.clear()
        subscription.departed.clear()
        told: dict[str, types_pb2.NodeUsage | None] = {}
        for name in names:
            session = self._sessions.get(name)
            if session is None:
                continue  # it left again
            node = answer.nodes.add(
                node_id=name,
                heartbeat_age_ms=now_ms - session.heard_at_ms,
                clock_skew_ms=session.clock_skew_ms,
                boot_id=session.boot_id,
                instance_id=session.instance_id,
                session_age_ms=now_ms - session.began_at_ms,
                address=session.address,
                patience_ms=self._patience_ms(name),
            )
            reported = told[name] = session.reported
            if reported is not None and reported is not subscription.told.get(name):
                node.usage.CopyFrom(reported)
        if partial:
            subscription.told.update(told)
        else:
            subscription.told = told
        return answer
