"""What the agent keeps of one replica, what can happen to it, and what it asks of the world.

Events are in the past tense, effects are imperatives. Times named `*_at_ms` of this module are monotonic
unless they say "wall"; the wall clock is only ever reported, and used to tell how long a run lasted.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from cloudless.agent.core.probes import ContainerProbes, ProbeKind
from cloudless.agent.runtime.base import ContainerView, SandboxView
from cloudless.core.model import Assignment, PortBinding, ReplicaPhase, ReplicaStatus
from cloudless.core.spec import Probe


class Stage(StrEnum):
    """Where one container stands."""

    WAITING = "waiting"  # to be started, not before retry_at_ms
    STARTING = "starting"  # a start is in flight
    RUNNING = "running"
    STOPPING = "stopping"  # a stop is in flight, or its outcome is not yet observed
    EXITED = "exited"  # for good, by policy or by failure


class SandboxStage(StrEnum):
    UNKNOWN = "unknown"  # not observed yet
    ABSENT = "absent"
    PREPARING = "preparing"  # being made
    PRESENT = "present"
    REMOVING = "removing"  # being removed
    GONE = "gone"  # removed for good: the end


@dataclass(frozen=True, slots=True)
class ContainerTrack:
    """One container of the replica. `attempt` numbers its runs from 0; -1: never started."""

    name: str
    stage: Stage = Stage.WAITING
    attempt: int = -1  # the latest run
    ended_attempt: int = -1  # the latest run whose end was counted; never beyond `attempt`
    failures: int = 0  # ends since the container last ran well
    start_failures: int = 0  # starts (or stops) in a row that had no effect
    retry_at_ms: int = 0  # no start or stop before
    retry_at_wall_ms: int = 0  # with WAITING: the same of the next start, by the wall clock; 0: as soon as possible
    busy: bool = False  # a start or stop is in flight
    terminal_failure: bool = False  # with EXITED: it failed for good
    reason: str = ""
    message: str = ""
    exit_code: int = 0
    started_at_wall_ms: int = 0
    finished_at_wall_ms: int = 0
    image_digest: str = ""
    last_reason: str = ""
    last_exit_code: int = 0
    stop_cause: str = ""  # with STOPPING: why
    stop_since_wall_ms: int = 0  # with STOPPING: when it began
    stop_until_ms: int = 0  # with STOPPING: when the grace is over
    pre_stop_done: bool = False  # with STOPPING: the hook has ended, well or not
    held: bool = False  # with STOPPING: it is stopped because its replica is held, and starts again afterwards
    evicted_reason: str = ""  # its replica was ended for good on this node; the same for all its containers
    evicted_message: str = ""
    probes: ContainerProbes = ContainerProbes()


@dataclass(frozen=True, slots=True)
class ContainerFacts:
    """What must outlive the agent and perhaps the runtime's memory of a container."""

    name: str
    attempt: int = -1
    ended_attempt: int = -1
    failures: int = 0
    exited: bool = False
    terminal_failure: bool = False
    reason: str = ""
    exit_code: int = 0
    last_reason: str = ""
    last_exit_code: int = 0
    started: bool = False  # of run `attempt`: the startup probe had passed
    ready: bool = False  # of run `attempt`: it was ready
    evicted_reason: str = ""
    evicted_message: str = ""
    retry_at_wall_ms: int = 0  # the next start; 0 with facts of older agents
    message: str = ""  # of `reason`, once the latest run has ended
    # Of run `attempt`, whose end is not yet known: that it is being stopped, and how far this came.
    stop_since_wall_ms: int = 0
    stop_cause: str = ""
    held: bool = False
    pre_stop_done: bool = False


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """One replica. `assignment` is None for a sandbox that nobody asked for: it is only removed."""

    replica_id: str
    assignment: Assignment | None
    stopping: bool = False
    stop_reason: str = ""
    sandbox: SandboxStage = SandboxStage.UNKNOWN
    sandbox_failures: int = 0
    retry_at_ms: int = 0  # no sandbox operation before
    reason: str = ""  # of the last sandbox failure, or of the replica's final failure
    message: str = ""
    failed: bool = False  # for good
    held: str = ""  # nothing of it may run for now: why, as a CamelCase word
    held_message: str = ""
    must_look: bool = True  # what is observed is not to be trusted before the next look
    looking: bool = False  # a look was asked for and not yet answered
    containers: tuple[ContainerTrack, ...] = ()
    address: str = ""
    ports: tuple[PortBinding, ...] = ()
    phase: ReplicaPhase = ReplicaPhase.ASSIGNED
    since_wall_ms: int = 0  # when the phase began


