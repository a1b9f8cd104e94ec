"""Health checks of one container as pure bookkeeping: when each is due and what its results add up to.

The startup probe gates the others: until it has passed, neither liveness nor readiness runs. A startup or
liveness probe that fails `failure_threshold` times in a row asks for a restart; readiness only gates traffic.
One check of a kind runs at a time. The shell runs each check once and feeds the result back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from cloudless.core.spec import Container, Probe

DEFAULT_PERIOD_MS: Final = 10_000
DEFAULT_TIMEOUT_MS: Final = 1_000
DEFAULT_SUCCESS_THRESHOLD: Final = 1
DEFAULT_FAILURE_THRESHOLD: Final = 3


class ProbeKind(StrEnum):
    STARTUP = "startup"
    LIVENESS = "liveness"
    READINESS = "readiness"


@dataclass(frozen=True, slots=True)
class ProbeTrack:
    """One probe's results so far. `passing` is None until a threshold was reached for the first time."""

    due_at_ms: int
    in_flight: bool = False
    successes: int = 0  # in a row
    failures: int = 0  # in a row
    passing: bool | None = None
    detail: str = ""  # of the last failure, for people


@dataclass(frozen=True, slots=True)
class ContainerProbes:
    """The probes of one run of a container. None: not asked for, or still gated by startup."""

    startup: ProbeTrack | None = None
    liveness: ProbeTrack | None = None
    readiness: ProbeTrack | None = None
    started: bool = False

    def track(self, kind: ProbeKind) -> ProbeTrack | None:
        return {
            ProbeKind.STARTUP: self.startup,
            ProbeKind.LIVENESS: self.liveness,
            ProbeKind.READINESS: self.readiness,
        }[kind]


def probe_of(container: Container, kind: ProbeKind) -> Probe | None:
    """The container's probe of that kind."""
    return {
        ProbeKind.STARTUP: container.startup_probe,
        ProbeKind.LIVENESS: container.liveness_probe,
        ProbeKind.READINESS: container.readiness_probe,
    }[kind]


def timeout_ms(probe: Probe) -> int:
    return probe.timeout_ms if probe.timeout_ms > 0 else DEFAULT_TIMEOUT_MS


def begin(
    container: Container, *, now_ms: int, age_ms: int = 0, started: bool = False, ready: bool = False
) -> ContainerProbes:
    """The probes of a container that began to run `age_ms` ago.

    `started` and `ready` carry over what was known of this very run before the agent restarted, so that an
    agent's restart does not take a healthy replica out of traffic; it is probed again at once.
    """
    if container.startup_probe is not None and not started:
        return ContainerProbes(startup=_track(container.startup_probe, now_ms=now_ms, age_ms=age_ms))
    return _open_gate(container, now_ms=now_ms, age_ms=age_ms, ready=ready)


def _track(probe: Probe | None, *, now_ms: int, age_ms: int, passing: bool | None = None) -> ProbeTrack | None:
    if probe is None:
        return None
    return ProbeTrack(due_at_ms=now_ms + max(0, probe.initial_delay_ms - age_ms), passing=passing)


def _open_gate(container: Container, *, now_ms: int, age_ms: int, ready: bool = False) -> ContainerProbes:
    return ContainerProbes(
        liveness=_track(container.liveness_probe, now_ms=now_ms, age_ms=age_ms),
        readiness=_track(container.readiness_probe, now_ms=now_ms, age_ms=age_ms, passing=True if ready else None),
        started=True,
    )


def take_due(probes: ContainerProbes, *, now_ms: int) -> tuple[ContainerProbes, tuple[ProbeKind, ...]]:
    """The checks to run now, marked as in flight."""
    due: list[ProbeKind] = []
    for kind in ProbeKind:
        track = probes.track(kind)
        if track is not None and not track.in_flight and track.due_at_ms <= now_ms:
            probes = _put(probes, kind, replace(track, in_flight=True))
            due.append(kind)
    return probes, tuple(due)


def record(
    probes: ContainerProbes,
    container: Container,
    kind: ProbeKind,
    *,
    ok: bool | None,
    detail: str,
    now_ms: int,
    age_ms: int,
) -> ContainerProbes:
    """Folds one result in; None, a check that could not be made, counts for nothing and is made again when due.
    A result of a probe that is not in flight is ignored."""
    track, probe = probes.track(kind), probe_of(container, kind)
    if track is None or probe is None or not track.in_flight:
        return probes
    period_ms = probe.period_ms if probe.period_ms > 0 else DEFAULT_PERIOD_MS
    next_due = max(track.due_at_ms + period_ms, now_ms)
    if ok is None:
        return _put(probes, kind, replace(track, in_flight=False, due_at_ms=next_due, detail=detail))
    successes, failures = (track.successes + 1, 0) if ok else (0, track.failures + 1)
    passing = track.passing
    if successes >= (probe.success_threshold or DEFAULT_SUCCESS_THRESHOLD):
        passing = True
    elif failures >= (probe.failure_threshold or DEFAULT_FAILURE_THRESHOLD):
        passing = False
    if kind is ProbeKind.STARTUP and passing:
        return _open_gate(container, now_ms=now_ms, age_ms=age_ms)
    return _put(
        probes,
        kind,
        ProbeTrack(
            due_at_ms=next_due, successes=successes, failures=failures, passing=passing, detail="" if ok else detail
        ),
    )


def _put(probes: ContainerProbes, kind: ProbeKind, track: ProbeTrack) -> ContainerProbes:
    match kind:
        case ProbeKind.STARTUP:
            return replace(probes, startup=track)
        case ProbeKind.LIVENESS:
            return replace(probes, liveness=track)
        case ProbeKind.READINESS:
            return replace(probes, readiness=track)


def failed(probes: ContainerProbes) -> ProbeKind | None:
    """The probe that asks for a restart, if one does."""
    if probes.startup is not None and probes.startup.passing is False:
        return ProbeKind.STARTUP
    if probes.liveness is not None and probes.liveness.passing is False:
        return ProbeKind.LIVENESS
    return None


def ready(probes: ContainerProbes) -> bool:
    """Whether the container may get traffic."""
    return probes.started and (probes.readiness is None or probes.readiness.passing is True)


def wake_at_ms(probes: ContainerProbes) -> int | None:
    """When the next check is due; None while every check is in flight or there is none."""
    times = [t.due_at_ms for t in (probes.startup, probes.liveness, probes.readiness) if t and not t.in_flight]
    return min(times, default=None)
