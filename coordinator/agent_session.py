"""One agent's session: what it says becomes entries of the log, what it shall run goes down to it.

Three tasks share the stream. The reader takes messages and never waits for the log; the writer sends whatever is
due (the newest acknowledgement, the newest assignments, channels to open); the recorder brings the log up to what
the node said. Between them stand slots and maps keyed by replica, so that nothing grows when one of them is slow.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

import structlog
from opentelemetry import trace
from prometheus_client import Counter

from cloudless.api.v1 import session_pb2, types_pb2
from cloudless.api.v1.convert import fill, from_proto
from cloudless.clock import Clock
from cloudless.config import SessionConfig
from cloudless.coordinator.assigning import Granting
from cloudless.coordinator.core.assignments import assignments_for
from cloudless.coordinator.core.commands import RecordEvent, ReportedReplica, ReportNode, ReportReplicas
from cloudless.coordinator.core.liveness import LEFT, news
from cloudless.coordinator.core.node_health import SKEW_STEP_MS, recordable, skew_to_record, with_health
from cloudless.coordinator.core.state import State
from cloudless.core.model import Assignment, DeviceInfo, NodeState, NodeUsage, ReplicaStatus, Severity
from cloudless.errors import CloudlessError, InvalidArgument, NotFound, PermissionDenied, ResourceExhausted, Unavailable
from cloudless.identity.signing import Signer
from cloudless.streams import MessageStream

log = structlog.get_logger(__name__)
tracer = trace.get_tracer("cloudless.sessions")

CHANNELS_WAITING_MAX = 64
REPORTS_PER_ENTRY_MAX = 500
HELD_REPORTS_MAX = 8
# What a node says goes into the log: no node may fill it with one message.
DEVICE_BYTES_MAX = 64 * 1024
STATUS_BYTES_MAX = 64 * 1024
ID_LENGTH_MAX = 128
_SKEWS_KEPT = 16
FIRST_ASSIGNMENTS_MS = 250  # they come before all else but the Welcome, unless it takes longer to be sure of them
RETRY_DELAY_MS_MIN = 100
RETRY_DELAY_MS_MAX = 5_000
LEADERLESS_DELAY_MS_MAX = 1_000  # there is a new leader soon, or there is nothing else to do

HEARTBEATS = Counter("cloudless_heartbeats_total", "Heartbeats received.")
REPORTS = Counter("cloudless_replica_reports_total", "Reports of replicas received, by what they led to.", ["result"])
ASSIGNMENT_SETS = Counter("cloudless_assignment_sets_total", "Assignment sets sent to nodes.")

SessionStream = MessageStream[session_pb2.ConnectResponse, session_pb2.ConnectRequest]


class Snapshot(Protocol):
    @property
    def state(self) -> State: ...
    @property
    def index(self) -> int: ...


class ReplicatedStore(Protocol):
    """What sessions need of the store; `coordinator.store.Store` is one."""

    @property
    def snapshot(self) -> Snapshot: ...

    async def propose(self, command: Any, *, actor: str, request_id: str | None = None) -> Any: ...

    async def read_barrier(self) -> int: ...


class AgentSession:
    """The session of one node from its Hello on. `run` lasts as long as it does."""

    def __init__(
        self,
        node_id: str,
        stream: SessionStream,
        hello: session_pb2.Hello,
        *,
        store: ReplicatedStore,
        clock: Clock,
        config: SessionConfig,
        coordinator_id: str,
        addresses: Callable[[], Sequence[str]],
        leaderless: Callable[[], bool],
        signer: Signer | None = None,
        address: str = "",
    ) -> None:
        self.node_id = node_id
        self.address = address
        self.instance_id = hello.instance_id[:ID_LENGTH_MAX]
        self.boot_id = hello.boot_id[:ID_LENGTH_MAX]
        self.usage: NodeUsage | None = None
        self.reported: types_pb2.NodeUsage | None = None  # the same, as it came
        self.pressed_anew = False  # the newest use is the first, or of another pressure than the one before
        self._skews_ms: deque[int] = deque(maxlen=_SKEWS_KEPT)
        self.clock_skew_ms = 0
        self.late_ms: int | None = None  # how long the newest heartbeat took, beyond the quickest; None: it says not
        self._measure_skew(hello.wall_clock_ms, clock.now_ms())
        self.began_at_ms = self.heard_at_ms = clock.monotonic_ms()
        self.left = ""
        self._stream = stream
        self._store = store
        self._clock = clock
        self._config = config
        self._silence_ms = config.heartbeat_interval_ms * config.heartbeat_misses
        self._coordinator_id = coordinator_id
        self._addresses = addresses
        self._leaderless = leaderless
        # What the recorder has still to bring into the log.
        self._device: DeviceInfo | None = None
        self._device_refused = False
        if hello.HasField("device"):
            self._device = _device(hello.device)
        self._reports: dict[str, ReportedReplica] = {}
        self._said: dict[str, ReportedReplica] = {}  # its newest word on each replica
        self._compare_due = False  # the log may say otherwise by now
        self._held_reports: list[session_pb2.ReplicaReport] = []  # until the state here is current
        self._journal_refused = hello.journal_refused[:ID_LENGTH_MAX]  # to be recorded
        self._was_silent = False  # reports were held back because nothing was heard of the node
        self._report_sequence = 0
        self._record_due = asyncio.Event()
        self._record_due.set()
        # What the writer has still to send. Welcome and the first assignments come before all else.
        self._heartbeat_ack: int | None = None
        self._report_ack: int | None = None
        self._channels: deque[session_pb2.OpenChannel] = deque()
        self._assignments_due = True
        self._assignments: tuple[Assignment, ...] | None = None
        self._granting: Granting | None = None  # None: an agent of an earlier version
        if signer is not None and hello.signed_assignments:
            self._granting = Granting(signer, node_id, clock)
        self._current = asyncio.Event()  # the state here is as new as any that the node has been shown
        self._told_addresses: tuple[str, ...] = ()
        self._addresses_due = False
        self._write_due = asyncio.Event()
        self._write_due.set()
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # From the hub

    def assignments_changed(self) -> None:
        """Looks at the node's assignments again and sends them if they changed."""
        self._assignments_due = True
        self._write_due.set()

    def coordinators_changed(self) -> None:
        """Looks at the coordinators' addresses again and sends them if they changed."""
        self._addresses_due = True
        self._write_due.set()
        self._record_due.set()  # the log may take more of what the node said than it did

    def replicas_changed(self) -> None:
        """Looks again whether the log has the node's newest word on its replicas. An older one can come behind it: what
        the node said to a coordinator that stood still, before it moved here."""
        self._compare_due = True

    def open_channel(self, message: session_pb2.OpenChannel) -> None:
        """Queues a request to dial. Raises ResourceExhausted with reason `TooManyChannels`."""
        if len(self._channels) >= CHANNELS_WAITING_MAX:
            raise ResourceExhausted(
                f"{CHANNELS_WAITING_MAX} channels to node {self.node_id} wait to be opened", reason="TooManyChannels"
            )
        self._channels.append(message)
        self._write_due.set()

    def end(self, error: CloudlessError | None = None) -> None:
        """Ends the session; `run` raises the error, where one is given."""
        if self._ended.done():
            return
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)

    async def run(self, on_heard: Callable[[], None]) -> None:
        """Serves until the node says goodbye or ends the stream, it breaks, or `end` is called. `on_heard` is called
        at each message. Raises Unavailable when the stream broke, InvalidArgument for a breach of the protocol,
        and what `end` was given."""
        jobs: list[Coroutine[Any, Any, None]] = [self._read(on_heard), self._write(), self._record()]
        tasks = [asyncio.ensure_future(job) for job in jobs]
        catching_up = asyncio.ensure_future(self._catch_up())
        ending = (self._ended, *tasks)
        tasks.append(catching_up)
        try:
            await asyncio.wait(ending, return_when=asyncio.FIRST_COMPLETED)
            for finished in ending:
                if finished.done():
                    finished.result()
        finally:
            if self._ended.done():
                self._ended.exception()  # retrieved, also where another error came first
            self._ended.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # Reader

    async def _read(self, on_heard: Callable[[], None]) -> None:
        while (message := await self._stream.receive()) is not None:
            self.heard_at_ms = self._clock.monotonic_ms()
            kind = message.WhichOneof("message")
            self.late_ms = None
            if kind == "heartbeat":
                self._measure_skew(message.heartbeat.wall_clock_ms, self._clock.now_ms())
                self._on_heartbeat(message.heartbeat)
            on_heard()
            if kind == "report":
                self._on_report(message.report)
            elif kind == "device":
                self._device, self._device_refused = _device(message.device), False
                self._record_due.set()
            elif kind == "goodbye":
                self.left = f"{LEFT}: {message.goodbye.reason[:200]}" if message.goodbye.reason else LEFT
                return
            elif kind == "hello":
                raise InvalidArgument("a session has one hello", reason="UnexpectedHello")
            # A message of a later version has no kind here: it is ignored.

    def _measure_skew(self, wall_clock_ms: int, now_ms: int) -> None:
        """A message that was long on its way makes the node's clock look late: the one that was quickest counts."""
        if wall_clock_ms:
            skew_ms = wall_clock_ms - now_ms
            self._skews_ms.append(skew_ms)
            self.clock_skew_ms = max(self._skews_ms)
            self.late_ms = self.clock_skew_ms - skew_ms

    def _on_heartbeat(self, heartbeat: session_pb2.Heartbeat) -> None:
        HEARTBEATS.inc()
        if heartbeat.HasField("usage"):
            before, self.usage = self.usage, from_proto(heartbeat.usage, NodeUsage)
            self.pressed_anew = self.pressed_anew or before is None or before.pressure != self.usage.pressure
            self.reported = heartbeat.usage
        self._heartbeat_ack = heartbeat.sequence
        self._write_due.set()
        node = self._store.snapshot.state.nodes.get(self.node_id)
        if node is None or node.state is not NodeState.READY:
            self._record_due.set()  # it was given up while it was silent
        elif abs(self.clock_skew_ms - node.clock_skew_ms) > SKEW_STEP_MS:
            self._record_due.set()
        elif self._reports and self._was_silent:
            self._was_silent = False
            self._record_due.set()
        if self._compare_due:
            self._compare()

    def _compare(self) -> None:
        """Once per heartbeat at most, so that a session that the node has left does not repeat its old words."""
        self._compare_due = False
        replicas = self._store.snapshot.state.replicas
        for replica_id, said in list(self._said.items()):
            replica = replicas.get(replica_id)
            if replica is None or replica.node_id != self.node_id:
                del self._said[replica_id]
            elif replica.status != said.status or said.gone:
                self._reports.setdefault(replica_id, said)
                self._record_due.set()

    def _on_report(self, report: session_pb2.ReplicaReport) -> None:
        if not self._current.is_set():
            # Replicas that this coordinator does not know yet would be taken for strangers. What finds no room here is
            # not acknowledged, so that it is repeated.
            if len(self._held_reports) < HELD_REPORTS_MAX:
                self._held_reports.append(report)
            return
        replicas = self._store.snapshot.state.replicas
        for observation in report.replicas:
            replica = replicas.get(observation.replica_id)
            if replica is None or replica.node_id != self.node_id:  # bounds what waits here
                REPORTS.labels("unknown").inc()
            elif observation.ByteSize() > STATUS_BYTES_MAX:
                REPORTS.labels("refused").inc()
                log.warning("session.report_refused", node=self.node_id, reason="StatusTooLarge", replica=replica.id)
            else:
                self._said[replica.id] = self._reports[replica.id] = ReportedReplica(
                    replica.id, from_proto(observation.status, ReplicaStatus), observation.gone
                )
        self._report_sequence = max(self._report_sequence, report.sequence)
        self._record_due.set()

    # Writer

    async def _catch_up(self) -> None:
        """Until the state here is known to be current. A coordinator that lags behind must not tell a node what it
        shall run: the node would stop what another coordinator has assigned to it. Without a leader it waits; the
        node runs meanwhile what it knows."""
        failures = 0
        while not self._current.is_set():
            try:
                await self._store.read_barrier()
                self._current.set()
            except CloudlessError as error:
                log.debug("session.not_current", node=self.node_id, reason=error.reason, cause=error.message)
                await asyncio.sleep(min(RETRY_DELAY_MS_MIN * 2 ** min(failures, 10), LEADERLESS_DELAY_MS_MAX) / 1000)
                failures += 1
        self._write_due.set()
        held, self._held_reports = self._held_reports, []
        for report in held:
            self._on_report(report)

    async def _write(self) -> None:
        self._told_addresses = tuple(self._addresses())
        await self._send(
            welcome=session_pb2.Welcome(
                coordinator_id=self._coordinator_id,
                heartbeat_interval_ms=self._config.heartbeat_interval_ms,
                wall_clock_ms=self._clock.now_ms(),
                coordinators=self._told_addresses,
                leaderless=self._leaderless(),
            )
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_ASSIGNMENTS_MS / 1000):
                await self._current.wait()
        while True:
            await self._write_due.wait()
            self._write_due.clear()
            if self._assignments_due and self._current.is_set():
                await self._send_assignments()
            if self._addresses_due:
                await self._send_addresses()
            if (sequence := self._heartbeat_ack) is not None:
                self._heartbeat_ack = None
                ack = session_pb2.HeartbeatAck(sequence=sequence, leaderless=self._leaderless())
                await self._send(heartbeat_ack=ack)
                if self._granting is not None and self._granting.renewal_due() and not ack.leaderless:
                    await self._send(lease_renewal=self._granting.renewal())
            if (sequence := self._report_ack) is not None:
                self._report_ack = None
                await self._send(report_ack=session_pb2.ReportAck(sequence=sequence))
            while self._channels:
                await self._send(open_channel=self._channels.popleft())

    async def _send_assignments(self) -> None:
        self._assignments_due = False
        snapshot = self._store.snapshot
        assignments = assignments_for(snapshot.state, self.node_id)
        if assignments == self._assignments:
            return
        if self._granting is not None:
            await self._send(signed_assignments=self._granting.grant(snapshot.index, assignments))
        else:
            message = session_pb2.AssignmentSet(revision=snapshot.index)
            for assignment in assignments:
                fill(assignment, message.assignments.add())
            await self._send(assignments=message)
        self._assignments = assignments
        ASSIGNMENT_SETS.inc()
        log.debug("session.assigned", node=self.node_id, revision=snapshot.index, replicas=len(assignments))

    async def _send_addresses(self) -> None:
        self._addresses_due = False
        addresses = tuple(self._addresses())
        if addresses != self._told_addresses:
            self._told_addresses = addresses
            await self._send(coordinators=session_pb2.CoordinatorList(addresses=addresses))

    async def _send(self, **message: Any) -> None:
        await self._stream.send(session_pb2.ConnectResponse(**message))

    # Recorder

    async def _record(self) -> None:
        """Level-triggered: compares what the node said with the state, and proposes the difference until there is
        none. What the log cannot take now is tried again; the node goes on meanwhile."""
        failures = 0
        while True:
            await self._record_due.wait()
            self._record_due.clear()
            try:
                await self._record_node()
                await self._record_journal()
                await self._record_replicas()
                failures = 0
            except NotFound:
                raise removed(self.node_id) from None
            except CloudlessError as error:
                longest_ms = LEADERLESS_DELAY_MS_MAX if error.reason == "NoLeader" else RETRY_DELAY_MS_MAX
                delay_ms = min(RETRY_DELAY_MS_MIN * 2 ** min(failures, 10), longest_ms)
                failures += 1
                log.warning(
                    "session.report_not_recorded",
                    node=self.node_id,
                    reason=error.reason,
                    cause=error.message,
                    retry_in_ms=delay_ms,
                )
                await asyncio.sleep(delay_ms / 1000)
                self._record_due.set()

    async def _record_node(self) -> None:
        node = self._store.snapshot.state.nodes.get(self.node_id)
        if node is None:
            raise removed(self.node_id)
        state = self._store.snapshot.state
        told, device = self._device, self._device
        if device is not None:
            device = recordable(device, state)
        changed = device is not None and device != node.device and not self._device_refused
        skew_ms = skew_to_record(node, self.clock_skew_ms, state)
        if node.state is NodeState.READY and not changed and skew_ms is None:
            return
        command = ReportNode(
            self.node_id, NodeState.READY, "connected", device if changed else None, clock_skew_ms=skew_ms
        )
        command = with_health(command, state, now_ms=self._clock.now_ms())
        try:
            await self._store.propose(command, actor=f"node/{self.node_id}")
        except InvalidArgument as error:
            if not changed:
                raise
            log.warning("session.device_refused", node=self.node_id, reason=error.reason, cause=error.message)
            self._device_refused = told is self._device
            self._record_due.set()
            return
        if node.state is not NodeState.READY:
            log.info(
                "node.ready", node=self.node_id, transition=f"{node.state or 'Enrolling'}->Ready", cause="connected"
            )

    async def _record_journal(self) -> None:
        if not self._journal_refused:
            return
        event = RecordEvent(
            type="security.journal_refused",
            severity=Severity.WARNING,
            resource=f"node/{self.node_id}",
            description=f"the node's stored assignments were not a coordinator's word ({self._journal_refused}); "
            "nothing was started from them",
            metadata={"node": self.node_id, "reason": self._journal_refused},
        )
        # The agent says so in each session: once for each of its lives is enough.
        said_once = f"journal-refused/{self.node_id}/{self.instance_id}"
        await self._store.propose(event, actor=f"node/{self.node_id}", request_id=said_once)
        self._journal_refused = ""

    async def _record_replicas(self) -> None:
        if self._reports and self._is_silent():
            # The agent may be with another coordinator by now, and its word there is the newer one.
            self._was_silent = True
            return
        reports, self._reports = self._reports, {}
        sequence = self._report_sequence
        try:
            worthwhile = news(self._store.snapshot.state, self.node_id, reports.values())
            REPORTS.labels("unchanged").inc(len(reports) - len(worthwhile))
            for start in range(0, len(worthwhile), REPORTS_PER_ENTRY_MAX):
                batch = worthwhile[start : start + REPORTS_PER_ENTRY_MAX]
                with tracer.start_as_current_span("session.report_replicas"):
                    await self._propose_report(ReportReplicas(self.node_id, batch))
                REPORTS.labels("recorded").inc(len(batch))
                for report in batch:
                    _log_transition(self.node_id, report)
        except InvalidArgument as error:
            # Repeating it would not help, and would hold back all later reports.
            REPORTS.labels("refused").inc(len(reports))
            log.warning("session.report_refused", node=self.node_id, reason=error.reason, cause=error.message)
        except CloudlessError:
            # What came meanwhile is newer.
            self._reports = {**reports, **self._reports}
            raise
        if sequence > 0:
            self._report_ack = sequence
            self._write_due.set()

    async def _propose_report(self, command: ReportReplicas) -> None:
        """Gives up after a while, so that what is repeated is the newest word, and only where the node still speaks."""
        try:
            async with asyncio.timeout(max(self._silence_ms, RETRY_DELAY_MS_MAX) / 1000):
                await self._store.propose(command, actor=f"node/{self.node_id}")
        except TimeoutError:
            raise Unavailable("the log did not take the report in time", reason="NotRecordedInTime") from None

    def _is_silent(self) -> bool:
        return self._clock.monotonic_ms() - self.heard_at_ms >= self._silence_ms


def _device(message: types_pb2.DeviceInfo) -> DeviceInfo:
    if message.ByteSize() > DEVICE_BYTES_MAX:
        raise InvalidArgument(
            f"the device's description is longer than {DEVICE_BYTES_MAX} bytes", reason="DeviceTooLarge"
        )
    return from_proto(message, DeviceInfo)


def _log_transition(node_id: str, report: ReportedReplica) -> None:
    log.info(
        "replica.reported",
        replica=report.replica_id,
        node=node_id,
        phase="gone" if report.gone else report.status.phase,
        reason=report.status.reason,
        restarts=report.status.restart_count,
    )


def removed(node_id: str) -> PermissionDenied:
    """The refusal of a node that the fabric does not know (any more)."""
    return PermissionDenied(
        f"node {node_id} is not a member of this fabric",
        reason="NodeRemoved",
        remedy="to enrol it again, remove identity/ from its data folder and start it with a new join token",
    )


def broke(error: BaseException) -> bool:
    """Whether a session ended because its stream did, which there is nobody to tell of."""
    return isinstance(error, Unavailable)