# Events ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AssignmentChanged:
    assignment: Assignment


@dataclass(frozen=True, slots=True)
class Unassigned:
    reason: str


@dataclass(frozen=True, slots=True)
class Evicted:
    """The node cannot go on running it: it fails for good, stops in good order and is placed anew."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Held:
    """Until Released nothing of it is started, and what runs is stopped in good order: no failure of its own."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Released:
    """It may run (again)."""


@dataclass(frozen=True, slots=True)
class SomethingChanged:
    """The runtime hinted at a change, or a resync is due."""


@dataclass(frozen=True, slots=True)
class Observed:
    """The runtime's present view of the sandbox; None: it has none."""

    view: SandboxView | None


@dataclass(frozen=True, slots=True)
class SandboxReady:
    view: SandboxView


@dataclass(frozen=True, slots=True)
class ContainerStarted:
    view: ContainerView


@dataclass(frozen=True, slots=True)
class ContainerStopped:
    container: str


@dataclass(frozen=True, slots=True)
class PreStopFinished:
    container: str
    attempt: int
    ok: bool | None  # None: it could not be run
    detail: str = ""


@dataclass(frozen=True, slots=True)
class SandboxRemoved:
    pass


@dataclass(frozen=True, slots=True)
class OperationFailed:
    """An effect failed. `permanent`: it can never succeed; `ambiguous`: it may have happened all the same."""

    container: str  # empty: of the sandbox
    reason: str
    message: str
    permanent: bool = False
    ambiguous: bool = True


@dataclass(frozen=True, slots=True)
class ProbeFinished:
    container: str
    attempt: int
    kind: ProbeKind
    ok: bool | None  # None: the check could not be made
    detail: str = ""


@dataclass(frozen=True, slots=True)
class TimerFired:
    pass


Event: TypeAlias = (
    AssignmentChanged
    | Unassigned
    | Evicted
    | Held
    | Released
    | SomethingChanged
    | Observed
    | SandboxReady
    | ContainerStarted
    | ContainerStopped
    | PreStopFinished
    | SandboxRemoved
    | OperationFailed
    | ProbeFinished
    | TimerFired
)

# Effects --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Look:
    """Observe the sandbox and answer with Observed."""


@dataclass(frozen=True, slots=True)
class EnsureSandbox:
    """Answer: SandboxReady or OperationFailed."""

    assignment: Assignment


@dataclass(frozen=True, slots=True)
class StartContainer:
    """Answer: ContainerStarted or OperationFailed."""

    assignment: Assignment
    container: str
    attempt: int


@dataclass(frozen=True, slots=True)
class RunPreStop:
    """Run the hook once, for `probe.timeout_ms` at most. Answer: PreStopFinished, always."""

    container: str
    attempt: int
    probe: Probe  # of kind exec or http
    address: str


@dataclass(frozen=True, slots=True)
class StopContainer:
    """Answer: ContainerStopped or OperationFailed."""

    container: str
    grace_ms: int
    cause: str


@dataclass(frozen=True, slots=True)
class RemoveSandbox:
    """Answer: SandboxRemoved or OperationFailed."""


@dataclass(frozen=True, slots=True)
class RunProbe:
    """Run the check once. Answer: ProbeFinished, always."""

    container: str
    attempt: int
    kind: ProbeKind
    probe: Probe
    address: str


@dataclass(frozen=True, slots=True)
class ReportStatus:
    status: ReplicaStatus


@dataclass(frozen=True, slots=True)
class ReportGone:
    """Nothing of the replica is left on the node."""


@dataclass(frozen=True, slots=True)
class Remember:
    """Keep these facts across restarts of the agent and the device."""

    containers: tuple[ContainerFacts, ...]


@dataclass(frozen=True, slots=True)
class AnnouncePhase:
    """A transition to log and count."""

    before: ReplicaPhase
    after: ReplicaPhase
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class AnnounceEnd:
    """A container's run ended; `restarts` says whether another follows, not before `delay_ms`."""

    container: str
    attempt: int
    reason: str
    exit_code: int
    restarts: bool
    delay_ms: int


@dataclass(frozen=True, slots=True)
class AnnouncePreStop:
    """A container's hook ended."""

    container: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class AnnounceProbeFailure:
    container: str
    kind: ProbeKind
    detail: str


Operation: TypeAlias = EnsureSandbox | StartContainer | StopContainer | RemoveSandbox
Check: TypeAlias = RunProbe | RunPreStop
Announcement: TypeAlias = AnnouncePhase | AnnounceEnd | AnnouncePreStop | AnnounceProbeFailure
Effect: TypeAlias = Look | Operation | Check | ReportStatus | ReportGone | Remember | Announcement
