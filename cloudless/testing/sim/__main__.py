"""Runs seeds: `python -m cloudless.testing.sim --seeds 20`, or one again: `--seed 7`."""

from __future__ import annotations

import argparse
import sys
import time

from cloudless.testing.sim.scenario import SimulationFailed, run_seed


def main() -> int:
    parser = argparse.ArgumentParser("sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="how many seeds, from --first on")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, help="this one seed, twice: both histories must be equal")
    parser.add_argument("--agents", type=int, default=20)
    options = parser.parse_args()
    if options.seed is not None:
        seeds = [options.seed, options.seed]
    else:
        seeds = list(range(options.first, options.first + options.seeds))
    began = time.monotonic()
    outcomes = []
    for seed in seeds:
        try:
            outcome = run_seed(seed, agents=options.agents)
        except SimulationFailed as error:
            print(f"FAILED {error}", file=sys.stderr)
            return 1
        outcomes.append(outcome)
        print(
            f"seed {seed}: history {outcome.history}, {outcome.entries} entries, {outcome.faults} faults, "
            f"{outcome.virtual_s:.0f} s",
            flush=True,
        )
    if options.seed is not None and outcomes[0] != outcomes[1]:
        print("FAILED: the same seed gave two histories", file=sys.stderr)
        return 1
    virtual_s = sum(outcome.virtual_s for outcome in outcomes)
    print(
        f"{len(outcomes)} seeds, {virtual_s / 3600:.1f} simulated hours in {time.monotonic() - began:.0f} s: all held"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
