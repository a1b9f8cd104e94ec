"""Runs seeds: `python -m cloudless.testing.sim --seeds 20`, or one again: `--seed 7 -v`."""

from __future__ import annotations

import argparse
import gc
import sys
import time

from cloudless.testing.sim.scenario import Outcome, SimulationFailed, run_seed


def main() -> int:
    parser = argparse.ArgumentParser("sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="how many seeds, from --first on")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, help="this one seed, twice: both histories must be equal")
    parser.add_argument("--coordinators", type=int, default=0, help="so many, whatever the seeds say")
    parser.add_argument("--keep-going", action="store_true", help="do not end at the first seed that fails")
    parser.add_argument("-v", "--verbose", action="store_true", help="with --seed: print what happens")
    options = parser.parse_args()
    began = time.monotonic()
    seeds = range(options.first, options.first + options.seeds)
    if options.seed is not None:
        seeds = range(options.seed, options.seed + 1)
    outcomes: list[Outcome] = []
    failed = 0
    for seed in seeds:
        try:
            outcomes += _run(seed, options)
        except SimulationFailed as error:
            failed += 1
            print(f"FAILED {error}", file=sys.stderr, flush=True)
            if not options.keep_going:
                return 1
    virtual_s = sum(outcome.virtual_s for outcome in outcomes)
    entries, faults = sum(o.entries for o in outcomes), sum(o.faults for o in outcomes)
    print(
        f"{len(outcomes)} runs, {virtual_s / 3600:.1f} simulated hours in {time.monotonic() - began:.0f} s, "
        f"{entries:,} entries, {faults:,} faults: {f'{failed} failed' if failed else 'all held'}"
    )
    return 1 if failed else 0


def _run(seed: int, options: argparse.Namespace) -> list[Outcome]:
    outcome = run_seed(seed, coordinators=options.coordinators, trace=print if options.verbose else None)
    gc.collect()
    print(
        f"seed {seed}: history {outcome.history}, {outcome.coordinators} coordinators, {outcome.entries} entries, "
        f"{outcome.faults} faults, {outcome.virtual_s:.0f} s",
        flush=True,
    )
    if options.seed is None:
        return [outcome]
    again = run_seed(seed, coordinators=options.coordinators)
    if again != outcome:
        raise SimulationFailed(f"seed {seed} gave two histories")
    return [outcome, again]


if __name__ == "__main__":
    sys.exit(main())
