"""One replica against a world in memory that asserts what must never be asked of it: for tests of the pure core."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from cloudless.agent.core import model as m
from cloudless.agent.core import replica
from cloudless.agent.core.status import status_of
from cloudless.agent.runtime.base import ContainerState, ContainerView, SandboxView
from cloudless.core.model import Assignment, ReplicaPhase


@dataclass
class World:
    """A runtime as the protocol states it, that asserts what must never be asked of it."""

    exists: bool = False
    containers: dict[str, ContainerView] = field(default_factory=dict)
    runs: dict[str, list[int]] = field(default_factory=dict)

    def view(self) -> SandboxView | None:
        if not self.exists:
            return None
        return SandboxView("r", "d", "w", 1, "10.0.0.2", (), tuple(self.containers.values()))

    def start(self, name: str, attempt: int, *, wall_ms: int) -> ContainerView:
        assert self.exists, "started without a sandbox"
        present = self.containers.get(name)
        assert present is None or present.state is not ContainerState.RUNNING, "started twice"
        runs = self.runs.setdefault(name, [])
        assert not runs or attempt > runs[-1], f"run {attempt} after {runs}"
        runs.append(attempt)
        view = ContainerView("r", name, ContainerState.RUNNING, attempt, pid=1, started_at_ms=wall_ms)
        self.containers[name] = view
        return view

    def exit(self, name: str, code: int, *, oom: bool = False, wall_ms: int) -> None:
        view = self.containers.get(name)
        if view is not None and view.state is ContainerState.RUNNING:
            self.containers[name] = replace(
                view, state=ContainerState.EXITED, exit_code=code, oom_killed=oom, finished_at_ms=wall_ms
            )

    def lose_records(self, facts: tuple[m.ContainerFacts, ...]) -> None:
        """The device forgets it all. A run that nobody was told of before may have its number used again."""
        known = {f.name: f.attempt for f in facts}
        self.runs = {name: [a for a in runs if a <= known.get(name, -1)] for name, runs in self.runs.items()}
        self.runs = {name: runs for name, runs in self.runs.items() if runs}
        self.remove()

    def remove(self) -> None:
        self.exists = False
        self.containers.clear()


class Harness:
    """Runs the effects of one replica on the world, in the order and with the failures that its owner decides."""

    def __init__(self, assignment: Assignment, *, jitter: Callable[[], float] = lambda: 0.5) -> None:
        self.jitter = jitter
        self.assignment = assignment
        self.world = World()
        self.now_ms = 1_000
        self.facts: tuple[m.ContainerFacts, ...] = ()
        self.pending: list[m.Effect] = []
        self.hooks: list[tuple[str, int]] = []  # containers and runs whose hook was run
        self.announced: list[m.Announcement] = []
        self.steps = 0
        self.gone = False
        self.assigned = assignment
        self.boot()

    def boot(self) -> None:
        """The agent starts, perhaps again: all it has is the facts and what runs."""
        self.pending.clear()
        self.gone = False
        self.state = replica.assigned(self.assigned, self.facts, now_ms=self.now_ms, wall_ms=self.now_ms)
        self.post(m.SomethingChanged())

    def post(self, event: m.Event) -> None:
        self.state, effects = replica.step(
            self.state, event, now_ms=self.now_ms, wall_ms=self.now_ms, jitter=self.jitter()
        )
        self.steps += 1
        wake = replica.wake_at_ms(self.state)
        assert wake is None or wake > self.now_ms, "a wake-up in the past would spin"
        for effect in effects:
            match effect:
                case m.Remember(facts):
                    self.facts = facts
                case m.ReportGone():
                    self.gone = True
                case m.AnnouncePhase() | m.AnnounceEnd() | m.AnnouncePreStop() | m.AnnounceProbeFailure():
                    self.announced.append(effect)
                case m.ReportStatus():
                    pass
                case _:
                    self.pending.append(effect)
        keys = [(type(e), getattr(e, "container", "")) for e in self.pending if not isinstance(e, m.RunProbe)]
        assert len(keys) == len(set(keys)), f"two operations of one kind at a time: {keys}"
        checks = [(e.container, e.attempt, e.kind) for e in self.pending if isinstance(e, m.RunProbe)]
        assert len(checks) == len(set(checks)), f"two checks of one kind at a time: {checks}"
        hooks = {e.container for e in self.pending if isinstance(e, m.RunPreStop)}
        stops = {e.container for e in self.pending if isinstance(e, m.StopContainer)}
        assert not hooks & stops, "asked to stop while its hook runs"

    def answer(self, index: int, *, fail: bool, happens: bool, ok: bool = True) -> None:
        """One effect in flight comes to its end; when it fails, it may have happened all the same."""
        effect = self.pending.pop(index)
        wall = self.now_ms
        match effect:
            case m.Look():
                self.post(m.Observed(self.world.view()))
            case m.EnsureSandbox():
                if not fail or happens:
                    self.world.exists = True
                if fail:
                    self.post(m.OperationFailed("", "Unavailable", "no answer"))
                else:
                    sandbox = self.world.view()
                    assert sandbox is not None
                    self.post(m.SandboxReady(sandbox))
            case m.StartContainer(_, name, attempt):
                if not self.world.exists:
                    self.post(m.OperationFailed(name, "NotFound", "no sandbox"))
                elif fail and not happens:
                    self.post(m.OperationFailed(name, "ImageMissing", "not here", ambiguous=False))
                else:
                    view = self.world.start(name, attempt, wall_ms=wall)
                    self.post(m.OperationFailed(name, "Unavailable", "?") if fail else m.ContainerStarted(view))
            case m.StopContainer(name, _, _):
                if not fail or happens:
                    self.world.exit(name, 143, wall_ms=wall)
                self.post(m.OperationFailed(name, "Unavailable", "?") if fail else m.ContainerStopped(name))
            case m.RemoveSandbox():
                if not fail or happens:
                    self.world.remove()
                self.post(m.OperationFailed("", "Unavailable", "?") if fail else m.SandboxRemoved())
            case m.RunPreStop(name, attempt, _, _):
                self.hooks.append((name, attempt))
                self.post(m.PreStopFinished(name, attempt, ok and not fail, "" if ok else "no"))
            case m.RunProbe(name, attempt, kind, _, _):
                self.post(m.ProbeFinished(name, attempt, kind, ok, "" if ok else "no"))

    def settle(self, *, limit_ms: int = 3_600_000) -> None:
        """Without further failures: runs until nothing is to be done, or only probes are left to come."""
        deadline = self.now_ms + limit_ms
        self.post(m.SomethingChanged())
        rounds = 0
        while self.now_ms < deadline:
            rounds += 1
            assert rounds < 3_000, "does not settle"
            if self.pending:
                self.answer(0, fail=False, happens=True)
                continue
            if self.done():
                return
            wake = replica.wake_at_ms(self.state)
            if wake is None:
                return
            self.now_ms = wake
            self.post(m.TimerFired())

    def done(self) -> bool:
        settled = all(c.ready or c.state == "exited" for c in status_of(self.state).containers)
        return self.gone or (settled and self.state.phase not in (ReplicaPhase.STOPPING, ReplicaPhase.ASSIGNED))
