"""Runs replicas: carries the pure core's effects out against a runtime and feeds back what happened.

Level-triggered. An event of the runtime only marks its replica; a look (one listing for all that are marked)
says what is true. Everything is listed when the agent starts, when the event stream was interrupted, and every
resync. There is no task per replica: an event steps the replica at once, and only operations that are under way
are tasks, at most one per container and one per sandbox (the core never asks for a second).

What a listing says of a replica is dropped, and looked up again, when one of its operations ended while the
listing was under way: it may describe the time before.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog

from cloudless.agent.announcing import announce, count_containers, labels_of
from cloudless.agent.core import model as m
from cloudless.agent.core import plan, replica
from cloudless.agent.core.tenure import LEASE_EXPIRED
from cloudless.agent.grants import Granted, Renewal
from cloudless.agent.journal import Journal
from cloudless.agent.operations import Operator
from cloudless.agent.probing import Prober
from cloudless.agent.reports import ReportBook
from cloudless.agent.runtime.base import Runtime, SandboxView
from cloudless.agent.serving import Serving, has_host_ports
from cloudless.agent.tenure import Tenure
from cloudless.clock import Clock
from cloudless.core.model import Assignment, ReplicaPhase, ReplicaStatus
from cloudless.core.spec import WorkloadSpec
from cloudless.errors import CloudlessError

log = structlog.get_logger(__name__)

RESYNC_INTERVAL_S: Final = 30.0
LIST_TIMEOUT_S: Final = 30.0
_RETRY_DELAY_S_MIN: Final = 0.2
_RETRY_DELAY_S_MAX: Final = 10.0
# After subscribing, how long until what may have been missed before is looked up.
_SUBSCRIBED_DELAY_S: Final = 1.0
_HOOK_MARGIN_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class _Hold:
    """Why what `applies` to may not run for now."""

    reason: str
    message: str
    applies: Callable[[Assignment], bool]


@dataclass(slots=True)
class _Held:
    state: m.ReplicaState
    assigned: bool  # by the present set; False: it is being removed
    operations_ended: int = 0
    timer: asyncio.TimerHandle | None = None
    reported: ReplicaStatus | None = None  # the newest status, told or about to be


class Supervisor:
    """One per agent. `ready` is set once every replica that was found is known; `reports` tells what is so.

    `runtime_name` names the runtime that a spec runs on, for the reports. `jitter` gives numbers in [0, 1).
    """

    def __init__(
        self,
        runtime: Runtime,
        journal: Journal,
        clock: Clock,
        prober: Prober,
        *,
        jitter: Callable[[], float],
        runtime_name: Callable[[WorkloadSpec], str] | None = None,
        tenure: Tenure | None = None,
        operations_at_once: int = 4,
        resync_interval_s: float = RESYNC_INTERVAL_S,
    ) -> None:
        self.reports = ReportBook()
        self.ready = asyncio.Event()
        self.revision = 0
        self._runtime = runtime
        self._journal = journal
        self._clock = clock
        self._prober = prober
        self._jitter = jitter
        self._runtime_name = runtime_name or (lambda _spec: runtime.name)
        self._serving = Serving(runtime)
        self._operator = Operator(runtime, operations_at_once=operations_at_once)
        self._resync_interval_s = resync_interval_s
        self._replicas: dict[str, _Held] = {}
        self._facts: dict[str, tuple[m.ContainerFacts, ...]] = {}
        self._assignments: dict[str, Assignment] | None = None
        self._strangers: frozenset[str] = frozenset()  # found, and nobody has said a word about them yet
        self._to_look: set[str] = set()
        self._look_wanted = asyncio.Event()
        self._survey_wanted = True
        self._gone_while_looking: set[str] = set()
        self._inbox: deque[tuple[str, m.Event]] = deque()
        self._stepping = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._assigning = asyncio.Lock()
        self._hold: _Hold | None = None
        self._tenure = tenure or Tenure(clock)

    # Life ------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Reads the journal; once, before all else. Raises OSError when its folder cannot be used."""
        remembered = self._journal.load()
        self._facts = dict(remembered.facts)
        self.revision = remembered.revision
        if remembered.assignments is not None:
            self._assignments = {a.replica_id: a for a in remembered.assignments}
        self._tenure.resume(remembered.lease, remembered.time)
        assigned = None if self._assignments is None else len(self._assignments)
        log.info("supervisor.loaded", revision=self.revision, assignments=assigned)

    async def run(self) -> None:
        """Supervises until cancelled; what runs then goes on running."""
        self._look_wanted.set()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._journal.run())
                group.create_task(self._follow_events())
                group.create_task(self._look_when_wanted())
                group.create_task(self._resync_now_and_then())
                group.create_task(self._serving.run(self.ready))
                group.create_task(
                    self._tenure.run(
                        lambda: (self._assignments or {}).values(), self._apply_hold, self._journal.save_time
                    )
                )
        finally:
            for held in self._replicas.values():
                if held.timer is not None:
                    held.timer.cancel()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._journal.close()

    async def assign(self, revision: int, assignments: Sequence[Assignment], granted: Granted | None = None) -> bool:
        """Takes over what the node shall run; durable before it is acted on. False: an older set, ignored. `granted`
        is the same set as a coordinator signed it: without, it is for this life of the agent alone.

        A journal that cannot be written (a full disk) does not keep the node from doing as it is told."""
        async with self._assigning:
            if revision < self.revision:
                log.warning("assignments.stale", revision=revision, known=self.revision)
                return False
            wanted = {a.replica_id: a for a in assignments}
            if wanted == self._assignments and self._tenure.covers(granted):
                self.revision = revision
                if granted is not None:
                    await self._take_renewal(Renewal(granted.lease, granted.message.lease))
                return True
            try:
                await self._journal.save_assignments(revision, assignments, granted)
                self._tenure.saved(granted.lease if granted else None)
            except OSError as error:
                log.error("journal.write_failed", file="assignments", revision=revision, cause=str(error))
            self.revision = revision
            self._assignments = wanted
            self._tenure.take(granted.lease if granted else None)
            log.info("assignments.received", revision=revision, assignments=len(wanted))
            if self.ready.is_set():
                self._carry_out(self._strangers)
                self._strangers = frozenset()
            return True

    async def renew(self, renewal: Renewal) -> bool:
        """Lets what the node runs run for longer; durable where the disk allows. False: it is for another set."""
        async with self._assigning:
            if not self._tenure.renewed_by(renewal.lease):
                log.debug("lease.of_another_set", revision=renewal.lease.revision, known=self.revision)
                return False
            await self._take_renewal(renewal)
            return True

    async def _take_renewal(self, renewal: Renewal) -> None:
        if self._tenure.worth_saving(renewal.lease, (self._assignments or {}).values()):
            try:
                await self._journal.save_lease(renewal)
                self._tenure.saved(renewal.lease)
            except OSError as error:
                log.error("journal.write_failed", file="lease", cause=str(error))
        self._tenure.take(renewal.lease)

    # The node's own needs --------------------------------------------------------------------------------

    def evict(self, replica_id: str, reason: str, message: str) -> bool:
        """Ends a replica for good: it is Failed at once with this reason (a CamelCase word, as `Evicted`), its
        containers get their grace, and the coordinator places another one. Outlives the agent. Repeatable.
        False: it is not on this node, or has ended already, or is stopping."""
        held = self._replicas.get(replica_id)
        if held is None or held.state.phase in (ReplicaPhase.SUCCEEDED, ReplicaPhase.FAILED, ReplicaPhase.STOPPING):
            return False
        self._post(replica_id, m.Evicted(reason, message))
        return self.phase(replica_id) is ReplicaPhase.FAILED

    def hold(self, reason: str, message: str, *, only: Callable[[Assignment], bool] | None = None) -> None:
        """Until `release`, what is assigned (and for which `only` says True, asked once for each replica) is not
        started, and what runs of it is stopped in good order. It waits with this reason (a CamelCase word, as
        `OwnerTerms`) and goes on afterwards; but what may never be started again (restart policy Never) fails with
        it. Not remembered: call it before `run` to hold what is found after a restart. Repeatable; each call
        replaces the last one's terms."""
        self._hold = _Hold(reason, message, only or (lambda _assignment: True))
        log.info("supervisor.held", reason=reason, message=message)
        self._apply_hold()

    def release(self) -> None:
        """Ends the hold; what is assigned is started (again). Repeatable."""
        if self._hold is not None:
            self._hold = None
            log.info("supervisor.released")
            self._apply_hold()

    def _apply_hold(self) -> None:
        for replica_id, held in sorted(self._replicas.items()):
            wanted = self._hold_on(held.state.assignment)
            if isinstance(wanted, m.Held) or held.state.held:
                self._post(replica_id, wanted)

    def _hold_on(self, assignment: Assignment | None) -> m.Held | m.Released:
        hold = self._hold
        if assignment is not None and self._tenure.expired(assignment):
            return m.Held(LEASE_EXPIRED, "no coordinator has renewed its lease in time")
        if hold is None or assignment is None or not hold.applies(assignment):
            return m.Released()
        return m.Held(hold.reason, hold.message)

    # Questions -------------------------------------------------------------------------------------------

    def assignment(self, replica_id: str) -> Assignment | None:
        """What the replica runs; None when it is not (any more) on this node."""
        held = self._replicas.get(replica_id)
        return held.state.assignment if held else None

    def phase(self, replica_id: str) -> ReplicaPhase | None:
        """None: not on this node."""
        held = self._replicas.get(replica_id)
        return held.state.phase if held else None

    def running(self) -> Mapping[str, Assignment]:
        """Every assigned replica on this node, by id."""
        return {r: h.state.assignment for r, h in self._replicas.items() if h.state.assignment is not None}

    # Planning --------------------------------------------------------------------------------------------

    def _carry_out(self, found: frozenset[str], views: Mapping[str, SandboxView] | None = None) -> None:
        """Acts on the difference between what is assigned, known and found. With `views`, those are fresh."""
        known = {r: held.state.assignment if held.assigned else None for r, held in self._replicas.items()}
        for decision in plan.plan(assignments=self._assignments, known=known, found=found):
            match decision:
                case plan.Start(assignment):
                    self._begin(assignment, m.Observed(None))
                case plan.Adopt(assignment):
                    view = views.get(assignment.replica_id) if views else None
                    log.info("replica.adopted", **labels_of(assignment.replica_id, assignment))
                    self._begin(assignment, m.Observed(view) if view else m.SomethingChanged())
                case plan.Update(assignment):
                    self._replicas[assignment.replica_id].assigned = True
                    self.reports.set_assigned(assignment.replica_id, True)
                    self._post(assignment.replica_id, m.AssignmentChanged(assignment))
                case plan.Stop(replica_id):
                    self._release(replica_id)
                case plan.RemoveUnknown(replica_id):
                    log.warning("replica.unknown", replica=replica_id)
                    state = replica.unknown(replica_id, wall_ms=self._clock.now_ms())
                    self._replicas[replica_id] = _Held(state, assigned=False)
                    self._post(replica_id, m.SomethingChanged())
                case plan.LeaveAlone(replica_id):
                    self._strangers |= {replica_id}
        for replica_id in sorted(set(self._facts) - set(self._assignments or ()) - set(self._replicas)):
            if self._assignments is not None:
                self._forget_facts(replica_id)

    def _begin(self, assignment: Assignment, first: m.Event) -> None:
        state = replica.assigned(
            assignment,
            self._facts.get(assignment.replica_id, ()),
            now_ms=self._clock.monotonic_ms(),
            wall_ms=self._clock.now_ms(),
        )
        self._replicas[assignment.replica_id] = _Held(state, assigned=True)
        hold = self._hold_on(assignment)
        if isinstance(hold, m.Held):
            self._post(assignment.replica_id, hold)
        self._post(assignment.replica_id, first)

    def _release(self, replica_id: str) -> None:
        held = self._replicas[replica_id]
        held.assigned = False
        self.reports.set_assigned(replica_id, False)
        if held.state.sandbox is m.SandboxStage.GONE:
            self._drop(replica_id)
        else:
            self._post(replica_id, m.Unassigned("Unassigned"))

    def _drop(self, replica_id: str) -> None:
        held = self._replicas.pop(replica_id)
        if held.timer is not None:
            held.timer.cancel()
        self._forget_facts(replica_id)
        self._count_containers()

    def _forget_facts(self, replica_id: str) -> None:
        self._facts.pop(replica_id, None)
        self._journal.forget(replica_id)

    # Stepping --------------------------------------------------------------------------------------------

    def _post(self, replica_id: str, event: m.Event) -> None:
        """Steps the replica; an event that comes out of a step waits until that step is done."""
        self._inbox.append((replica_id, event))
        if self._stepping:
            return
        self._stepping = True
        try:
            while self._inbox:
                self._step(*self._inbox.popleft())
        finally:
            self._stepping = False

    def _step(self, replica_id: str, event: m.Event) -> None:
        held = self._replicas.get(replica_id)
        if held is None:
            return
        now_ms = self._clock.monotonic_ms()
        try:
            held.state, effects = replica.step(
                held.state, event, now_ms=now_ms, wall_ms=self._clock.now_ms(), jitter=self._jitter()
            )
        except Exception:  # a bug in one replica's step must not stop the others; its state stays as it was
            log.exception("replica.step_failed", replica=replica_id, cause=repr(event)[:500])
            return
        assignment = held.state.assignment
        if assignment is not None and has_host_ports(assignment):
            self._serving.put(
                replica_id,
                workload=f"{assignment.namespace}/{assignment.workload}",
                ready=held.state.phase is ReplicaPhase.READY,
                stopping=held.state.phase is ReplicaPhase.STOPPING,
            )
        for effect in effects:
            self._carry_out_effect(replica_id, held, effect)
        if replica_id in self._replicas:
            self._arm(replica_id, held, now_ms)

    def _arm(self, replica_id: str, held: _Held, now_ms: int) -> None:
        if held.timer is not None:
            held.timer.cancel()
            held.timer = None
        wake_at_ms = replica.wake_at_ms(held.state)
        if wake_at_ms is not None:
            delay_s = max(1, wake_at_ms - now_ms) / 1000
            held.timer = asyncio.get_running_loop().call_later(delay_s, self._post, replica_id, m.TimerFired())

    def _carry_out_effect(self, replica_id: str, held: _Held, effect: m.Effect) -> None:
        match effect:
            case m.Look():
                self._to_look.add(replica_id)
                self._look_wanted.set()
            case m.EnsureSandbox() | m.StartContainer() | m.StopContainer() | m.RemoveSandbox():
                self._spawn(self._operate(replica_id, held, effect))
            case m.RunProbe():
                self._spawn(self._probe(replica_id, effect))
            case m.RunPreStop():
                self._spawn(self._pre_stop(replica_id, effect))
            case m.ReportStatus(status):
                held.reported = status
                if status.phase is ReplicaPhase.READY and self._is_yet_to_serve(replica_id, held):
                    self._spawn(self._report_when_served(replica_id, held, status))
                else:
                    self._report(replica_id, held, status)
            case m.ReportGone():
                log.info("replica.gone", **labels_of(replica_id, held.state.assignment))
                self._gone_while_looking.add(replica_id)
                if held.state.assignment is not None:
                    self.reports.put_gone(replica_id)
                    self.reports.set_assigned(replica_id, held.assigned)
                if not held.assigned:
                    self._drop(replica_id)
            case m.Remember(facts):
                self._facts[replica_id] = facts
                self._journal.remember(replica_id, facts)
            case m.AnnouncePhase() | m.AnnounceEnd() | m.AnnouncePreStop() | m.AnnounceProbeFailure():
                announce(effect, labels_of(replica_id, held.state.assignment))

    def _report(self, replica_id: str, held: _Held, status: ReplicaStatus) -> None:
        assignment = held.state.assignment
        if assignment is not None:
            self.reports.put(replica_id, replace(status, runtime=self._runtime_name(assignment.spec)))
            self.reports.set_assigned(replica_id, held.assigned)
        self._count_containers()

    def _is_yet_to_serve(self, replica_id: str, held: _Held) -> bool:
        """Whether the world knows it as a replica that is not ready, and its host ports do not lead to it yet."""
        if not has_host_ports(held.state.assignment) or self._serving.is_told(replica_id):
            return False
        known = self.reports.get(replica_id)
        return known is not None and known.status is not None and known.status.phase is not ReplicaPhase.READY

    async def _report_when_served(self, replica_id: str, held: _Held, status: ReplicaStatus) -> None:
        """Who is told that it is ready sends requests at once. What was reported meanwhile is newer."""
        await self._serving.admitted(replica_id)
        if held.reported is status and self._replicas.get(replica_id) is held:
            self._report(replica_id, held, status)

    def _count_containers(self) -> None:
        count_containers(held.state for held in self._replicas.values())

    # Work ------------------------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _operate(self, replica_id: str, held: _Held, operation: m.Operation) -> None:
        if isinstance(operation, m.StopContainer):  # first no new connection, then the request to stop
            await self._serving.withdrawn(replica_id)
        event = await self._operator.run(replica_id, operation, held.state.assignment)
        held.operations_ended += 1
        if self._replicas.get(replica_id) is held:
            self._post(replica_id, event)

    async def _probe(self, replica_id: str, check: m.RunProbe) -> None:
        held = self._replicas.get(replica_id)
        assignment = held.state.assignment if held else None
        if assignment is None:
            return
        ok, detail = await self._prober(replica_id, assignment, check)
        self._post(replica_id, m.ProbeFinished(check.container, check.attempt, check.kind, ok, detail))

    async def _pre_stop(self, replica_id: str, hook: m.RunPreStop) -> None:
        held = self._replicas.get(replica_id)
        assignment = held.state.assignment if held else None
        if assignment is None:
            return
        ok: bool | None = False
        detail = "no time was left for it"
        with contextlib.suppress(TimeoutError):  # of waiting for a turn; its own is the prober's
            async with asyncio.timeout(hook.probe.timeout_ms / 1000 + _HOOK_MARGIN_S):
                ok, detail = await self._prober(replica_id, assignment, hook)
        self._post(replica_id, m.PreStopFinished(hook.container, hook.attempt, ok, detail))

    # Looking ---------------------------------------------------------------------------------------------

    async def _follow_events(self) -> None:
        delay_s = _RETRY_DELAY_S_MIN
        loop = asyncio.get_running_loop()
        while True:
            late = loop.call_later(_SUBSCRIBED_DELAY_S, self.resync)
            cause = "it ended"
            try:
                async for event in self._runtime.events():
                    delay_s = _RETRY_DELAY_S_MIN
                    if event.kind != "start":  # our own doing; a start tells nothing that its answer does not
                        self._post(event.replica_id, m.SomethingChanged())
            except CloudlessError as error:
                cause = str(error)
            finally:
                late.cancel()
            log.warning("runtime.events_interrupted", cause=cause, retry_in_ms=int(delay_s * 1000))
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, _RETRY_DELAY_S_MAX)
            self.resync()

    async def _resync_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(self._resync_interval_s)
            self.resync()

    def resync(self) -> None:
        """Looks at every replica again, and for sandboxes that nobody knows."""
        self._survey_wanted = True
        self._look_wanted.set()
        self._serving.refresh()
        for replica_id in list(self._replicas):
            self._post(replica_id, m.SomethingChanged())

    async def _look_when_wanted(self) -> None:
        delay_s = _RETRY_DELAY_S_MIN
        while True:
            await self._look_wanted.wait()
            self._look_wanted.clear()
            wanted, self._to_look = self._to_look, set()
            survey, self._survey_wanted = self._survey_wanted, False
            self._gone_while_looking.clear()
            ended = {r: self._replicas[r].operations_ended for r in sorted(wanted) if r in self._replicas}
            try:
                async with asyncio.timeout(LIST_TIMEOUT_S):
                    views = {view.replica_id: view for view in await self._runtime.list()}
            except (CloudlessError, TimeoutError, OSError) as error:
                log.warning("runtime.list_failed", cause=str(error) or "timed out", retry_in_ms=int(delay_s * 1000))
                self._to_look |= wanted
                self._survey_wanted |= survey
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, _RETRY_DELAY_S_MAX)
                self._look_wanted.set()
                continue
            delay_s = _RETRY_DELAY_S_MIN
            for replica_id, before in ended.items():
                held = self._replicas.get(replica_id)
                if held is None:
                    continue
                if held.operations_ended != before:
                    self._to_look.add(replica_id)
                    self._look_wanted.set()
                else:
                    self._post(replica_id, m.Observed(views.get(replica_id)))
            if survey:
                self._survey(views)

    def _survey(self, views: Mapping[str, SandboxView]) -> None:
        self._strangers = frozenset()
        self._carry_out(frozenset(views) - self._gone_while_looking, views)
        if not self.ready.is_set():
            log.info("supervisor.ready", found=len(views), replicas=len(self._replicas))
            self.ready.set()
