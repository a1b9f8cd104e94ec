"""One stream to a coordinator, from Hello to its end.

Four concurrent duties: heartbeats (each with the node's use and the last round trip), reports (everything after
the Welcome, then what changed, one at a time, repeated until acknowledged), changes of the device, and receiving.
Only one message is sent at a time. A coordinator that acknowledges no heartbeat for some time counts as gone; before
that, and when it knows no leader, it is in doubt: the session then looks for another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

import structlog

from cloudless.agent import metrics
from cloudless.agent.grants import REFUSED, Granted, Grants, Renewal
from cloudless.agent.reports import Observation, ReportBook
from cloudless.api.v1 import session_pb2 as pb
from cloudless.api.v1 import types_pb2
from cloudless.api.v1.convert import from_proto, to_proto
from cloudless.clock import Clock
from cloudless.core.model import Assignment, DeviceInfo, NodeUsage
from cloudless.errors import Corrupt, Unauthenticated, Unavailable
from cloudless.streams import MessageStream

log = structlog.get_logger(__name__)

Stream: TypeAlias = MessageStream[pb.ConnectRequest, pb.ConnectResponse]

HEARTBEAT_INTERVAL_MS_MIN: Final = 100
HEARTBEAT_INTERVAL_MS_DEFAULT: Final = 1_000
# Silence after which a link is given up: so many heartbeats, and never less than this. TCP under heavy loss pauses
# for seconds; a coordinator whose process ended is noticed at once, by the connection.
_SILENT_HEARTBEATS: Final = 10
_SILENCE_S_MIN: Final = 10.0
# Less than the heartbeats that a coordinator misses before it gives a node up: by then, another one shall have it.
_DOUBTFUL_HEARTBEATS: Final = 3
_DOUBT_S_MIN: Final = 1.0
# An election is over by then.
_LEADERLESS_S: Final = 2.0
_REPORT_RETRY_S: Final = 2.0
_REPORT_RETRY_S_MAX: Final = 30.0
# A report larger than this is sent in parts, far below the transport's limit.
_OBSERVATIONS_PER_REPORT: Final = 500
_SKEW_TOLD_MS: Final = 5_000
SILENT: Final = "silent"
LEADERLESS: Final = "leaderless"


class Node(Protocol):
    """What a link needs of the supervisor."""

    reports: ReportBook
    ready: asyncio.Event
    revision: int

    async def assign(
        self, revision: int, assignments: Sequence[Assignment], granted: Granted | None = None
    ) -> bool: ...

    async def renew(self, renewal: Renewal) -> bool: ...


@dataclass(frozen=True, slots=True)
class LinkServices:
    """What links are made of; shared by all of a session. `open_channel` must return at once. With `grants`, signed
    assignments are asked for. `journal_refused` tells why the journal was not a coordinator's word, if so."""

    node: Node
    clock: Clock
    boot_id: str
    instance_id: str
    device: Callable[[], DeviceInfo]
    usage: Callable[[], NodeUsage]
    open_channel: Callable[[pb.OpenChannel, Stream], None]
    learn_coordinators: Callable[[tuple[str, ...]], None]
    grants: Grants | None = None
    journal_refused: Callable[[], str] = str


