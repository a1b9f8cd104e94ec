"""The simulation finds mistakes in the rules of the lifecycle: each of these is put in, and caught by the check that is
about it; the same seed holds without the mistake."""

from __future__ import annotations

import pytest

from cloudless.testing.sim.mutants import MUTANTS, Mutant, hunt
from cloudless.testing.sim.scenario import run_seed

SEEDS_MAX = 12


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_a_mistake_is_caught(mutant: Mutant) -> None:
    seed, text = hunt(mutant, seeds_max=SEEDS_MAX)
    assert mutant.found in text, f"not caught within {SEEDS_MAX} seeds: {text}"
    run_seed(seed, profile=mutant.profile)
