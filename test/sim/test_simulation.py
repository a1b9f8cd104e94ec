"""Seeds of the whole control plane under faults; `make sim SEEDS=n` runs more of them. What the checks are worth is
shown by mistakes that they find."""

import dataclasses
import os
import subprocess
import sys
from collections import Counter

import pytest

from cloudless.agent.runtime.base import ContainerState
from cloudless.coordinator import agent_session, leases, loops
from cloudless.testing.sim import checks
from cloudless.testing.sim.profile import Profile
from cloudless.testing.sim.scenario import SimulationFailed, run_seed

SEEDS = int(os.environ.get("SIM_SEEDS", "200"))
CHUNK = 20  # of seeds in one test, so that workers share them

# What has to have happened in the seeds of each chunk together, or they prove nothing.
_HAPPENED = ("ApplyPlan", "ControlRollout", "StartRun", "UpdateNode", "preempted", "terms")


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_the_fabric_keeps_its_promises_and_comes_right(first):
    counts: Counter[str] = Counter()
    for seed in range(first, min(first + CHUNK, SEEDS)):
        outcome = run_seed(seed)
        counts.update(dict(outcome.counts))
        counts["faults"] += outcome.faults
    assert not [name for name in _HAPPENED if not counts[name]], counts
    assert counts["faults"] > 5 * CHUNK


def _history(seed: int, hash_seed: str) -> str:
    program = (
        "from cloudless.testing.sim.scenario import run_seed; "
        f"print(run_seed({seed}, coordinators=1), run_seed({seed}, coordinators=3))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_a_seed_is_a_history_whatever_the_hash_seed():
    assert _history(1001, "1") == _history(1001, "4242")


# Coordinators that lag behind, and agents that go from one to another.
LAGGING = Profile(
    agents=6,
    safety_s=14.0,
    faults=(
        ("one_way_members", 2.0),
        ("isolate", 2.0),
        ("freeze", 2.0),
        ("cut_agent_from_some", 3.0),
        ("restart_agent", 3.0),
        ("slow_disk", 2.0),
    ),
    pause_s=0.5,
    heartbeat_ms=250,
    election_ms=1_000,
    think_s=0.3,
    snapshot_entries=400,
)


def _found(seeds, profile=None):
    """What the first seed that finds something says."""
    for seed in seeds:
        try:
            run_seed(seed, profile=profile, coordinators=3)
        except SimulationFailed as error:
            return str(error)
    return "nothing"


def test_plans_that_do_not_name_their_term_are_found(monkeypatch):
    begin = loops._Term.__init__

    def forgetful(term, owner):
        begin(term, owner)
        term._number = None

    monkeypatch.setattr(loops._Term, "__init__", forgetful)
    assert "without a term" in _found(range(3))


def test_assignments_of_a_coordinator_that_lags_behind_are_found(monkeypatch):
    async def at_once(session):
        session._current.set()
        session._write_due.set()

    monkeypatch.setattr(agent_session.AgentSession, "_catch_up", at_once)
    assert "went back from revision" in _found(range(6, 40), LAGGING)


def test_nodes_that_are_given_up_at_the_first_break_are_found(monkeypatch):
    begin = leases.Leases.__init__

    def impatient(self, *arguments, **named):
        begin(self, *arguments, **named)
        for terms in ("_here", "_elsewhere"):
            setattr(self, terms, dataclasses.replace(getattr(self, terms), break_grace_ms=0))

    monkeypatch.setattr(leases.Leases, "__init__", impatient)
    assert "was judged Unreachable (its connection broke)" in _found(range(100, 110))


class _Agent:
    def __init__(self, name, state):
        class View:
            view = type("V", (), {"state": state})

        self.name = self.identity = name
        sandbox = type("S", (), {"containers": {"main": View}})
        self.device = type("D", (), {"sandboxes": {"web-1": sandbox}})


def test_the_check_for_second_copies_can_fail():
    def world(second):
        agents = [_Agent("a", ContainerState.RUNNING), _Agent("b", second)]
        return type("W", (), {"devices": staticmethod(lambda: agents)})

    checks.no_second_copy(world(ContainerState.EXITED))
    with pytest.raises(AssertionError, match="web-1 runs on a and on b"):
        checks.no_second_copy(world(ContainerState.RUNNING))