class Link:
    """One session's stream. `greet`, then `run` until it ends; `close` whatever happened. `on_doubt` is called now and
    then while `doubt` says something."""

    def __init__(self, stream: Stream, services: LinkServices, *, on_doubt: Callable[[], None]) -> None:
        self.coordinator_id = ""
        self.stream = stream
        self._services = services
        self._on_doubt = on_doubt
        self._leaderless_since_s: float | None = None
        self._sending = asyncio.Lock()
        self._interval_s = HEARTBEAT_INTERVAL_MS_DEFAULT / 1000
        self._heard_s = 0.0
        self._beats_sent: dict[int, float] = {}
        self._rtt_us = 0
        self._acknowledged = asyncio.Event()
        self._report_sequence = 0
        self._acknowledged_sequence = 0
        self._device_changed = asyncio.Event()
        self._assignments: asyncio.Queue[pb.ConnectResponse] = asyncio.Queue(maxsize=16)
        self._certificates: tuple[bytes, ...] = ()  # of the coordinator that signs on this stream

    @property
    def doubt(self) -> str:
        """Why another coordinator may serve better: `silent`, `leaderless`; empty while there is no reason."""
        now_s = self._now_s()
        if now_s - self._heard_s > max(_DOUBT_S_MIN, _DOUBTFUL_HEARTBEATS * self._interval_s):
            return SILENT
        since_s = self._leaderless_since_s
        return LEADERLESS if since_s is not None and now_s - since_s > _LEADERLESS_S else ""

    async def greet(self, *, only_with_leader: bool = False) -> None:
        """Hello and Welcome. Raises Unavailable when the coordinator answers anything else, and, where the session is
        wanted `only_with_leader`, when it knows none (NoLeader)."""
        services = self._services
        hello = pb.Hello(
            boot_id=services.boot_id,
            instance_id=services.instance_id,
            wall_clock_ms=services.clock.now_ms(),
            assignments_revision=services.node.revision,
            only_with_leader=only_with_leader,
            signed_assignments=services.grants is not None,
            journal_refused=services.journal_refused(),
        )
        hello.device.CopyFrom(to_proto(services.device(), types_pb2.DeviceInfo))
        await self._send(pb.ConnectRequest(hello=hello))
        answer = await self.stream.receive()
        if answer is None or answer.WhichOneof("message") != "welcome":
            raise Unavailable("the coordinator did not welcome this node", reason="NoWelcome")
        welcome = answer.welcome
        self.coordinator_id = welcome.coordinator_id
        interval_ms = welcome.heartbeat_interval_ms or HEARTBEAT_INTERVAL_MS_DEFAULT
        self._interval_s = max(HEARTBEAT_INTERVAL_MS_MIN, interval_ms) / 1000
        self._heard_s = self._now_s()
        self._learn_leader(leaderless=welcome.leaderless)
        skew_ms = services.clock.now_ms() - welcome.wall_clock_ms
        if abs(skew_ms) > _SKEW_TOLD_MS and welcome.wall_clock_ms:
            log.warning("session.clock_skew", skew_ms=skew_ms)
        services.learn_coordinators(tuple(welcome.coordinators))

    async def run(self) -> None:
        """Returns when the coordinator ends the stream; raises Unavailable when it breaks or falls silent."""
        try:
            async with asyncio.TaskGroup() as group:
                helpers = [
                    group.create_task(self._beat()),
                    group.create_task(self._report()),
                    group.create_task(self._tell_device()),
                    group.create_task(self._take_assignments()),
                ]
                await self._receive()
                for helper in helpers:
                    helper.cancel()
        finally:
            await self.close()

    async def close(self) -> None:
        await self.stream.close()

    async def goodbye(self, reason: str) -> None:
        await self._send(pb.ConnectRequest(goodbye=pb.Goodbye(reason=reason)))
        await self.close()

    def device_changed(self) -> None:
        self._device_changed.set()

    def _learn_leader(self, *, leaderless: bool) -> None:
        if not leaderless:
            self._leaderless_since_s = None
        elif self._leaderless_since_s is None:
            self._leaderless_since_s = self._now_s()

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()

    async def _send(self, message: pb.ConnectRequest) -> None:
        async with self._sending:
            await self.stream.send(message)

    async def _beat(self) -> None:
        sequence = 0
        silence_s = max(_SILENCE_S_MIN, _SILENT_HEARTBEATS * self._interval_s)
        next_s = self._now_s()
        while True:
            if self._now_s() - self._heard_s > silence_s:
                raise Unavailable(f"no word from the coordinator for {silence_s:.0f} s", reason="CoordinatorSilent")
            if self.doubt:
                self._on_doubt()
            sequence += 1
            beat = pb.Heartbeat(sequence=sequence, wall_clock_ms=self._services.clock.now_ms())
            beat.usage.CopyFrom(to_proto(self._services.usage(), types_pb2.NodeUsage))
            beat.usage.rtt_us = self._rtt_us
            self._beats_sent[sequence] = self._now_s()
            if len(self._beats_sent) > 64:
                del self._beats_sent[min(self._beats_sent)]
            # A stalled transport must not hold back the check above.
            try:
                async with asyncio.timeout(silence_s):
                    await self._send(pb.ConnectRequest(heartbeat=beat))
            except TimeoutError:
                raise Unavailable("the stream takes no more messages", reason="CoordinatorSilent") from None
            # Against a fixed schedule, so that sending does not stretch the interval; a suspend is not made up for.
            next_s = max(next_s + self._interval_s, self._now_s())
            await asyncio.sleep(next_s - self._now_s())

    async def _report(self) -> None:
        node = self._services.node
        await node.ready.wait()  # before, an empty report would say that nothing runs here
        version = await self._deliver(since=None)
        while True:
            await node.reports.wait_beyond(version)
            version = await self._deliver(since=version)

    async def _deliver(self, *, since: int | None) -> int:
        """Sends what changed since that version (None: everything) until it is acknowledged, each time with the
        newest word; returns the version that the coordinator has now."""
        reports = self._services.node.reports
        retry_s = _REPORT_RETRY_S
        while True:
            version = reports.version
            observations = reports.everything() if since is None else reports.since(since)
            last = await self._send_report(observations, full=since is None)
            try:
                async with asyncio.timeout(retry_s):
                    while self._acknowledged_sequence < last:
                        self._acknowledged.clear()
                        await self._acknowledged.wait()
            except TimeoutError:
                log.warning("session.report_repeated", sequence=last, waited_ms=int(retry_s * 1000))
                retry_s = min(retry_s * 2, _REPORT_RETRY_S_MAX)
            else:
                reports.acknowledge(version)
                return version

    async def _send_report(self, observations: tuple[Observation, ...], *, full: bool) -> int:
        """One full report, or as many deltas as it takes; the sequence of the last. A full one is never split:
        what it leaves out is taken as gone."""
        size = max(1, len(observations)) if full else _OBSERVATIONS_PER_REPORT
        for start in range(0, max(1, len(observations)), size):
            self._report_sequence += 1
            report = pb.ReplicaReport(sequence=self._report_sequence, full=full)
            for observation in observations[start : start + size]:
                report.replicas.append(to_proto(observation, pb.ReplicaObservation))
            await self._send(pb.ConnectRequest(report=report))
        return self._report_sequence

    async def _tell_device(self) -> None:
        while True:
            await self._device_changed.wait()
            self._device_changed.clear()
            device = to_proto(self._services.device(), types_pb2.DeviceInfo)
            await self._send(pb.ConnectRequest(device=device))

    async def _take_assignments(self) -> None:
        while True:
            messages = [await self._assignments.get()]
            while not self._assignments.empty():
                messages.append(self._assignments.get_nowait())
            newest: tuple[int, Sequence[Assignment], Granted | None] | None = None  # only that one counts
            renewal: Renewal | None = None
            for message in messages:
                match self._understood(message):
                    case Renewal() as renewal:
                        pass
                    case (revision, _, _) as said if newest is None or revision >= newest[0]:
                        newest, renewal = said, None
            if newest is not None:
                revision, assignments, granted = newest
                # A set without a signature is the word of a coordinator of an earlier version.
                await self._services.node.assign(revision, assignments, *([granted] if granted else []))
            if renewal is not None:
                await self._services.node.renew(renewal)

    def _understood(
        self, message: pb.ConnectResponse
    ) -> tuple[int, Sequence[Assignment], Granted | None] | Renewal | None:
        """A set, or a renewal; None for what is not signed as it should be: the node stays with what it has."""
        grants = self._services.grants
        try:
            match message.WhichOneof("message"):
                case "assignments":
                    plain = message.assignments
                    return plain.revision, [from_proto(each, Assignment) for each in plain.assignments], None
                case "signed_assignments" if grants is not None:
                    self._fill_in_certificates(message.signed_assignments.lease)
                    granted = grants.granted(message.signed_assignments)
                    return granted.lease.revision, granted.assignments, granted
                case "lease_renewal" if grants is not None:
                    self._fill_in_certificates(message.lease_renewal)
                    return grants.renewal(message.lease_renewal)
        except (Corrupt, Unauthenticated) as error:
            REFUSED.labels(error.reason).inc()
            log.error("assignments.refused", coordinator=self.coordinator_id, reason=error.reason, cause=error.message)
        return None

    def _fill_in_certificates(self, lease: pb.SignedLease) -> None:
        if lease.certificates:
            self._certificates = tuple(lease.certificates)
        else:
            lease.certificates.extend(self._certificates)

    async def _receive(self) -> None:
        while True:
            message = await self.stream.receive()
            if message is None:
                return
            self._heard_s = self._now_s()
            match message.WhichOneof("message"):
                case "heartbeat_ack":
                    self._learn_leader(leaderless=message.heartbeat_ack.leaderless)
                    sent_s = self._beats_sent.pop(message.heartbeat_ack.sequence, None)
                    if sent_s is not None:
                        self._rtt_us = max(1, int((self._heard_s - sent_s) * 1e6))
                        metrics.SESSION_RTT.set(self._rtt_us / 1e6)
                case "assignments" | "signed_assignments" | "lease_renewal":
                    await self._assignments.put(message)
                case "report_ack":
                    sequence = message.report_ack.sequence
                    if self._acknowledged_sequence < sequence <= self._report_sequence:
                        self._acknowledged_sequence = sequence
                        self._acknowledged.set()
                case "open_channel":
                    self._services.open_channel(message.open_channel, self.stream)
                case "coordinators":
                    self._services.learn_coordinators(tuple(message.coordinators.addresses))
                case other:  # a later coordinator may say more than this agent understands
                    log.debug("session.message_ignored", message=other)
