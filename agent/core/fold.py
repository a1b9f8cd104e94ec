"""Folding events into a replica's state: what each thing that happened changes, and nothing of what to do next."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from cloudless.agent.core import backoff, containers, probes
from cloudless.agent.core import model as m
from cloudless.agent.core.model import ContainerTrack, Event, ReplicaState, SandboxStage, Stage
from cloudless.agent.runtime.base import ContainerState, ContainerView, SandboxView
from cloudless.core.model import Assignment
from cloudless.core.spec import Container, WorkloadSpec

_OPERATION_DELAYS: Final = backoff.Delays(initial_ms=1_000, max_ms=60_000)


def fold(state: ReplicaState, event: Event, *, now_ms: int, wall_ms: int, jitter: float) -> ReplicaState:
    match event:
        case m.AssignmentChanged(assignment):
            return follow(state, assignment)
        case m.Unassigned(reason):
            return replace(state, stopping=True, stop_reason=state.stop_reason or reason)
        case m.Evicted(reason, message):
            return _evict(state, reason=reason, message=message)
        case m.Held(reason, message):
            return replace(state, held=reason, held_message=message)
        case m.Released():
            return replace(state, held="", held_message="")
        case m.SomethingChanged():
            return replace(state, must_look=True)
        case m.Observed(view):
            state = replace(state, must_look=False, looking=False)
            return _observe(state, view, now_ms=now_ms, wall_ms=wall_ms, jitter=jitter)
        case m.SandboxReady(view):
            ready = replace(state, sandbox=SandboxStage.PRESENT, sandbox_failures=0, retry_at_ms=0, reason="")
            return replace(ready, message="", address=view.address, ports=view.ports)
        case m.SandboxRemoved():
            return replace(state, sandbox=SandboxStage.GONE, address="", ports=())
        case m.OperationFailed():
            return _operation_failed(state, event, now_ms=now_ms, wall_ms=wall_ms, jitter=jitter)
        case m.ContainerStarted(view):
            track = track_of(state, view.name)
            if track is None:
                return state
            return with_track(state, _started(state, track, view, now_ms=now_ms, wall_ms=wall_ms, jitter=jitter))
        case m.ContainerStopped(name):
            track = track_of(state, name)
            if track is None:
                return state
            # Whether it exited, and with which code, is for the look to say; if not, the stop is repeated.
            return replace(with_track(state, _stop_again_later(track, now_ms=now_ms, jitter=jitter)), must_look=True)
        case m.PreStopFinished(name, attempt, _, _):
            track = track_of(state, name)
            if track is None or track.attempt != attempt or track.stage is not Stage.STOPPING or track.pre_stop_done:
                return state
            return with_track(state, replace(track, busy=False, pre_stop_done=True))
        case m.ProbeFinished(name, attempt, kind, ok, detail):
            track, container = track_of(state, name), container_of(state, name)
            if track is None or container is None or track.attempt != attempt or track.stage is not Stage.RUNNING:
                return state
            age = containers.age_ms(track, wall_ms=wall_ms)
            checked = probes.record(track.probes, container, kind, ok=ok, detail=detail, now_ms=now_ms, age_ms=age)
            return with_track(state, replace(track, probes=checked))
        case m.TimerFired():
            return state


def follow(state: ReplicaState, assignment: Assignment) -> ReplicaState:
    if not assignment.stopping:
        return replace(state, assignment=assignment)
    reason = state.stop_reason or assignment.stop_reason
    return replace(state, assignment=assignment, stopping=True, stop_reason=reason)


def _evict(state: ReplicaState, *, reason: str, message: str) -> ReplicaState:
    """Noted on the containers, whose facts outlive the agent. What has ended, or is ending, is not evicted."""
    over = all(track.stage is Stage.EXITED for track in state.containers)
    if state.assignment is None or state.stopping or state.failed or over:
        return state
    tracks = tuple(replace(t, evicted_reason=reason, evicted_message=message) for t in state.containers)
    return replace(state, containers=tracks)


def _observe(
    state: ReplicaState, view: SandboxView | None, *, now_ms: int, wall_ms: int, jitter: float
) -> ReplicaState:
    if state.sandbox in (SandboxStage.PREPARING, SandboxStage.REMOVING, SandboxStage.GONE):
        return state
    sandbox = SandboxStage.ABSENT if view is None else SandboxStage.PRESENT
    if sandbox is not state.sandbox:
        state = replace(state, sandbox=sandbox, sandbox_failures=0, retry_at_ms=0)
        if not state.failed:
            state = replace(state, reason="", message="")
    state = replace(state, address=view.address if view else "", ports=view.ports if view else ())
    views = {v.name: v for v in view.containers} if view else {}
    if state.assignment is None:  # a stranger: its containers are known from here alone
        names = [t.name for t in state.containers]
        state = replace(
            state, containers=state.containers + tuple(ContainerTrack(n) for n in sorted(views) if n not in names)
        )
    for track in state.containers:
        seen = containers.observed(
            track,
            rules_of(state),
            container_of(state, track.name),
            views.get(track.name),
            now_ms=now_ms,
            wall_ms=wall_ms,
            jitter=jitter,
        )
        state = with_track(state, seen)
    return state


def _operation_failed(
    state: ReplicaState, event: m.OperationFailed, *, now_ms: int, wall_ms: int, jitter: float
) -> ReplicaState:
    state = replace(state, must_look=state.must_look or event.ambiguous)
    if not event.container:
        failures = state.sandbox_failures + 1
        wait = backoff.delay_ms(_OPERATION_DELAYS, failures=failures, jitter=jitter)
        removing = state.sandbox is SandboxStage.REMOVING
        return replace(
            state,
            sandbox=SandboxStage.PRESENT if removing else SandboxStage.ABSENT,
            sandbox_failures=failures,
            retry_at_ms=now_ms + wait,
            reason=event.reason,
            message=event.message,
            failed=state.failed or (event.permanent and not removing and not state.stopping),
        )
    track = track_of(state, event.container)
    if track is None:
        return state
    if track.stage is Stage.STOPPING:
        return with_track(state, _stop_again_later(track, now_ms=now_ms, jitter=jitter))
    refused = containers.start_refused(
        track,
        reason=event.reason,
        message=event.message,
        permanent=event.permanent,
        delays=delays_of(state),
        now_ms=now_ms,
        wall_ms=wall_ms,
        jitter=jitter,
    )
    return with_track(state, refused)


def _stop_again_later(track: ContainerTrack, *, now_ms: int, jitter: float) -> ContainerTrack:
    failures = track.start_failures + 1
    wait = backoff.delay_ms(_OPERATION_DELAYS, failures=failures, jitter=jitter)
    return replace(track, busy=False, start_failures=failures, retry_at_ms=now_ms + wait)


def _started(
    state: ReplicaState, track: ContainerTrack, view: ContainerView, *, now_ms: int, wall_ms: int, jitter: float
) -> ContainerTrack:
    """The track after the runtime answered a start."""
    match view.state:
        case ContainerState.RUNNING:
            container = container_of(state, view.name)
            return containers.running(replace(track, busy=False), container, view, now_ms=now_ms, wall_ms=wall_ms)
        case ContainerState.EXITED if view.attempt > track.ended_attempt:
            return containers.ended(track, rules_of(state), view, now_ms=now_ms, wall_ms=wall_ms, jitter=jitter)
        case _:
            return containers.start_refused(
                track,
                reason="NotStarted",
                message="the runtime made the container and did not run it",
                permanent=False,
                delays=delays_of(state),
                now_ms=now_ms,
                wall_ms=wall_ms,
                jitter=jitter,
            )


def note_failure(state: ReplicaState) -> ReplicaState:
    """A container that failed for good fails the replica: it is replaced as a whole. So does an eviction."""
    if state.failed or state.stopping:
        return state
    for track in state.containers:
        if track.evicted_reason:
            return replace(state, failed=True, reason=track.evicted_reason, message=track.evicted_message)
        if track.stage is Stage.EXITED and track.terminal_failure:
            message = f"{track.name}: {track.message or f'exit code {track.exit_code}'}"
            return replace(state, failed=True, reason=track.reason, message=message)
    return state


# Access ----------------------------------------------------------------------------------------------------


def delays_of(state: ReplicaState) -> backoff.Delays:
    return backoff.from_spec(state.assignment.spec.restart_policy.backoff) if state.assignment else backoff.DEFAULT


def rules_of(state: ReplicaState) -> WorkloadSpec | None:
    """The spec whose restart policy applies; None: nothing is restarted any more."""
    return None if state.stopping or state.failed or state.assignment is None else state.assignment.spec


def container_of(state: ReplicaState, name: str) -> Container | None:
    found = state.assignment.spec.containers if state.assignment else ()
    return next((c for c in found if c.name == name), None)


def track_of(state: ReplicaState, name: str) -> ContainerTrack | None:
    return next((track for track in state.containers if track.name == name), None)


def with_track(state: ReplicaState, track: ContainerTrack) -> ReplicaState:
    changed = tuple(track if t.name == track.name else t for t in state.containers)
    return state if changed == state.containers else replace(state, containers=changed)


def any_busy(state: ReplicaState) -> bool:
    return any(track.busy for track in state.containers)
