"""Runs seeds: `python -m cloudless.testing.sim_raft --seeds 2000 --jobs 2`, or one again: `--seed 7 -v`."""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from cloudless.testing.sim_raft.scenario import Outcome, run_clean, run_seed

_SHOWN = (
    "elections",
    "restarts",
    "power cut in a write",
    "installs",
    "truncations",
    "configurations",
    "members added",
    "members removed",
    "disks lost",
    "quorum lost with its disks",
    "reads",
    "writes acknowledged",
    "writes unknown",
    "writes refused",
    "histories",
    "histories undecided",
    "faults",
)


def main() -> int:
    parser = argparse.ArgumentParser("sim_raft", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many seeds, from --from on")
    parser.add_argument("--from", type=int, default=0, dest="first")
    parser.add_argument("--seed", type=int, help="this one seed, twice: both histories must be equal")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--keep-going", action="store_true", help="do not end at the first seed that fails")
    parser.add_argument("--all", action="store_true", help="print every count")
    parser.add_argument("-v", "--verbose", action="store_true", help="with --seed: print what happens")
    options = parser.parse_args()
    if options.seed is not None:
        return _one(options.seed, verbose=options.verbose)
    began = time.monotonic()
    counts: Counter[str] = Counter()
    done, virtual_s, failed = 0, 0.0, 0
    with _outcomes(range(options.first, options.first + options.seeds), options.jobs) as outcomes:
        for outcome in outcomes:
            done += 1
            virtual_s += outcome.virtual_s
            counts.update(outcome.counts)
            if outcome.violation:
                failed += 1
                _report(outcome)
                if not options.keep_going:
                    break
            if done % 1000 == 0:
                print(f"{done:,} seeds, {done / (time.monotonic() - began):.1f}/s, {failed} failed", flush=True)
    took_s = time.monotonic() - began
    shown = sorted(counts) if options.all else _SHOWN
    print("\n".join(f"{counts[name]:>10,} {name}" for name in shown))
    print(
        f"{done} seeds, {virtual_s / 3600:.1f} simulated hours in {took_s:.1f} s, {done / took_s:.1f} seeds/s: ", end=""
    )
    print(f"{failed} failed" if failed else "all held")
    return 1 if failed else 0


def _one(seed: int, *, verbose: bool) -> int:
    outcomes = [run_seed(seed, trace=print if verbose else None), run_seed(seed)]
    for name, count in sorted(outcomes[0].counts.items()):
        print(f"{count:>10,} {name}")
    print(f"seed {seed}: digest {outcomes[0].digest:08x}, {outcomes[0].virtual_s:.1f} simulated s")
    if outcomes[0].violation:
        _report(outcomes[0])
        return 1
    if outcomes[0] != outcomes[1]:
        print("FAILED: the same seed gave two histories", file=sys.stderr)
        return 1
    return 0


def _report(outcome: Outcome) -> None:
    print(f"FAILED seed {outcome.seed}: {outcome.violation}", file=sys.stderr)
    print(f"  again: python -m cloudless.testing.sim_raft --seed {outcome.seed} -v", file=sys.stderr, flush=True)


@contextmanager
def _outcomes(seeds: range, jobs: int) -> Iterator[Iterator[Outcome]]:
    """In the order of the seeds."""
    jobs = min(jobs, os.cpu_count() or 1)
    gc.freeze()
    if jobs <= 1:
        yield (run_clean(seed) for seed in seeds)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield pool.imap(run_clean, seeds, chunksize=5)


if __name__ == "__main__":
    sys.exit(main())
