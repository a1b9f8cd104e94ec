"""How one container's track changes with what is seen of it: starts, ends, restart policy, adoption."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from cloudless.agent.core import backoff, probes
from cloudless.agent.core.model import ContainerFacts, ContainerTrack, Stage
from cloudless.agent.runtime.base import ContainerState, ContainerView
from cloudless.core.quantity import format_bytes
from cloudless.core.spec import Container, RestartPolicy, RestartPolicyKind, WorkloadSpec, WorkloadType

EXIT_CODE_UNKNOWN: Final = 255

OOM_KILLED: Final = "OOMKilled"
COMPLETED: Final = "Completed"
ERROR: Final = "Error"
LOST: Final = "ContainerLost"
RESTARTING: Final = "Restarting"
CRASH_LOOP: Final = "CrashLoopBackOff"
# Ends in a row from which on it is a crash loop: the first run's, and those of two restarts that did not help.
_CRASH_LOOP_ENDS: Final = 3
RETRIES_EXHAUSTED: Final = "RetriesExhausted"
_NOT_STOPPING: Final[dict[str, Any]] = {
    "stop_cause": "",
    "stop_since_wall_ms": 0,
    "stop_until_ms": 0,
    "held": False,
    "pre_stop_done": False,
}
LIVENESS_FAILED: Final = "LivenessProbeFailed"
STARTUP_FAILED: Final = "StartupProbeFailed"


def policy_of(spec: WorkloadSpec) -> RestartPolicyKind:
    """The restart policy; where none is stated jobs restart on failure and all else always."""
    if spec.restart_policy.policy is not None:
        return spec.restart_policy.policy
    return (
        RestartPolicyKind.ON_FAILURE if spec.type in (WorkloadType.JOB, WorkloadType.CRON) else RestartPolicyKind.ALWAYS
    )


def recalled(
    facts: ContainerFacts, delays: backoff.Delays, *, grace_ms: int, now_ms: int, wall_ms: int
) -> ContainerTrack:
    """The track of a container as an earlier life of the agent left it, before it is observed again."""
    backing_off = facts.failures > 0 and facts.attempt == facts.ended_attempt and not facts.exited
    wait_ms = backoff.delay_ms(delays, failures=facts.failures, jitter=0.5) if backing_off else 0
    if facts.retry_at_wall_ms:  # what is left of it, and never more than it was, whatever the clock says
        wait_ms = min(max(0, facts.retry_at_wall_ms - wall_ms), wait_ms)
    return ContainerTrack(
        retry_at_ms=now_ms + wait_ms if backing_off else 0,
        retry_at_wall_ms=wall_ms + wait_ms if backing_off else 0,
        name=facts.name,
        stage=Stage.EXITED if facts.exited else Stage.WAITING,
        attempt=facts.attempt,
        ended_attempt=facts.ended_attempt,
        failures=facts.failures,
        terminal_failure=facts.terminal_failure,
        reason=facts.reason,
        message=facts.message,
        exit_code=facts.exit_code,
        last_reason=facts.last_reason,
        last_exit_code=facts.last_exit_code,
        evicted_reason=facts.evicted_reason,
        evicted_message=facts.evicted_message,
        stop_since_wall_ms=facts.stop_since_wall_ms,
        stop_until_ms=now_ms + max(0, grace_ms - max(0, wall_ms - facts.stop_since_wall_ms)),
        stop_cause=facts.stop_cause,
        held=facts.held,
        pre_stop_done=facts.pre_stop_done,
        # The probes of the run that was under way, until it is known whether that run is still the one.
        probes=probes.ContainerProbes(
            started=facts.started, readiness=probes.ProbeTrack(due_at_ms=0, passing=facts.ready)
        ),
    )


def facts_of(track: ContainerTrack) -> ContainerFacts:
    return ContainerFacts(
        name=track.name,
        attempt=track.attempt,
        ended_attempt=track.ended_attempt,
        failures=track.failures,
        exited=track.stage is Stage.EXITED,
        terminal_failure=track.terminal_failure,
        reason=track.reason,
        exit_code=track.exit_code,
        last_reason=track.last_reason,
        last_exit_code=track.last_exit_code,
        started=track.probes.started,
        ready=probes.ready(track.probes),
        evicted_reason=track.evicted_reason,
        evicted_message=track.evicted_message,
        retry_at_wall_ms=track.retry_at_wall_ms if track.ended_attempt == track.attempt else 0,
        message=track.message if track.ended_attempt == track.attempt and not track.start_failures else "",
        stop_since_wall_ms=track.stop_since_wall_ms,
        stop_cause=track.stop_cause,
        held=track.held,
        pre_stop_done=track.pre_stop_done,
    )


def age_ms(track: ContainerTrack, *, wall_ms: int) -> int:
    """How long the present run has lasted; 0 when the wall clock says nonsense."""
    return max(0, wall_ms - track.started_at_wall_ms) if track.started_at_wall_ms else 0


def running(
    track: ContainerTrack, container: Container | None, view: ContainerView, *, now_ms: int, wall_ms: int
) -> ContainerTrack:
    """The container runs: as we started it, or adopted."""
    if track.stage in (Stage.RUNNING, Stage.STOPPING) and track.attempt == view.attempt:
        return track
    same_run = track.attempt == view.attempt and track.ended_attempt < view.attempt
    if not same_run:
        track = replace(track, **_NOT_STOPPING)
    adopted = replace(
        track,
        stage=Stage.STOPPING if track.stop_since_wall_ms else Stage.RUNNING,
        busy=False,
        attempt=view.attempt,
        ended_attempt=min(track.ended_attempt, view.attempt - 1),
        start_failures=0,
        retry_at_ms=0,
        retry_at_wall_ms=0,
        reason="",
        message="",
        exit_code=0,
        started_at_wall_ms=view.started_at_ms,
        finished_at_wall_ms=0,
        image_digest=view.image_digest or track.image_digest,
        probes=probes.ContainerProbes(),
    )
    if container is None:
        return adopted
    return replace(
        adopted,
        probes=probes.begin(
            container,
            now_ms=now_ms,
            age_ms=age_ms(adopted, wall_ms=wall_ms),
            started=same_run and track.probes.started,
            ready=same_run and probes.ready(track.probes),
        ),
    )


def observed(
    track: ContainerTrack,
    spec: WorkloadSpec | None,
    container: Container | None,
    view: ContainerView | None,
    *,
    now_ms: int,
    wall_ms: int,
    jitter: float,
) -> ContainerTrack:
    """The track after a look at the runtime. A container with an operation in flight is left as it is."""
    if track.busy or track.stage is Stage.EXITED:
        return track
    if view is None:
        if track.attempt <= track.ended_attempt:
            return track
        gone = ContainerView("", track.name, ContainerState.EXITED, track.attempt, exit_code=EXIT_CODE_UNKNOWN)
        return _ended(track, spec, gone, reason=LOST, now_ms=now_ms, wall_ms=wall_ms, jitter=jitter)
    match view.state:
        case ContainerState.RUNNING:
            return running(track, container, view, now_ms=now_ms, wall_ms=wall_ms)
        case ContainerState.EXITED if view.attempt > track.ended_attempt:
            return ended(track, spec, view, now_ms=now_ms, wall_ms=wall_ms, jitter=jitter)
        case ContainerState.CREATED if view.attempt > track.ended_attempt and track.stage is not Stage.WAITING:
            # Made and never run, which only a crash between the two leaves: its run did not happen.
            return replace(track, stage=Stage.WAITING, attempt=view.attempt - 1)
        case _:
            return track


def ended(
    track: ContainerTrack,
    spec: WorkloadSpec | None,
    view: ContainerView,
    *,
    now_ms: int,
    wall_ms: int,
    jitter: float,
) -> ContainerTrack:
    """The track after a run ended: counted once, then restarted later or exited for good, by policy."""
    if view.oom_killed:
        reason = OOM_KILLED
    elif track.stop_cause:
        reason = track.stop_cause
    else:
        reason = COMPLETED if view.exit_code == 0 else ERROR
    return _ended(track, spec, view, reason=reason, now_ms=now_ms, wall_ms=wall_ms, jitter=jitter)


def _ended(
    track: ContainerTrack,
    spec: WorkloadSpec | None,
    view: ContainerView,
    *,
    reason: str,
    now_ms: int,
    wall_ms: int,
    jitter: float,
) -> ContainerTrack:
    rules = spec.restart_policy if spec is not None else RestartPolicy()
    delays = backoff.from_spec(rules.backoff)
    started = view.started_at_ms or track.started_at_wall_ms
    finished = view.finished_at_ms or wall_ms
    lasted = finished - started if started else 0
    failures = 1 if lasted >= delays.reset_ms else track.failures + 1
    completed = reason == COMPLETED
    after = replace(
        track,
        busy=False,
        attempt=view.attempt,
        ended_attempt=view.attempt,
        failures=failures,
        start_failures=0,
        exit_code=view.exit_code,
        started_at_wall_ms=started,
        finished_at_wall_ms=finished,
        image_digest=view.image_digest or track.image_digest,
        last_reason=reason,
        last_exit_code=view.exit_code,
        message=_cause(track, spec, reason),
        probes=probes.ContainerProbes(),
        **_NOT_STOPPING,
    )
    policy = policy_of(spec) if spec is not None else RestartPolicyKind.NEVER
    if track.held and reason == track.stop_cause and policy is not RestartPolicyKind.NEVER:
        after = replace(after, stage=Stage.WAITING, failures=track.failures, reason=reason)
        return replace(after, retry_at_ms=now_ms, retry_at_wall_ms=wall_ms)
    wanted = policy is RestartPolicyKind.ALWAYS or (policy is RestartPolicyKind.ON_FAILURE and not completed)
    if not wanted:
        return replace(after, stage=Stage.EXITED, reason=reason, terminal_failure=not completed)
    if 0 < rules.max_retries < failures:
        message = f"ended {failures} times in a row, last with {_in_words(after)}"
        return replace(after, stage=Stage.EXITED, reason=RETRIES_EXHAUSTED, message=message, terminal_failure=True)
    wait = backoff.delay_ms(delays, failures=failures, jitter=jitter)
    times = f"{failures} times in a row, last" if failures > 1 else "once,"
    return replace(
        after,
        stage=Stage.WAITING,
        reason=CRASH_LOOP if failures >= _CRASH_LOOP_ENDS else RESTARTING,
        message=f"ended {times} with {_in_words(after)}; starts again after {wait / 1000:.1f} s",
        retry_at_ms=now_ms + wait,
        retry_at_wall_ms=wall_ms + wait,
    )


def _in_words(ended: ContainerTrack) -> str:
    cause = f": {ended.message}" if ended.message else ""
    return f"{ended.last_reason} (exit code {ended.last_exit_code}){cause}"


def _cause(track: ContainerTrack, spec: WorkloadSpec | None, reason: str) -> str:
    """What the reason of an end does not say."""
    if reason in (LIVENESS_FAILED, STARTUP_FAILED):
        kind = probes.failed(track.probes)
        checked = track.probes.track(kind) if kind is not None else None
        return checked.detail if checked is not None else ""
    if reason == OOM_KILLED:
        containers = spec.containers if spec is not None else ()
        limits = (c.resources.limits.memory_bytes for c in containers if c.name == track.name)
        limit = next(limits, 0)
        return f"it needed more than its memory limit of {format_bytes(limit)}" if limit else "it ran out of memory"
    return ""


def start_refused(
    track: ContainerTrack,
    *,
    reason: str,
    message: str,
    permanent: bool,
    delays: backoff.Delays,
    now_ms: int,
    wall_ms: int,
    jitter: float,
) -> ContainerTrack:
    """The runtime did not start the container: tried again with the same run's number, unless it never can."""
    if permanent:
        return replace(track, stage=Stage.EXITED, busy=False, terminal_failure=True, reason=reason, message=message)
    failures = track.start_failures + 1
    wait = backoff.delay_ms(delays, failures=failures, jitter=jitter)
    return replace(
        track,
        stage=Stage.WAITING,
        busy=False,
        start_failures=failures,
        retry_at_ms=now_ms + wait,
        retry_at_wall_ms=wall_ms + wait,
        reason=reason,
        message=message,
    )
