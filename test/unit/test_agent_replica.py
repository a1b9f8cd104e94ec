"""Stories of one replica as tables, each told again with the agent killed at every one of its steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from cloudless.agent.core import model as m
from cloudless.agent.core import replica
from cloudless.agent.core.status import status_of
from cloudless.core.model import Assignment, ReplicaPhase
from cloudless.core.spec import Container, ExecProbe, Probe, RestartPolicy, RestartPolicyKind, WorkloadSpec
from cloudless.testing.replica_world import Harness

P = ReplicaPhase
PROBE = Probe(exec=ExecProbe(("x",)), period_ms=1_000)


def assignment(policy: RestartPolicyKind, *, retries: int = 0, containers: int = 1) -> Assignment:
    spec = WorkloadSpec(
        containers=tuple(Container(f"c{n}", "i", readiness_probe=PROBE) for n in range(containers)),
        restart_policy=RestartPolicy(policy, retries),
    )
    return Assignment("r", "w", "d", 1, spec)


@dataclass(frozen=True)
class Story:
    """`script` happens in order, after each of which everything settles; then `phase` and the runs of c0."""

    name: str
    assignment: Assignment
    script: tuple[Callable[[Harness], None], ...]
    phase: P | None  # None: gone
    runs: int


def exits(code: int, *, oom: bool = False, name: str = "c0") -> Callable[[Harness], None]:
    def happen(h: Harness) -> None:
        h.world.exit(name, code, oom=oom, wall_ms=h.now_ms)
        h.post(m.SomethingChanged())

    return happen


def stop(h: Harness) -> None:
    h.assigned = replace(h.assigned, stopping=True)
    h.post(m.AssignmentChanged(h.assigned))


def reboot(h: Harness) -> None:
    h.world.lose_records(h.facts)
    h.post(m.SomethingChanged())


K = RestartPolicyKind
STORIES = [
    Story("starts", assignment(K.ALWAYS), (), P.READY, 1),
    Story("two containers", assignment(K.ALWAYS, containers=2), (), P.READY, 1),
    Story("crashes twice", assignment(K.ALWAYS), (exits(1), exits(137, oom=True)), P.READY, 3),
    Story("a service that returns is started again", assignment(K.ALWAYS), (exits(0),), P.READY, 2),
    Story("gives up", assignment(K.ALWAYS, retries=1), (exits(1), exits(1)), P.FAILED, 2),
    Story("a job is done", assignment(K.ON_FAILURE), (exits(0),), P.SUCCEEDED, 1),
    Story("a job tries again", assignment(K.ON_FAILURE), (exits(3), exits(0)), P.SUCCEEDED, 2),
    Story("once only", assignment(K.NEVER), (exits(3),), P.FAILED, 1),
    Story("a done job is not done again after a reboot", assignment(K.NEVER), (exits(0), reboot), P.SUCCEEDED, 1),
    Story("a reboot", assignment(K.ALWAYS), (reboot,), P.READY, 2),
    Story("stops", assignment(K.ALWAYS, containers=2), (stop,), None, 1),
    Story("stops while it crashes", assignment(K.ALWAYS), (exits(1), stop), None, 2),
    Story("a failed one stops", assignment(K.NEVER), (exits(3), stop), None, 1),
]


def tell(story: Story, *, kill_at: int | None) -> Harness:
    """The story; at the step `kill_at` the agent dies and comes back with its facts and what runs."""
    h = Harness(story.assignment)
    post = h.post
    killed = False

    def post_or_die(event: m.Event) -> None:
        nonlocal killed
        post(event)
        if kill_at is not None and h.steps >= kill_at and not killed:
            killed = True
            h.boot()

    h.post = post_or_die  # type: ignore[method-assign]
    h.settle()
    for happen in story.script:
        happen(h)
        h.settle()
    return h


def check(story: Story, h: Harness) -> None:
    if story.phase is None:
        assert h.gone
        assert not h.world.exists
        assert h.state.sandbox is m.SandboxStage.GONE
        return
    assert h.state.phase is story.phase
    assert h.world.runs["c0"][-1] == story.runs - 1
    assert status_of(h.state).containers[0].restart_count == story.runs - 1


@pytest.mark.parametrize("story", STORIES, ids=lambda s: s.name)
def test_story(story: Story) -> None:
    h = tell(story, kill_at=None)
    check(story, h)
    for kill_at in range(1, h.steps + 1):
        check(story, tell(story, kill_at=kill_at))


def test_every_event_may_come_twice() -> None:
    for story in STORIES:
        h = Harness(story.assignment)
        post = h.post

        def twice(event: m.Event, post: Callable[[m.Event], None] = post) -> None:
            post(event)
            if not isinstance(event, m.OperationFailed | m.ContainerStopped):
                post(event)

        h.post = twice  # type: ignore[method-assign]
        h.settle()
        for happen in story.script:
            happen(h)
            h.settle()
        check(story, h)


def test_a_stranger_is_stopped_removed_and_never_reported_as_ours() -> None:
    state = replica.unknown("r", wall_ms=1)
    h = Harness(assignment(K.ALWAYS))
    h.settle()
    view = h.world.view()
    state, effects = replica.step(state, m.Observed(view), now_ms=1, wall_ms=1, jitter=0.0)
    assert [type(e) for e in effects if isinstance(e, m.StopContainer)] == [m.StopContainer]
    assert not any(isinstance(e, m.Remember) for e in effects)


def test_an_end_is_announced_with_its_cause_and_the_pause() -> None:
    h = tell(Story("", assignment(K.ALWAYS), (exits(137, oom=True),), P.READY, 2), kill_at=None)
    ends = [a for a in h.announced if isinstance(a, m.AnnounceEnd)]
    assert ends == [m.AnnounceEnd("c0", 0, "OOMKilled", 137, restarts=True, delay_ms=1_000)]
    steps = [(a.before, a.after) for a in h.announced if isinstance(a, m.AnnouncePhase)]
    assert steps == [
        (P.ASSIGNED, P.PREPARING),
        (P.PREPARING, P.STARTING),
        (P.STARTING, P.RUNNING),
        (P.RUNNING, P.READY),
        (P.READY, P.STARTING),
        (P.STARTING, P.RUNNING),
        (P.RUNNING, P.READY),
    ]
