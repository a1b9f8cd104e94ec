"""What a replica's node reports of it, drawn from its state."""

from __future__ import annotations

from cloudless.agent.core import probes
from cloudless.agent.core.model import ContainerTrack, ReplicaState, SandboxStage, Stage
from cloudless.core.model import ContainerStatus, ReplicaPhase, ReplicaStatus


def phase_of(state: ReplicaState) -> ReplicaPhase:
    """The phase that the state amounts to."""
    tracks = state.containers
    if state.stopping:
        return ReplicaPhase.STOPPING
    if state.failed:
        return ReplicaPhase.FAILED
    if tracks and all(track.stage is Stage.EXITED for track in tracks):
        return ReplicaPhase.SUCCEEDED
    if state.sandbox is SandboxStage.UNKNOWN:
        return state.phase
    if state.sandbox in (SandboxStage.ABSENT, SandboxStage.PREPARING):
        return ReplicaPhase.PREPARING
    if not all(track.stage is Stage.EXITED or _started(track) for track in tracks):
        return ReplicaPhase.STARTING
    return ReplicaPhase.READY if all(_ready(track) for track in tracks) else ReplicaPhase.RUNNING


def status_of(state: ReplicaState) -> ReplicaStatus:
    """The report. `runtime` is for the shell to fill in."""
    reason, message = _why(state)
    return ReplicaStatus(
        phase=state.phase,
        reason=reason,
        message=message,
        address=state.address,
        containers=tuple(_container(track, held=state.held) for track in state.containers),
        ports=state.ports,
        since_ms=state.since_wall_ms,
        restart_count=sum(max(0, track.attempt) for track in state.containers),
    )


def _started(track: ContainerTrack) -> bool:
    return track.stage is Stage.RUNNING and track.probes.started


def _ready(track: ContainerTrack) -> bool:
    return track.stage is Stage.RUNNING and probes.ready(track.probes)


def _why(state: ReplicaState) -> tuple[str, str]:
    if state.stopping:
        return state.stop_reason, state.message
    if state.held and not state.failed and state.phase is not ReplicaPhase.SUCCEEDED:
        return state.held, state.held_message
    if state.reason:
        return state.reason, state.message
    for track in state.containers:
        if track.reason and (track.stage is not Stage.EXITED or track.terminal_failure):
            return track.reason, f"{track.name}: {track.message}" if track.message else ""
    for track in state.containers:
        if track.stage is Stage.RUNNING and not probes.ready(track.probes):
            kind = probes.ProbeKind.READINESS if track.probes.started else probes.ProbeKind.STARTUP
            checked = track.probes.track(kind)
            if checked is not None and checked.detail:
                return "NotReady", f"{track.name}: {kind} probe: {checked.detail}"
    if state.phase is ReplicaPhase.SUCCEEDED:
        return "Completed", ""
    return "", ""


def _container(track: ContainerTrack, *, held: str) -> ContainerStatus:
    running = track.stage in (Stage.RUNNING, Stage.STOPPING)
    exited = track.stage is Stage.EXITED
    waits_because = held if track.stage is Stage.WAITING and held else track.reason
    return ContainerStatus(
        name=track.name,
        state="running" if running else "exited" if exited else "waiting",
        reason=track.stop_cause if running else waits_because,
        exit_code=track.exit_code if exited else 0,
        restart_count=max(0, track.attempt),
        started_at_ms=track.started_at_wall_ms,
        finished_at_ms=track.finished_at_wall_ms,
        ready=_ready(track),
        image_digest=track.image_digest,
        last_reason=track.last_reason,
        last_exit_code=track.last_exit_code,
        message="" if running else track.message,
        # Of a crash loop. A start that the runtime refuses is repeated without a word each time.
        retry_at_ms=0 if running or exited or held or track.start_failures else track.retry_at_wall_ms,
    )
