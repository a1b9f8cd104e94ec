"""The simulation finds mistakes: each of these is put into the core, the engine or the log, and caught.

The same seed passes without the mistake. `python -m cloudless.testing.sim_raft.mutants` says how many seeds each took.
"""

from __future__ import annotations

import pytest

from cloudless.testing.sim_raft.mutants import MUTANTS, Mutant, applied, hunt
from cloudless.testing.sim_raft.scenario import run_seed

SEEDS_MAX = 200


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mistake_is_caught(mutant: Mutant) -> None:
    took, outcome = hunt(mutant, seeds_max=SEEDS_MAX)
    assert outcome is not None, f"not caught within {SEEDS_MAX} seeds"
    print(f"caught at seed {took}: {outcome.violation[:200]}")
    assert not run_seed(outcome.seed, profile=mutant.profile).violation


def test_a_mutant_that_no_longer_fits_the_code_is_an_error() -> None:
    mutant = Mutant("none", "coordinator.raft.core.commit:advance_leader", (("no such text", ""),))
    with pytest.raises(LookupError, match="no such text"), applied(mutant):
        pass
