"""Seeds of the whole control plane under faults; `make sim SEEDS=n` runs more of them."""

import os
import subprocess
import sys

import pytest

from cloudless.agent.runtime.base import ContainerState
from cloudless.testing.sim import checks
from cloudless.testing.sim.scenario import run_seed

SEEDS = int(os.environ.get("SIM_SEEDS", "30"))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_the_fabric_keeps_its_promises_and_comes_right(seed):
    outcome = run_seed(seed)
    assert outcome.entries > 40, "nothing much happened: the run proves nothing"
    assert outcome.faults > 5


def _history(seed: int, hash_seed: str) -> str:
    program = f"from cloudless.testing.sim.scenario import run_seed; print(run_seed({seed}))"
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


class _Agent:
    def __init__(self, name, state):
        class View:
            view = type("V", (), {"state": state})

        self.name = name
        sandbox = type("S", (), {"containers": {"main": View}})
        self.device = type("D", (), {"sandboxes": {"web-1": sandbox}})


def test_the_check_for_second_copies_can_fail():
    def world(second):
        return type("W", (), {"agents": [_Agent("a", ContainerState.RUNNING), _Agent("b", second)]})

    checks.no_second_copy(world(ContainerState.EXITED))
    with pytest.raises(AssertionError, match="web-1 runs on a and on b"):
        checks.no_second_copy(world(ContainerState.RUNNING))
