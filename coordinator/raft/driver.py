"""The core and the world around it.

In one turn of the event loop, what came meanwhile is stepped through the core, what it decided is carried out in its
order, what has to be on the disk is written as one group, and what is committed is applied. A turn never waits: what
may take long runs outside the event loop and comes back as an event.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final

import structlog

from cloudless.coordinator.engine import EngineParts, StateHost
from cloudless.coordinator.raft import metrics
from cloudless.coordinator.raft.applying import Applying
from cloudless.coordinator.raft.cache import RecentEntries
from cloudless.coordinator.raft.changes import Changes
from cloudless.coordinator.raft.connections import INTRODUCTION, Connections
from cloudless.coordinator.raft.core import effects, events
from cloudless.coordinator.raft.core.messages import AppendResponse, VoteResponse
from cloudless.coordinator.raft.core.model import Role, State, encode_configuration
from cloudless.coordinator.raft.core.step import step
from cloudless.coordinator.raft.duties import Duties
from cloudless.coordinator.raft.forwarding import Forwarding
from cloudless.coordinator.raft.gathering import Gathering
from cloudless.coordinator.raft.intake import BOUNCED_S, Intake
from cloudless.coordinator.raft.link import AnyMessage, ChangeRequest, ChangeResponse, Forward, Forwarded, Transport
from cloudless.coordinator.raft.measuring import RoundTrips, Slowness
from cloudless.coordinator.raft.proposals import Proposal, Proposals, outcome_unknown
from cloudless.coordinator.raft.reads import Reads
from cloudless.coordinator.raft.recovery import removed
from cloudless.coordinator.raft.replication import Replication
from cloudless.coordinator.raft.roles import Leadership, role_name
from cloudless.coordinator.raft.snapshots import Newest, Receiving, Serving
from cloudless.coordinator.raft.timer import Timer
from cloudless.coordinator.raft.writer import Writer
from cloudless.coordinator.wal.single import STATE, TERM
from cloudless.coordinator.wal.storage import Storage
from cloudless.errors import CloudlessError, DiskFull, Internal

log = structlog.get_logger(__name__)

LATE_MS: Final = 50.0  # a Tick that is so late comes from a process that stood still
CATCH_BREATH_S: Final = 0.002
GOODBYE_S: Final = 0.3  # a removed member goes on so long, for others to learn of it

_ROLES: Final = ("leader", "follower", "candidate", "learner", "removed")


class Driver:
    """See the module. Nothing happens before `start`."""

    def __init__(
        self, parts: EngineParts, host: StateHost, storage: Storage, transport: Transport, state: State, *, address: str
    ) -> None:
        self._parts = parts
        self._storage = storage
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._random = random.Random(parts.random_bits(64))  # noqa: S311 - for timeouts, one for each step
        self._seconds = parts.seconds
        self.state = state
        self.failure: CloudlessError | None = None
        self._stopped = False
        self._inbox: list[events.Event] = []
        self._scheduled = False  # a turn is
        self._in_turn = False
        self._durable = state.durable  # the newest Persist that is on the disk
        self._held: list[effects.Send] = []
        self._sent = False  # something, in this turn
        self._breath_taken = False
        self._known_leader = ""
        self._tasks: set[asyncio.Task[None]] = set()
        self.sync_ms = Slowness()
        self.round_trips = RoundTrips()

        self.compacting = threading.Lock()  # only one thread removes files of the log
        self.leadership = Leadership()
        self.proposals = Proposals(seconds=self._seconds)
        self.gathering = Gathering(seconds=self._seconds, ready=self._gathered)
        self.reads = Reads(seconds=self._seconds, wake=self.wake)
        self.cache = RecentEntries(last_index=state.log.last_index)
        self.timer = Timer(parts.clock, on_due=self._turn)
        self.writer = Writer(
            storage.wal,
            run_blocking=parts.run_blocking,
            spawn=self.spawn,
            on_durable=self._on_durable,
            on_full=self._on_full,
            on_room=self.wake,
            on_error=self._on_error,
        )
        self.replication = Replication(
            storage.wal,
            self.cache,
            transport,
            self.round_trips,
            run_blocking=parts.run_blocking,
            spawn=self.spawn,
            feed=self.feed,
            leads_in=self._leads_in,
            now_ms=lambda: self._loop.time() * 1000,
        )
        self.forwarding = Forwarding(
            self.proposals, send=self.replication.tell, seconds=self._seconds, first_id=parts.random_bits(48)
        )
        self.changes = Changes(
            member=parts.member,
            feed=self.feed,
            send=transport.send,
            leads=self._leads,
            leader=lambda: self.state.leader,
            first_id=parts.random_bits(48),
        )
        self.connections = Connections(transport, member=parts.member, address=address)
        self.applying = Applying(
            host,
            storage.wal,
            self.cache,
            self.proposals,
            self.reads,
            run_blocking=parts.run_blocking,
            seconds=self._seconds,
            spawn=self.spawn,
            on_bug=self._on_bug,
            on_applied=self._on_applied,
            on_configuration=self._on_configuration_applied,
            on_installed=self._on_installed,
        )
        self.serving = Serving(
            storage,
            transport,
            run_blocking=parts.run_blocking,
            seconds=self._seconds,
            spawn=self.spawn,
            feed=self.feed,
            term=self._leads_in,
        )
        self.receiving = Receiving(
            storage, run_blocking=parts.run_blocking, spawn=self.spawn, feed=self.feed, install=self.applying.install
        )
        self.duties = Duties(self, address=address)
        self.intake = Intake(
            parts,
            self.proposals,
            self.forwarding,
            self.writer,
            step=self._step,
            wake=self.wake,
            hand_over=self.duties.hand_over,
        )
        self._carry_out: dict[type, Callable[[Any], None]] = {
            effects.Persist: self._persist,
            effects.Send: self._send,
            effects.Commit: self._commit,
            effects.RoleChanged: self._role_changed,
            effects.ConfigurationChanged: lambda _: self.connections.update(self.state),
            effects.ReadAnswered: self._read_answered,
            effects.ChangeAnswered: lambda effect: self.changes.answered(effect.id, effect.reason),
            effects.SendSnapshot: self.serving.send,
            effects.StoreSnapshot: self.receiving.store,
        }

    # Life

    def start(self) -> None:
        """The transport brings messages from now on, and time passes."""
        start = self._storage.start
        if start is not None:
            configuration = start.configuration or encode_configuration(self.state.configuration_at(start.index))
            self.serving.stored(Newest(start.index, start.term, configuration))
        self._transport.start(self._on_message, self._on_lost)
        self.connections.update(self.state)
        self._show_role()
        self.wake()

    def stop(self) -> None:
        """No turn is taken any more."""
        self._stopped = True
        self.timer.stop()
        self.writer.stop()
        self.applying.stop()
        self.duties.stop()

    async def join(self) -> None:
        """Waits for what still runs outside the event loop."""
        while self._tasks:
            await asyncio.wait(tuple(self._tasks))

    def fail(self, error: CloudlessError) -> None:
        """This member can never commit again."""
        if self.failure is not None or self._stopped:
            return
        self.failure = error
        log.critical("raft.failed", member=self._parts.member, reason=error.reason, cause=error.message)
        self.stop()
        self.leadership.set(False)
        self.refuse_all(error)
        self._parts.on_failure(error)

    def refuse_all(self, error: CloudlessError) -> None:
        self.forwarding.refuse_all(error.message)
        self.proposals.refuse_all(error)
        self.reads.refuse_all(error)
        self.changes.fail(error)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_bug(error)

    def _on_bug(self, error: BaseException) -> None:
        if isinstance(error, CloudlessError):
            self.fail(error)
            return
        log.error("raft.bug", member=self._parts.member, exc_info=error)
        self.fail(Internal(f"bug in the replicated log: {error!r}", remedy="restart, and report this"))

    # What happens

    def wake(self) -> None:
        """A turn, soon."""
        if not self._scheduled and not self._stopped:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def propose(self, proposal: Proposal) -> None:
        """Adds it to the next group."""
        self.proposals.add(proposal)
        self.gathering.begin()

    def _gathered(self) -> None:
        if not self._scheduled:
            self._turn()

    def feed(self, event: events.Event) -> None:
        self._inbox.append(event)
        self.wake()

    def _on_message(self, sender: str, message: AnyMessage) -> None:
        if self._stopped:
            return
        kind = type(message)
        if kind is AppendResponse:
            self.round_trips.answered(sender, message.round, self._loop.time() * 1000)  # type: ignore[union-attr]
        elif kind is VoteResponse:
            self.round_trips.answered(sender, 0, self._loop.time() * 1000)
        elif kind is Forward:
            self.forwarding.received(sender, message, leading=self._leads())  # type: ignore[arg-type]
            self.wake()
            return
        elif kind is Forwarded:
            if self.forwarding.answered(sender, message, applied_index=self.applying.index):  # type: ignore[arg-type]
                self.intake.rest(BOUNCED_S)
            return
        elif kind is ChangeRequest:
            self._on_request(sender, message)  # type: ignore[arg-type]
            return
        elif kind is ChangeResponse:
            self.changes.response(sender, message)  # type: ignore[arg-type]
            return
        self.connections.heard_from(sender)
        self._inbox.append(events.Received(sender, message))  # type: ignore[arg-type]
        self.wake()

    def _on_request(self, sender: str, request: ChangeRequest) -> None:
        if request.kind == INTRODUCTION:
            self.connections.introduced(sender, request.address, self.state)
        else:
            self.changes.received(sender, request)

    def _on_lost(self, member: str) -> None:
        if self._stopped:
            return
        self.round_trips.lost(member)
        self.forwarding.lost(member)
        self.changes.lost(member)
        self.feed(events.Unreachable(member))

    # A turn

    def _turn(self) -> None:
        self._scheduled = False
        if self._stopped:
            return
        self._in_turn = True
        try:
            self._take_turn()
        except Exception as error:
            self._on_bug(error)
        except BaseException:  # the end of the process, or of the simulated machine
            self.stop()
            raise
        finally:
            self._in_turn = False

    def _take_turn(self) -> None:
        self._sent = False
        inbox, self._inbox = self._inbox, []
        for event in inbox:
            self._step(event)
        for number in self.reads.ask():
            self._step(events.Read(number))
        if self.proposals.waiting and not self.gathering.under_way:
            self.intake.pass_on(self.state)
        self._tick_when_due()
        if self._stopped:
            return
        if not self.writer.idle:
            if self._sent and self.state.role is Role.LEADER:
                # What was sent leaves first, so that the others' disks work while this one does; and a majority of them
                # may be done before it is: the loop has to hear them then.
                self._transport.flush()
                self.writer.flush(aside=True)
            else:
                self.writer.flush()
        if self._sent:
            self._transport.flush()
        self.applying.run()
        self.timer.set(self.state.due_ms)
        self.duties.arm()

    def _step(self, event: events.Event) -> None:
        if self._stopped:
            return
        jitter = self._random.random()
        before = self.state
        self.state, todo = step(before, event, now_ms=self._parts.clock.monotonic_ms(), jitter=jitter)
        if self.state.hand_over is not before.hand_over:
            self._check_leading()
        carry_out = self._carry_out
        for effect in todo:
            carry_out[type(effect)](effect)

    def _tick_when_due(self) -> None:
        late_ms = self._parts.clock.monotonic_ms() - self.state.due_ms
        if late_ms < 0:
            return
        if late_ms > LATE_MS and not self._breath_taken:
            # What the others said while this process stood still comes first.
            self._breath_taken = True
            self._loop.call_later(CATCH_BREATH_S, self.wake)
            return
        self._breath_taken = False
        self._step(events.Tick())

    # What the core wants

    def _persist(self, effect: effects.Persist) -> None:
        if effect.truncate_from:
            self.cache.truncate_from(effect.truncate_from)
        entries: Any = effect.entries
        if effect.proposals:
            entries = self.intake.entries(effect)
        if entries:
            self.cache.extend(entries)
        self.writer.put(
            effect.number, truncate_from=effect.truncate_from, hard_state=effect.hard_state, entries=entries
        )

    def _send(self, effect: effects.Send) -> None:
        if effect.after > self._durable:
            self._held.append(effect)
        else:
            self._sent = True
            self.replication.send(effect)

    def _commit(self, effect: effects.Commit) -> None:
        self.applying.committed(effect.index)

    def _read_answered(self, effect: effects.ReadAnswered) -> None:
        self.reads.answered(effect.id, effect.index, applied_index=self.applying.index)

    def _role_changed(self, effect: effects.RoleChanged) -> None:
        state = self.state
        self._check_leading()
        leads = state.role is Role.LEADER
        if not leads or state.term != self.proposals.term:
            self.proposals.deposed(leads=leads)
        self.forwarding.leader_is(state.leader)
        self.changes.role_changed()
        self.round_trips.forget()
        self.reads.leader_is(state.leader)
        self._show_role()
        if self.proposals.waiting:
            self.wake()

    # What became of it

    def _on_durable(self, number: int, last_index: int, last_term: int) -> None:
        if self._stopped:
            return
        self._durable = number
        self.sync_ms.add(self._storage.wal.last_sync_s * 1000)
        if self._held:
            released = [send for send in self._held if send.after <= number]
            self._held = [send for send in self._held if send.after > number]
            for send in released:
                self._sent = True
                self.replication.send(send)
        self._step(events.Persisted(number, last_index, last_term))
        self.cache.shrink(durable_index=self.writer.written_index)
        if not self._in_turn:
            self.wake()

    def _on_full(self, error: DiskFull) -> None:
        log.warning("raft.disk_full", member=self._parts.member, cause=error.message)
        unknown = outcome_unknown(f"the disk is full: {error.message}")
        self.proposals.refuse_appended(unknown, behind=self._storage.wal.last_index)
        self.wake()

    def _on_error(self, error: Exception) -> None:
        self._on_bug(error)

    def _on_applied(self, entry_term: int) -> None:
        """The first entry of a term, applied: the state is current, if this member leads in it."""
        if entry_term == self.state.term:
            self._check_leading()

    def _on_configuration_applied(self) -> None:
        """A change of members is committed."""
        leaves = self._parts.member in self.state.configuration_at(self.applying.index).removed
        self._loop.call_later(GOODBYE_S, self._removed if leaves else self._reconnect)

    def _reconnect(self) -> None:
        if not self._stopped:
            self.connections.update(self.state)

    def _removed(self) -> None:
        self.fail(removed(self._parts.member))

    def _on_installed(self, event: events.SnapshotInstalled) -> None:
        """The host has the state of a snapshot, which is durable. From here to the step nothing may come between."""
        if self._stopped:
            return
        index, term = event.index, event.last_term
        if index > self.state.commit_index:
            if self.state.log.term_at(index) != term:
                self.cache.reset(last_index=index)
            self.writer.put_work(lambda: self._follow(index, term))
        self._step(event)
        self.serving.stored(Newest(index, term, event.configuration))
        self.proposals.installed(index, term)
        self.reads.applied(index)
        self.connections.update(self.state)
        self.wake()

    def _follow(self, index: int, term: int) -> None:
        with self.compacting:
            self._storage.follow(index, term)

    # Roles

    def _leads(self) -> bool:
        return self.state.role is Role.LEADER

    def _leads_in(self) -> int:
        return self.state.term if self.state.role is Role.LEADER else 0

    def _check_leading(self) -> None:
        """It leads while it has the role, its state is current, and it is not handing over."""
        state = self.state
        self.leadership.set(
            state.role is Role.LEADER
            and state.hand_over is None
            and not self._stopped
            and state.term_start > 0
            and self.applying.index >= state.term_start
        )

    def _show_role(self) -> None:
        state = self.state
        TERM.set(state.term)
        name = role_name(state)
        for role in _ROLES:
            STATE.labels(role).set(1 if role == name else 0)
        log.info(
            "raft.role",
            member=state.id,
            role=name,
            term=state.term,
            leader=state.leader,
            last_index=state.log.last_index,
        )
        if state.role is not Role.LEADER:
            metrics.PEER_LAG.clear()
        if state.role is Role.CANDIDATE:
            metrics.ELECTIONS.inc()
        if state.leader and state.leader != self._known_leader:
            self._known_leader = state.leader
            metrics.LEADER_CHANGES.inc()
