"""One replica's reconcile step: level-triggered, repeatable, one decision at a time.

`step` first folds the event into the state, then decides from the state alone what to do next, so that a lost or
repeated event does no harm: the next look tells the same. Rules that always hold:

- nothing is started before the runtime was looked at, nor while what it said may be out of date;
- one operation per container and one per sandbox at a time;
- a run's number (`attempt`) is used once: the next start has a higher one, unless the runtime said that the
  start did not happen;
- what exited for good stays so, across restarts of the agent and the device;
- a replica that is held runs nothing and loses nothing: once released it goes on;
- stopping is one-way: containers get their grace, then the sandbox is removed, then the replica is gone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from cloudless.agent.core import backoff, containers, lifecycle, probes, stopping
from cloudless.agent.core import model as m
from cloudless.agent.core.fold import any_busy, container_of, fold, follow, note_failure, with_track
from cloudless.agent.core.model import ContainerTrack, Effect, Event, ReplicaState, SandboxStage, Stage
from cloudless.agent.core.status import phase_of, status_of
from cloudless.core.model import Assignment

# After so many refused stops the sandbox is removed outright, which kills.
_STOPS_BEFORE_REMOVAL: Final = 3
_REPLICA_FAILED: Final = "ReplicaFailed"


def assigned(
    assignment: Assignment, facts: Iterable[m.ContainerFacts] = (), *, now_ms: int, wall_ms: int
) -> ReplicaState:
    """A replica as its assignment and the facts of earlier lives describe it; not looked at yet."""
    delays = backoff.from_spec(assignment.spec.restart_policy.backoff)
    grace = stopping.grace_ms(assignment)
    known = {f.name: containers.recalled(f, delays, grace_ms=grace, now_ms=now_ms, wall_ms=wall_ms) for f in facts}
    tracks = tuple(known.get(c.name, ContainerTrack(c.name)) for c in assignment.spec.containers)
    state = ReplicaState(assignment.replica_id, assignment, containers=tracks, since_wall_ms=wall_ms)
    return follow(note_failure(state), assignment)


def unknown(replica_id: str, *, wall_ms: int) -> ReplicaState:
    """A sandbox that nobody asked for: it is stopped and removed."""
    return ReplicaState(replica_id, None, stopping=True, stop_reason="Unassigned", since_wall_ms=wall_ms)


def step(
    state: ReplicaState, event: Event, *, now_ms: int, wall_ms: int, jitter: float
) -> tuple[ReplicaState, tuple[Effect, ...]]:
    """The state after `event`, and what to do now. `now_ms` is monotonic, `jitter` in [0, 1).

    Never raises but for a bug (`lifecycle.IllegalTransition`).
    """
    folded = note_failure(fold(state, event, now_ms=now_ms, wall_ms=wall_ms, jitter=jitter))
    decided, operations = _decide(folded, now_ms=now_ms, wall_ms=wall_ms)
    after = lifecycle.move(state.phase, phase_of(decided), story=f"replica {state.replica_id}, after {event!r}")
    if after is not state.phase:
        decided = replace(decided, phase=after, since_wall_ms=wall_ms)
    return decided, (*_announcements(state, decided, event, now_ms=now_ms), *operations)


def wake_at_ms(state: ReplicaState) -> int | None:
    """When to send TimerFired if nothing happens before; always later than the step that led here. None: never."""
    if state.must_look or state.sandbox not in (SandboxStage.ABSENT, SandboxStage.PRESENT):
        return None
    idle = [track for track in state.containers if not track.busy]
    if state.sandbox is SandboxStage.ABSENT:
        over = (
            state.stopping
            or state.failed
            or state.held
            or all(track.stage is Stage.EXITED for track in state.containers)
        )
        return None if over or len(idle) < len(state.containers) else state.retry_at_ms
    times: list[int] = []
    for track in idle:
        running = track.stage in (Stage.RUNNING, Stage.STOPPING)
        if state.stopping and track.start_failures >= _STOPS_BEFORE_REMOVAL:
            continue
        over = state.stopping or state.failed or bool(state.held)
        if (track.stage is Stage.WAITING and not over) or (running and (over or track.stage is Stage.STOPPING)):
            times.append(track.retry_at_ms)
        elif track.stage is Stage.RUNNING and (due := probes.wake_at_ms(track.probes)) is not None:
            times.append(due)
    if not times and state.stopping and len(idle) == len(state.containers):
        times.append(state.retry_at_ms)
    return min(times, default=None)


# Deciding -------------------------------------------------------------------------------------------------


def _decide(state: ReplicaState, *, now_ms: int, wall_ms: int) -> tuple[ReplicaState, list[Effect]]:
    if state.sandbox is SandboxStage.GONE:
        return state, []
    if state.must_look:
        # One look at a time; while one is under way, another hint asks for nothing more than its answer.
        return (state, []) if state.looking else (replace(state, looking=True), [m.Look()])
    if state.stopping:
        return _decide_stop(state, now_ms=now_ms, wall_ms=wall_ms)
    if state.failed:
        evicted = any(track.evicted_reason for track in state.containers)
        return _stop_running(state, state.reason if evicted else _REPLICA_FAILED, now_ms=now_ms, wall_ms=wall_ms)
    if state.held:
        return _stop_running(state, state.held, now_ms=now_ms, wall_ms=wall_ms)
    if all(track.stage is Stage.EXITED for track in state.containers):
        return state, []
    if state.sandbox is SandboxStage.ABSENT and now_ms >= state.retry_at_ms and not any_busy(state):
        assert state.assignment is not None
        return replace(state, sandbox=SandboxStage.PREPARING), [m.EnsureSandbox(state.assignment)]
    if state.sandbox is SandboxStage.PRESENT:
        return _decide_run(state, now_ms=now_ms, wall_ms=wall_ms)
    return state, []


def _decide_run(state: ReplicaState, *, now_ms: int, wall_ms: int) -> tuple[ReplicaState, list[Effect]]:
    assignment = state.assignment
    assert assignment is not None, "only what is assigned runs"
    effects: list[Effect] = []
    for track in state.containers:
        if track.busy or now_ms < track.retry_at_ms:
            continue
        match track.stage:
            case Stage.WAITING:
                attempt = track.attempt + 1
                state = with_track(state, replace(track, stage=Stage.STARTING, busy=True))
                effects.append(m.StartContainer(assignment, track.name, attempt))
            case Stage.STOPPING:
                state, stop = _stop(state, track, track.stop_cause, now_ms=now_ms, wall_ms=wall_ms)
                effects += stop
            case Stage.RUNNING if (kind := probes.failed(track.probes)) is not None:
                cause = containers.STARTUP_FAILED if kind is probes.ProbeKind.STARTUP else containers.LIVENESS_FAILED
                state, stop = _stop(state, track, cause, now_ms=now_ms, wall_ms=wall_ms)
                effects += stop
            case Stage.RUNNING:
                checked, due = probes.take_due(track.probes, now_ms=now_ms)
                state = with_track(state, replace(track, probes=checked))
                effects += _probe_effects(state, track, due)
            case _:
                pass
    return state, effects


def _probe_effects(state: ReplicaState, track: ContainerTrack, due: Iterable[probes.ProbeKind]) -> list[Effect]:
    container = container_of(state, track.name)
    if container is None:
        return []
    found = [(kind, probes.probe_of(container, kind)) for kind in due]
    return [m.RunProbe(track.name, track.attempt, kind, probe, state.address) for kind, probe in found if probe]


def _decide_stop(state: ReplicaState, *, now_ms: int, wall_ms: int) -> tuple[ReplicaState, list[Effect]]:
    if state.sandbox is SandboxStage.ABSENT and not any_busy(state):
        return replace(state, sandbox=SandboxStage.GONE), []
    if state.sandbox is not SandboxStage.PRESENT:
        return state, []
    state, effects = _stop_running(state, state.stop_reason or "Stopping", now_ms=now_ms, wall_ms=wall_ms)
    blocked = any(
        track.busy or (track.stage in (Stage.RUNNING, Stage.STOPPING) and track.start_failures < _STOPS_BEFORE_REMOVAL)
        for track in state.containers
    )
    if not effects and not blocked and now_ms >= state.retry_at_ms:
        return replace(state, sandbox=SandboxStage.REMOVING), [m.RemoveSandbox()]
    return state, effects


def _stop_running(state: ReplicaState, cause: str, *, now_ms: int, wall_ms: int) -> tuple[ReplicaState, list[Effect]]:
    effects: list[Effect] = []
    for track in state.containers:
        if track.busy or track.stage not in (Stage.RUNNING, Stage.STOPPING) or now_ms < track.retry_at_ms:
            continue
        if track.start_failures >= _STOPS_BEFORE_REMOVAL and state.stopping:
            continue
        state, stop = _stop(state, track, cause, now_ms=now_ms, wall_ms=wall_ms)
        effects += stop
    return state, effects


def _stop(
    state: ReplicaState, track: ContainerTrack, cause: str, *, now_ms: int, wall_ms: int
) -> tuple[ReplicaState, list[Effect]]:
    held = bool(state.held) and not state.failed and not state.stopping
    track, effect = stopping.advance(state, track, cause, held=held, now_ms=now_ms, wall_ms=wall_ms)
    return with_track(state, track), [effect] if effect is not None else []


# Telling ---------------------------------------------------------------------------------------------------


def _announcements(before: ReplicaState, after: ReplicaState, event: Event, *, now_ms: int) -> list[Effect]:
    effects: list[Effect] = []
    earlier = {track.name: track for track in before.containers}
    for track in after.containers:
        was = earlier.get(track.name)
        if was is not None and track.ended_attempt > was.ended_attempt:
            restarts = track.stage is not Stage.EXITED and not after.stopping
            delay = max(0, track.retry_at_ms - now_ms) if restarts else 0
            effects.append(
                m.AnnounceEnd(
                    track.name, track.ended_attempt, track.last_reason, track.exit_code, restarts, delay_ms=delay
                )
            )
    if isinstance(event, m.ProbeFinished) and event.ok is False:
        effects.append(m.AnnounceProbeFailure(event.container, event.kind, event.detail))
    if isinstance(event, m.PreStopFinished):
        stopped = earlier.get(event.container)
        if stopped is not None and stopped.attempt == event.attempt and not stopped.pre_stop_done:
            effects.append(m.AnnouncePreStop(event.container, event.ok is True, event.detail))
    facts = tuple(containers.facts_of(track) for track in after.containers)
    if after.assignment is not None and facts != tuple(containers.facts_of(track) for track in before.containers):
        effects.append(m.Remember(facts))
    status = status_of(after)
    if after.phase is not before.phase:
        effects.append(m.AnnouncePhase(before.phase, after.phase, status.reason, status.message))
    if after.sandbox is SandboxStage.GONE:
        if before.sandbox is not SandboxStage.GONE:
            effects.append(m.ReportGone())
    elif status != status_of(before):
        effects.append(m.ReportStatus(status))
    return effects
