"""The replica's step against a world that fails at random: nothing runs twice, numbers grow, all converges."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudless.agent.core import model as m
from cloudless.agent.runtime.base import ContainerState
from cloudless.core.model import Assignment, ReplicaPhase
from cloudless.core.spec import (
    Container,
    ExecProbe,
    PreStop,
    Probe,
    RestartPolicy,
    RestartPolicyKind,
    Termination,
    WorkloadSpec,
)
from cloudless.testing.replica_world import Harness

EXEC = ExecProbe(command=("true",))


containers = st.builds(
    lambda index, startup, liveness, readiness: Container(
        name=f"c{index}",
        image="i",
        startup_probe=Probe(exec=EXEC, period_ms=1_000, failure_threshold=2) if startup else None,
        liveness_probe=Probe(exec=EXEC, period_ms=1_000, failure_threshold=2) if liveness else None,
        readiness_probe=Probe(exec=EXEC, initial_delay_ms=500) if readiness else None,
    ),
    st.integers(0, 9),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
assignments = st.builds(
    lambda found, policy, retries, pre_stop: Assignment(
        "r",
        "w",
        "d",
        1,
        WorkloadSpec(
            containers=tuple({c.name: c for c in found}.values()),
            restart_policy=RestartPolicy(policy=policy, max_retries=retries),
            termination=Termination(grace_period_ms=5_000, pre_stop=pre_stop),
        ),
    ),
    st.lists(containers, min_size=1, max_size=2),
    st.sampled_from(RestartPolicyKind),
    st.sampled_from([0, 0, 2]),
    st.sampled_from([None, PreStop(exec=EXEC), PreStop(sleep_ms=2_000)]),
)
ACTIONS = [
    "answer",
    "answer",
    "answer",
    "fail",
    "half",
    "exit",
    "oom",
    "exit0",
    "crash",
    "time",
    "hint",
    "probe",
    "boot",
    "hold",
    "release",
    "evict",
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(assignment=assignments, data=st.data(), stop=st.booleans())
def test_nothing_runs_twice_and_all_converges(assignment: Assignment, data, stop: bool) -> None:
    h = Harness(assignment, jitter=lambda: data.draw(st.sampled_from([0.0, 0.9])))
    for _ in range(data.draw(st.integers(0, 40))):
        action = data.draw(st.sampled_from(ACTIONS))
        names = sorted(h.world.containers)
        match action:
            case "answer" | "fail" | "half" | "probe" if h.pending:
                index = data.draw(st.integers(0, len(h.pending) - 1))
                h.answer(index, fail=action in ("fail", "half"), happens=action == "half", ok=action != "probe")
            case "exit" | "oom" | "exit0" if names:
                name = data.draw(st.sampled_from(names))
                h.world.exit(name, 0 if action == "exit0" else 1, oom=action == "oom", wall_ms=h.now_ms)
                h.post(m.SomethingChanged())
            case "crash":
                h.boot()
            case "boot":  # the device restarts: all that ran is dead, its records perhaps gone too
                for name in names:
                    h.world.exit(name, 137, wall_ms=h.now_ms)
                if data.draw(st.booleans()):
                    h.world.lose_records(h.facts)
                h.boot()
            case "time":
                h.now_ms += data.draw(st.sampled_from([1, 1_000, 60_000, 700_000]))
                h.post(m.TimerFired())
            case "hold":
                h.post(m.Held("OwnerTerms", ""))
            case "evict" if data.draw(st.integers(0, 9)) == 0:
                h.post(m.Evicted("Evicted", ""))
            case "release":
                h.post(m.Released())
            case "hint":
                h.post(m.SomethingChanged())
            case _:
                pass
    h.post(m.Released())
    in_flight = {e.container for e in h.pending if isinstance(e, m.StartContainer)}
    attempts_before = {name: runs[-1] for name, runs in h.world.runs.items()}
    terminal = h.state.phase in (ReplicaPhase.SUCCEEDED, ReplicaPhase.FAILED)
    if stop:
        h.assigned = replace(assignment, stopping=True, stop_reason="ScaledDown")
        h.post(m.AssignmentChanged(h.assigned))
        h.settle()
        assert h.gone
        assert not h.world.exists
        return
    h.settle()
    if any(track.evicted_reason for track in h.state.containers):
        assert h.state.phase is ReplicaPhase.FAILED
        assert h.state.reason == "Evicted" or terminal
        assert not any(v.state is ContainerState.RUNNING for v in h.world.containers.values())
    elif (
        assignment.spec.restart_policy.policy is RestartPolicyKind.ALWAYS
        and not assignment.spec.restart_policy.max_retries
    ):
        assert h.state.phase is ReplicaPhase.READY
        assert all(v.state is ContainerState.RUNNING for v in h.world.containers.values())
        assert len(h.world.containers) == len(assignment.spec.containers)
    else:
        assert h.state.phase in (ReplicaPhase.READY, ReplicaPhase.RUNNING, ReplicaPhase.SUCCEEDED, ReplicaPhase.FAILED)
    if terminal:
        after = {name: runs[-1] for name, runs in h.world.runs.items() if name not in in_flight}
        assert after == {name: last for name, last in attempts_before.items() if name not in in_flight}
