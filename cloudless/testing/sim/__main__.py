"""Runs seeds: `python -m cloudless.testing.sim --seeds 200 --jobs 2`, or one again: `--seed 7 -v`."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from cloudless.testing.sim.scenario import Outcome, SimulationFailed, result_of, run_seed

_REPORT_EVERY: Final = 100  # seeds

# A seed and what came of it; the error's text where a check did not hold.
Result = tuple[int, Outcome | None, str]


def main() -> int:
    parser = argparse.ArgumentParser("sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="how many seeds, from --first on")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, help="this one seed, twice: both histories must be equal")
    parser.add_argument("--coordinators", type=int, default=0, help="so many, whatever the seeds say")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the seeds")
    parser.add_argument("--keep-going", action="store_true", help="do not end at the first seed that fails")
    parser.add_argument("-v", "--verbose", action="store_true", help="with --seed: print what happens")
    options = parser.parse_args()
    if options.seed is not None:
        return _one(options.seed, coordinators=options.coordinators, verbose=options.verbose)
    began = time.monotonic()
    counts: Counter[str] = Counter()
    failed: list[int] = []
    virtual_s, done = 0.0, 0
    work = [(seed, options.coordinators) for seed in range(options.first, options.first + options.seeds)]
    with _results(work, options.jobs) as results:
        for seed, outcome, error in results:
            done += 1
            if outcome is None:
                failed.append(seed)
                print(f"FAILED {error}", file=sys.stderr, flush=True)
                if not options.keep_going:
                    break
            else:
                virtual_s += outcome.virtual_s
                counts.update(dict(outcome.counts) | {"entries": outcome.entries, "faults": outcome.faults})
            if done % _REPORT_EVERY == 0:
                print(f"{done:,} seeds, {done / (time.monotonic() - began):.2f}/s, {len(failed)} failed", flush=True)
    took_s = time.monotonic() - began
    print("\n".join(f"{count:>10,} {name}" for name, count in sorted(counts.items())))
    print(
        f"{done} seeds, {virtual_s / 3600:.1f} simulated hours in {took_s:.0f} s, {done / took_s:.2f} seeds/s: "
        + (f"failed: {', '.join(map(str, failed))}" if failed else "all held")
    )
    return 1 if failed else 0


def _one(seed: int, *, coordinators: int, verbose: bool) -> int:
    try:
        outcome = run_seed(seed, coordinators=coordinators, trace=print if verbose else None)
        again = run_seed(seed, coordinators=coordinators)
    except SimulationFailed as error:
        print(f"FAILED {error}", file=sys.stderr)
        return 1
    print("\n".join(f"{count:>10,} {name}" for name, count in outcome.counts))
    print(
        f"seed {seed}: history {outcome.history}, {outcome.coordinators} coordinators, {outcome.entries} entries, "
        f"{outcome.faults} faults, {outcome.virtual_s:.0f} s"
    )
    if again != outcome:
        print(f"FAILED seed {seed} gave two histories", file=sys.stderr)
        return 1
    return 0


@contextmanager
def _results(work: list[tuple[int, int]], jobs: int) -> Iterator[Iterator[Result]]:
    """In the order of the seeds."""
    jobs = min(jobs, os.cpu_count() or 1)
    if jobs <= 1:
        yield map(result_of, work)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield pool.imap(result_of, work, chunksize=2)


if __name__ == "__main__":
    sys.exit(main())
