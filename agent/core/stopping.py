"""Ending a container in good order: its hook, then the request to stop, then being killed, within one grace period.

As in Kubernetes the hook's time is part of the grace, and what follows it gets two seconds at least. The beginning of a
stop and the end of its hook are facts: a restarted agent goes on with what is left. A hook that was cut short by it is
run again; one that fails is said so and delays nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from cloudless.agent.core import model as m
from cloudless.agent.core.model import ContainerTrack, Stage
from cloudless.core.model import Assignment
from cloudless.core.spec import HttpProbe, PreStop, Probe, WorkloadSpec

DEFAULT_GRACE_MS: Final = 10_000
# What a container gets to end in after a hook that used its grace up, or a stop that had to be repeated.
LEAST_GRACE_MS: Final = 2_000


def grace_ms(assignment: Assignment | None) -> int:
    """The whole time from the beginning of a stop to being killed."""
    return (assignment.spec.termination.grace_period_ms if assignment else 0) or DEFAULT_GRACE_MS


def hook_of(spec: WorkloadSpec, container: str) -> PreStop | None:
    """What precedes the request to stop this container. A page is asked for once: of the container that has the
    port, or of the first one where none says that it has."""
    hook = spec.termination.pre_stop
    if hook is None or hook.http is None:
        return hook
    return hook if container == _owner(spec, hook.http) else None


def _owner(spec: WorkloadSpec, page: HttpProbe) -> str:
    for container in spec.containers:
        if any(page.port in (port.name, str(port.container_port)) for port in container.ports):
            return container.name
    return spec.containers[0].name


def advance(
    state: m.ReplicaState, track: ContainerTrack, cause: str, *, held: bool, now_ms: int, wall_ms: int
) -> tuple[ContainerTrack, m.RunPreStop | m.StopContainer | None]:
    """The next thing to do for a container that runs and shall not; None: wait until `retry_at_ms`. Repeatable."""
    grace = grace_ms(state.assignment)
    if not track.stop_since_wall_ms:
        track = replace(
            track,
            stage=Stage.STOPPING,
            stop_cause=cause,
            held=held,
            stop_since_wall_ms=max(1, wall_ms),
            stop_until_ms=now_ms + grace,
        )
    left = max(0, track.stop_until_ms - now_ms)
    hook = hook_of(state.assignment.spec, track.name) if state.assignment is not None else None
    if hook is not None and left and not track.pre_stop_done:
        if hook.exec is not None or hook.http is not None:
            check = Probe(http=hook.http, exec=hook.exec, timeout_ms=left)
            return replace(track, busy=True), m.RunPreStop(track.name, track.attempt, check, state.address)
        over_at_ms = track.stop_until_ms - max(0, grace - hook.sleep_ms)
        if now_ms < over_at_ms:
            return replace(track, retry_at_ms=over_at_ms), None
    least = LEAST_GRACE_MS if hook is not None else min(LEAST_GRACE_MS, grace)
    return replace(track, busy=True), m.StopContainer(track.name, max(left, least), track.stop_cause)
