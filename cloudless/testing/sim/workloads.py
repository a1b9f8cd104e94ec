"""What is asked of the simulated fabric: workloads of every kind, and how their containers behave.

A container's arguments say what it does on the devices of this simulation: `[VERSION, BEHAVIOUR, MILLISECONDS]`.

    ok       runs until it is stopped
    slow     the same, and takes a while to start
    unready  runs, and never becomes ready
    crash    ends in failure shortly after each start
    done     (jobs) ends well after a while
    fails    (jobs) ends in failure after a while
    flaky    (jobs) fails the first time on each device, and ends well the second time
"""

from __future__ import annotations

import random
from typing import Final

from cloudless.core import defaults
from cloudless.core.replacing import replace
from cloudless.core.spec import (
    MANUAL,
    Affinity,
    AntiAffinity,
    Backoff,
    Canary,
    CanaryStep,
    Completion,
    ConcurrencyPolicy,
    Container,
    Disruption,
    ExecProbe,
    Metadata,
    MissedRuns,
    Placement,
    Probe,
    ReconnectRule,
    ResourceAmounts,
    Resources,
    RestartPolicy,
    RestartPolicyKind,
    Rollout,
    RolloutStrategy,
    Schedule,
    SpreadConstraint,
    TaintEffect,
    Termination,
    Toleration,
    WorkloadSpec,
    WorkloadType,
)
from cloudless.core.validation import validate_spec
from cloudless.testing.runtime import Behaviour

NAMESPACE: Final = "default"
BROKEN: Final = ("unready", "crash")  # versions that never work
TAINT: Final = "maintenance"  # the key of the taints that people put on nodes
PRIORITIES: Final = (10, 50, 50, 80)

_READINESS: Final = Probe(exec=ExecProbe(("ready",)), period_ms=1_000, timeout_ms=1_000, failure_threshold=3)
_BACKOFF: Final = Backoff(initial_ms=500, max_ms=2_000, reset_ms=60_000)


def names(services: int) -> tuple[str, ...]:
    """Of workloads, which stay of one kind: services, one of type system, jobs, crons."""
    return (*(f"s{number}" for number in range(services)), "everywhere", "j0", "j1", "c0", "c1")


def kind_of(name: str) -> WorkloadType:
    kinds = {
        "s": WorkloadType.SERVICE,
        "e": WorkloadType.SYSTEM,
        "j": WorkloadType.JOB,
        "c": WorkloadType.CRON,
    }
    return kinds[name[0]]


def behaviour_of(arguments: tuple[str, ...], attempt: int) -> Behaviour:
    """What one attempt of a container with these arguments does."""
    _, word, ms = arguments
    match word:
        case "slow":
            return Behaviour(start_delay_ms=int(ms))
        case "crash":
            return Behaviour(exit_after_ms=int(ms), exit_code=1)
        case "done":
            return Behaviour(exit_after_ms=int(ms))
        case "fails":
            return Behaviour(exit_after_ms=int(ms), exit_code=3)
        case "flaky":
            return Behaviour(exit_after_ms=int(ms), exit_code=0 if attempt else 3)
    return Behaviour()


def is_broken(spec: WorkloadSpec) -> bool:
    """Whether this version of a service can never work."""
    return any(container.args[1] in BROKEN for container in spec.containers)


