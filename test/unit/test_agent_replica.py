"""Stories of one replica as tables, each told again with the agent killed at every one of its steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from cloudless.agent.core import model as m
from cloudless.agent.core import replica
from cloudless.agent.core.status import status_of
from cloudless.core.model import Assignment, ReplicaPhase
from cloudless.core.spec import (
    Container,
    ContainerPort,
    ExecProbe,
    HttpProbe,
    PreStop,
    Probe,
    RestartPolicy,
    RestartPolicyKind,
    Termination,
    WorkloadSpec,
)
from cloudless.testing.replica_world import Harness

P = ReplicaPhase
PROBE = Probe(exec=ExecProbe(("x",)), period_ms=1_000)


def assignment(
    policy: RestartPolicyKind, *, retries: int = 0, containers: int = 1, pre_stop: PreStop | None = None
) -> Assignment:
    spec = WorkloadSpec(
        containers=tuple(Container(f"c{n}", "i", readiness_probe=PROBE) for n in range(containers)),
        restart_policy=RestartPolicy(policy, retries),
        termination=Termination(grace_period_ms=10_000, pre_stop=pre_stop),
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


def evict(h: Harness) -> None:
    h.post(m.Evicted("Evicted", "no memory"))


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
    Story("hooks", assignment(K.ALWAYS, containers=2, pre_stop=PreStop(exec=ExecProbe(("x",)))), (stop,), None, 1),
    Story("a pause first", assignment(K.ALWAYS, containers=2, pre_stop=PreStop(sleep_ms=3_000)), (stop,), None, 1),
    Story("is evicted", assignment(K.ALWAYS), (evict,), P.FAILED, 1),
    Story("is evicted with a hook", assignment(K.ALWAYS, pre_stop=PreStop(sleep_ms=60_000)), (evict,), P.FAILED, 1),
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


def settled(wanted: Assignment) -> Harness:
    h = Harness(wanted)
    h.settle()
    assert h.state.phase is P.READY
    return h


def asked(h: Harness, kind: type) -> list:
    return [effect for effect in h.pending if isinstance(effect, kind)]


EXEC = PreStop(exec=ExecProbe(("drain",)))


def test_the_hooks_time_is_part_of_the_grace() -> None:
    h = settled(assignment(K.ALWAYS, pre_stop=EXEC))
    h.pending.clear()
    stop(h)
    assert h.state.phase is P.STOPPING
    assert not status_of(h.state).containers[0].ready, "no traffic comes while the hook runs"
    [hook] = asked(h, m.RunPreStop)
    assert (hook.probe.exec, hook.probe.timeout_ms) == (ExecProbe(("drain",)), 10_000)
    assert not asked(h, m.StopContainer)
    h.now_ms += 4_000
    h.answer(h.pending.index(hook), fail=False, happens=True)
    assert [e.grace_ms for e in asked(h, m.StopContainer)] == [6_000]


@pytest.mark.parametrize(("took_ms", "left_ms"), [(0, 10_000), (9_500, 2_000), (10_000, 2_000), (60_000, 2_000)])
def test_after_its_hook_a_container_gets_two_seconds_at_least(took_ms: int, left_ms: int) -> None:
    h = settled(assignment(K.ALWAYS, pre_stop=EXEC))
    h.pending.clear()
    stop(h)
    h.now_ms += took_ms
    h.answer(h.pending.index(asked(h, m.RunPreStop)[0]), fail=True, happens=False)
    assert [e.grace_ms for e in asked(h, m.StopContainer)] == [left_ms]
    assert [a.ok for a in h.announced if isinstance(a, m.AnnouncePreStop)] == [False]


def test_a_pause_needs_nobody_and_ends_with_the_grace() -> None:
    for pause_ms, expected in ((3_000, (3_000, 7_000)), (60_000, (10_000, 2_000))):
        h = settled(assignment(K.ALWAYS, pre_stop=PreStop(sleep_ms=pause_ms)))
        h.pending.clear()
        stop(h)
        assert not h.pending
        began = h.now_ms
        wake = replica.wake_at_ms(h.state)
        assert wake is not None
        h.now_ms = wake
        h.post(m.TimerFired())
        [effect] = asked(h, m.StopContainer)
        assert (h.now_ms - began, effect.grace_ms) == expected


def test_what_exits_during_its_pause_is_not_stopped() -> None:
    h = settled(assignment(K.ALWAYS, pre_stop=PreStop(sleep_ms=3_000)))
    h.pending.clear()
    stop(h)
    exits(0)(h)
    h.answer(h.pending.index(asked(h, m.Look)[0]), fail=False, happens=True)
    assert asked(h, m.RemoveSandbox)
    assert not asked(h, m.StopContainer)


def test_a_container_that_does_not_run_has_no_hook() -> None:
    h = settled(assignment(K.ALWAYS, pre_stop=EXEC))
    exits(1)(h)
    h.answer(h.pending.index(asked(h, m.Look)[0]), fail=False, happens=True)
    assert status_of(h.state).containers[0].state == "waiting"
    stop(h)
    h.settle()
    assert h.gone
    assert h.hooks == []


@pytest.mark.parametrize("after_hook", [False, True])
def test_an_agent_that_comes_back_goes_on_with_the_stop(after_hook: bool) -> None:
    h = settled(assignment(K.ALWAYS, pre_stop=EXEC))
    h.pending.clear()
    stop(h)
    if after_hook:
        h.now_ms += 1_000
        h.answer(h.pending.index(asked(h, m.RunPreStop)[0]), fail=False, happens=True)
    h.now_ms += 3_000
    h.boot()
    h.answer(h.pending.index(asked(h, m.Look)[0]), fail=False, happens=True)
    if after_hook:
        assert [e.grace_ms for e in asked(h, m.StopContainer)] == [6_000]
    else:
        assert [e.probe.timeout_ms for e in asked(h, m.RunPreStop)] == [7_000]


def test_a_liveness_stop_outlives_the_agent_and_the_container_is_started_again() -> None:
    wanted = assignment(K.ALWAYS, pre_stop=EXEC)
    containers = (replace(wanted.spec.containers[0], liveness_probe=replace(PROBE, failure_threshold=1)),)
    h = settled(replace(wanted, spec=replace(wanted.spec, containers=containers)))
    h.pending.clear()
    h.post(m.TimerFired())
    while not asked(h, m.RunPreStop):
        checks = [i for i, e in enumerate(h.pending) if isinstance(e, m.RunProbe)]
        if checks:
            h.answer(checks[0], fail=False, happens=True, ok=False)
        else:
            h.now_ms += 1_000
            h.post(m.TimerFired())
    h.boot()
    h.settle()
    assert h.state.phase is P.READY
    assert h.world.runs["c0"] == [0, 1]
    assert status_of(h.state).containers[0].last_reason == "LivenessProbeFailed"


def test_a_hold_is_no_failure_even_if_the_agent_dies_in_it() -> None:
    h = settled(assignment(K.ALWAYS, retries=1))
    for _ in range(3):
        h.post(m.Held("OwnerTerms", ""))
        h.world.exit("c0", 137, wall_ms=h.now_ms)
        h.boot()
        h.settle()
        assert h.state.phase is P.READY, "the number of retries is about its own failures"


def page(port: str) -> PreStop:
    return PreStop(http=HttpProbe("/drain", port))


@pytest.mark.parametrize(("port", "asked_of"), [("web", ["c1"]), ("8081", ["c1"]), ("8080", ["c0"]), ("9999", ["c0"])])
def test_a_page_is_asked_for_once(port: str, asked_of: list[str]) -> None:
    wanted = assignment(K.ALWAYS, containers=2, pre_stop=page(port))
    first, second = wanted.spec.containers
    first = replace(first, ports=(ContainerPort(container_port=8080),))
    second = replace(second, ports=(ContainerPort("web", 8081),))
    h = settled(replace(wanted, spec=replace(wanted.spec, containers=(first, second))))
    h.pending.clear()
    stop(h)
    assert [e.container for e in asked(h, m.RunPreStop)] == asked_of
    assert len(asked(h, m.StopContainer)) == 1


@pytest.mark.parametrize("retries", [0, 1])
def test_what_happened_is_told_in_the_same_words_after_a_restart(retries: int) -> None:
    h = settled(assignment(K.ALWAYS, retries=retries))
    exits(137, oom=True)(h)
    if retries:
        h.settle()
        exits(137, oom=True)(h)
    h.answer(h.pending.index(asked(h, m.Look)[0]), fail=False, happens=True)
    before = status_of(h.state)
    assert "OOMKilled (exit code 137): it ran out of memory" in before.message
    assert before.phase is (P.FAILED if retries else P.STARTING)
    h.boot()
    h.answer(h.pending.index(asked(h, m.Look)[0]), fail=False, happens=True)
    after = status_of(h.state)
    assert (after.phase, after.reason, after.message) == (before.phase, before.reason, before.message)
    assert after.containers[0].retry_at_ms == before.containers[0].retry_at_ms
