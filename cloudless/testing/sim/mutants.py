"""Known mistakes in the rules of rollouts, drains, reconnects, leases, preemption and runs, put into the code in
memory, to show that the simulation would find them: `python -m cloudless.testing.sim.mutants` says what finds each.

A mutant is the source of one function with some text exchanged (see `cloudless.testing.sim_raft.mutants`), or constants
of modules with other values, where two places hold the same rule.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from cloudless.core.replacing import replace
from cloudless.testing.sim.profile import Profile
from cloudless.testing.sim.scenario import SimulationFailed, run_seed
from cloudless.testing.sim_raft import mutants as texts

# One coordinator, so that nothing but the rules is at work, and no faults but those that a rule is about.
CALM: Final = Profile(
    coordinators=1,
    agents=5,
    safety_s=14.0,
    faults=(("exit_containers", 1.0),),
    pause_s=2.0,
    think_s=0.25,
    begins_ms=52_000,
    heartbeat_ms=500,
    election_ms=2_000,
    snapshot_entries=400,
)


def _with(**changes: Any) -> Profile:
    return replace(CALM, **changes)


_DRAINS: Final = _with(faults=(("drain", 2.0), ("battery", 1.0)), pause_s=1.0)
_AWAY: Final = _with(faults=(("cut_agent", 2.0), ("flap", 1.0)), pause_s=0.7, safety_s=16.0)
_TIGHT: Final = _with(cpu_millis=1_000, asked_millis=(300, 600), agents=4)
_OFFLINE: Final = _with(
    faults=(("cut_agent", 1.0), ("reboot_offline", 3.0)), pause_s=2.0, safety_s=45.0, lease_ms=10_000, think_s=1.0
)
_OWNERS: Final = _with(faults=(("battery", 2.0), ("cut_agent", 3.0)), pause_s=0.5, safety_s=25.0)


@dataclass(frozen=True, slots=True)
class Mutant:
    """`function`, `edits`: as in `sim_raft.mutants`; `constants`: module, name, value, below `cloudless.`. `found`: a
    part of what the check says that finds it. `first`: the seed to begin with."""

    name: str
    found: str
    function: str = ""
    edits: tuple[tuple[str, str], ...] = ()
    constants: tuple[tuple[str, str, Any], ...] = ()
    profile: Profile = CALM
    first: int = 0


_SERVICE: Final = "coordinator.core.reconcile.service:"
_RETIRING: Final = "coordinator.core.reconcile.retiring:"
_TARGETS: Final = "coordinator.core.reconcile.targets:"

MUTANTS: Final = (
    Mutant(
        "the floor is ignored where old replicas are retired",
        "ready replicas, and",
        _RETIRING + "retire",
        (("may_lose(replica, floor=aim.floor)", "may_lose(replica, floor=0)"),),
        first=1,
    ),
    Mutant(
        "one more than the surge",
        "replicas stay, of",
        _TARGETS + "targets",
        (("    total = desired + surge\n", "    total = desired + surge + 1\n"),),
    ),
    Mutant(
        "a canary's weight is ignored",
        "replicas are new at a step of",
        _TARGETS + "targets",
        (("new = weighed(step, desired)", "new = desired"),),
    ),
    Mutant(
        "a pause is ignored",
        "paused",
        _TARGETS + "targets",
        (("    if course.holds:\n", "    if course.holds and not desired:\n"),),
        first=1,
    ),
    Mutant(
        "a rollback goes to the version that failed",
        "is not the stable one",
        "coordinator.core.apply_rollouts:roll_back",
        (("stable = rollouts.stable_revision(record, progress)", "stable = record.history[-1]"),),
    ),
    Mutant(
        "system workloads are replaced everywhere at once",
        "ready, and",
        "coordinator.core.reconcile.system:_replace_outdated",
        (("if serving <= floor:", "if serving < 0:"),),
        first=1,
    ),
    Mutant(
        "a drain does not wait for replacements",
        "ready replicas, and",
        _RETIRING + "release",
        (("floor=floor if waits else min(floor, least)", "floor=min(floor, least)"),),
        profile=_DRAINS,
        first=1,
    ),
    Mutant(
        "both copies are kept when a node returns",
        "not after",
        _SERVICE + "plan_service",
        (("    if missing < 0:\n", "    if missing < -1000:\n"),),
        profile=_AWAY,
        first=8,
    ),
    Mutant(
        "leases end a minute late",
        "after a coordinator's last word",
        "agent.core.tenure:expired",
        (("now_ms >= ends_at_ms(lease, assignment)", "now_ms >= ends_at_ms(lease, assignment) + 60_000"),),
        profile=_OFFLINE,
        first=1,
    ),
    Mutant(
        "a device goes on when nothing may run",
        "wants it to run nothing",
        "agent.owner_rules:OwnerRules.apply",
        (('reason = verdict.reason if verdict.evicting else ""', 'reason = ""'),),
        profile=_OWNERS,
    ),
    Mutant(
        "equal priorities make room for each other",
        "makes room for",
        constants=(
            ("coordinator.core.scheduler.preemption", "PRIORITY_GAP", 0),
            ("coordinator.core.reconcile.draft", "PRIORITY_GAP", 0),
            ("coordinator.core.apply_plan", "PRIORITY_GAP", 0),
        ),
        profile=_TIGHT,
    ),
    Mutant(
        "room is not looked at again when a plan is applied",
        "are reserved than it has",
        "coordinator.core.apply_plan:_obstacle",
        (("        if over:\n", "        if over and not node:\n"),),
        profile=_TIGHT,
    ),
    Mutant(
        "what was due is forgotten",
        "has two runs",
        "coordinator.core.apply_runs:take_runs",
        (("max(record.scheduled_until_ms, command.scheduled_until_ms)", "record.scheduled_until_ms"),),
    ),
    Mutant(
        "successes count twice",
        "replicas reported one",
        "coordinator.core.runs:tally",
        (("return run.succeeded + succeeded,", "return run.succeeded + 2 * succeeded,"),),
    ),
    Mutant(
        "what runs already is no part of the parallelism",
        "may run",
        "coordinator.core.reconcile.jobs:_Runs._place",
        (("free = wanted - held - still", "free = wanted - still"),),
    ),
)


@contextmanager
def applied(mutant: Mutant) -> Iterator[None]:
    with ExitStack() as stack:
        if mutant.function:
            stack.enter_context(texts.applied(texts.Mutant(mutant.name, mutant.function, mutant.edits)))
        for path, name, value in mutant.constants:
            stack.enter_context(_exchanged(importlib.import_module(f"cloudless.{path}"), name, value))
        yield


@contextmanager
def _exchanged(module: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def hunt(mutant: Mutant, *, seeds_max: int) -> tuple[int, str]:
    """Runs seeds until one fails; returns that one, and what the check said. An empty text: none failed."""
    with applied(mutant):
        for seed in range(mutant.first, mutant.first + seeds_max):
            try:
                run_seed(seed, profile=mutant.profile)
            except SimulationFailed as error:
                return seed, str(error)
    return -1, ""


def main() -> int:
    """How many seeds each takes, for those whose name has the first argument in it."""
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    missed = 0
    for mutant in MUTANTS:
        if wanted not in mutant.name:
            continue
        began = time.process_time()
        _, text = hunt(mutant, seeds_max=20)
        missed += mutant.found not in text or not text
        print(f"{mutant.name}: {time.process_time() - began:.1f} s: {text[:200] or 'MISSED'}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