class Author:
    """Writes specs and new versions of them; they validate, and their defaults are filled in."""

    def __init__(self, rng: random.Random, *, agents: int, lease_ms: int, cpu_millis: tuple[int, ...]) -> None:
        self._rng = rng
        self._agents = agents
        self._lease_ms = lease_ms
        self._cpu_millis = cpu_millis
        self._version = 0

    def first(self, name: str) -> tuple[Metadata, WorkloadSpec]:
        """A workload of the kind that its name says."""
        match kind_of(name):
            case WorkloadType.SERVICE:
                spec = self._service()
            case WorkloadType.SYSTEM:
                spec = self._system()
            case WorkloadType.JOB:
                spec = self._job(None)
            case _:
                spec = self._job(self._schedule())
        return self._checked(name, spec)

    def next(self, name: str, spec: WorkloadSpec) -> tuple[Metadata, WorkloadSpec]:
        """Most often a new version of its program, or other rules of its rollout, or all of it anew."""
        choice = self._rng.random()
        if choice < 0.6:
            return self._checked(name, self._versioned(spec))
        if choice < 0.8 and spec.type is WorkloadType.SERVICE:
            return self._checked(name, replace(spec, rollout=self._rollout(spec.replicas), priority=self._priority()))
        return self.first(name)

    def mended(self, name: str, spec: WorkloadSpec) -> tuple[Metadata, WorkloadSpec]:
        """A version that works."""
        return self._checked(name, self._with(spec, "ok", 0))

    def _checked(self, name: str, spec: WorkloadSpec) -> tuple[Metadata, WorkloadSpec]:
        metadata, filled = defaults.apply(Metadata(name=name, labels={"kind": str(spec.type)}), spec)
        violations = list(validate_spec(filled))
        assert not violations, f"{name} is no valid workload: {violations}"
        return metadata, filled

    def _versioned(self, spec: WorkloadSpec) -> WorkloadSpec:
        if spec.type in (WorkloadType.JOB, WorkloadType.CRON):
            return self._with(spec, *self._work())
        return self._with(spec, *self._program())

    def _with(self, spec: WorkloadSpec, word: str, ms: int) -> WorkloadSpec:
        self._version += 1
        container = replace(
            spec.containers[0],
            args=(str(self._version), word, str(ms)),
            readiness_probe=_READINESS if word == "unready" else None,
        )
        return replace(spec, containers=(container,))

    def _program(self) -> tuple[str, int]:
        choice = self._rng.random()
        if choice < 0.12:
            return "unready", 0
        if choice < 0.2:
            return "crash", self._rng.choice((50, 400))
        return ("slow", self._rng.choice((300, 1_500))) if choice < 0.35 else ("ok", 0)

    def _work(self) -> tuple[str, int]:
        word = self._rng.choices(("done", "fails", "flaky"), (6, 1, 1))[0]
        return word, self._rng.choice((200, 1_000, 3_000))

    def _priority(self) -> int:
        return self._rng.choice(PRIORITIES)

    def _containers(self) -> tuple[Container, ...]:
        requests = ResourceAmounts(
            cpu_millis=self._rng.choice(self._cpu_millis), memory_bytes=self._rng.choice((64, 256)) * 2**20
        )
        return (Container(name="main", image="example.local/app:1", resources=Resources(requests=requests)),)

    def _disruption(self) -> Disruption:
        return Disruption(
            offline_grace_ms=self._rng.choice((1_000, 3_000, 20_000)),
            on_reconnect=self._rng.choice(list(ReconnectRule)),
            lease_duration_ms=self._lease_ms,
        )

    def _placement(self, replicas: int) -> Placement:
        rng = self._rng
        spread: tuple[SpreadConstraint, ...] = ()
        away: tuple[AntiAffinity, ...] = ()
        near: tuple[Affinity, ...] = ()
        tolerations: tuple[Toleration, ...] = ()
        choice, other = rng.random(), f"s{rng.randrange(3)}"
        if choice < 0.4:
            spread = (SpreadConstraint("zone", rng.choice((1, 2))),)
        elif choice < 0.5:
            away = (AntiAffinity(match_labels={"kind": "service"}, topology_key="node", weight=50),)
        elif choice < 0.55:
            # Twice as many nodes as replicas, so that a blue-green rollout has room even while a node drains.
            required = self._agents > 2 * replicas
            away = (AntiAffinity(other, "node", required, weight=0 if required else 80),)
        elif choice < 0.65:
            near = (Affinity(workload=other, topology_key="zone", weight=50),)
        if rng.random() < 0.2:
            tolerations = (Toleration(key=TAINT, operator="Exists", effect=TaintEffect.NO_EXECUTE),)
        return Placement(spread=spread, anti_affinity=away, affinity=near, tolerations=tolerations)

    def _service(self) -> WorkloadSpec:
        replicas = self._rng.randrange(1, 6)
        spec = WorkloadSpec(
            type=WorkloadType.SERVICE,
            replicas=replicas,
            priority=self._priority(),
            containers=self._containers(),
            placement=self._placement(replicas),
            rollout=self._rollout(replicas),
            disruption=self._disruption(),
            restart_policy=RestartPolicy(self._rng.choice((None, RestartPolicyKind.NEVER)), backoff=_BACKOFF),
            termination=Termination(self._rng.choice((500, 2_000))),
        )
        return self._versioned(spec)

    def _system(self) -> WorkloadSpec:
        spec = WorkloadSpec(
            type=WorkloadType.SYSTEM,
            priority=90,
            containers=self._containers(),
            rollout=replace(self._bounds(), max_surge=0, max_unavailable=self._rng.randrange(1, 3)),
            disruption=self._disruption(),
            restart_policy=RestartPolicy(backoff=_BACKOFF),
        )
        return self._versioned(spec)

    def _bounds(self) -> Rollout:
        return Rollout(
            strategy=RolloutStrategy.ROLLING_UPDATE,
            max_surge=self._rng.randrange(0, 3),
            max_unavailable=self._rng.randrange(0, 2),
            min_ready_ms=self._rng.choice((0, 0, 1_000)),
            progress_deadline_ms=self._rng.choice((5_000, 9_000)),
            auto_rollback=self._rng.random() < 0.6,
        )

    def _rollout(self, replicas: int) -> Rollout:
        rng = self._rng
        bounds = replace(self._bounds(), min_available=rng.randrange(0, replicas + 1))
        match rng.choices(("rolling", "recreate", "canary", "blue-green"), (4, 1, 3, 2))[0]:
            case "recreate":
                return replace(bounds, strategy=RolloutStrategy.RECREATE, max_surge=0, min_available=0)
            case "canary":
                weights = sorted(rng.sample((20, 40, 60, 80), rng.randrange(1, 3)))
                steps = tuple(CanaryStep(weight, rng.choice((0, 1_000, 2_000, MANUAL))) for weight in weights)
                return replace(bounds, strategy=RolloutStrategy.CANARY, canary=Canary(steps))
            case "blue-green":
                return replace(bounds, strategy=RolloutStrategy.BLUE_GREEN)
        return bounds

    def _job(self, schedule: Schedule | None) -> WorkloadSpec:
        rng = self._rng
        spec = WorkloadSpec(
            type=WorkloadType.CRON if schedule else WorkloadType.JOB,
            priority=self._priority(),
            containers=self._containers(),
            restart_policy=RestartPolicy(
                rng.choice((RestartPolicyKind.ON_FAILURE, RestartPolicyKind.NEVER)), rng.choice((2, 6)), _BACKOFF
            ),
            disruption=self._disruption(),
            termination=Termination(500),
            schedule=schedule,
            completion=Completion(
                parallelism=rng.randrange(1, 4),
                completions=rng.randrange(1, 5),
                ttl_after_finished_ms=rng.choice((0, 3_000)) if schedule is None else 0,
                active_deadline_ms=rng.choice((0, 20_000)),
            ),
        )
        return self._versioned(spec)

    def _schedule(self) -> Schedule:
        rng = self._rng
        concurrency = rng.choice(list(ConcurrencyPolicy))
        missed = [MissedRuns.SKIP, MissedRuns.RUN_ONCE]
        if concurrency is not ConcurrencyPolicy.REPLACE:
            missed.append(MissedRuns.RUN_ALL)
        return Schedule("* * * * *", "UTC", concurrency, rng.choice(missed), 3)
