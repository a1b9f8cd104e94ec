"""Known mistakes, put into the core, the engine or the log in memory, to show that the simulation would find them.

A mutant replaces the code of one function by its source with some text exchanged; whoever imported the function runs
the mutated one. A text that is not found exactly once is an error: the mutant has to follow the code.
"""

from __future__ import annotations
import __future__

import importlib
import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from cloudless.testing.sim_raft.profile import Profile
from cloudless.testing.sim_raft.scenario import Outcome, run_seed


@dataclass(frozen=True, slots=True)
class Mutant:
    """`function`: module:name or module:class.name, below `cloudless.`. `edits`: texts and what takes their place.
    `profile`: where it shows soon; None: as drawn from the seed."""

    name: str
    function: str
    edits: tuple[tuple[str, str], ...]
    profile: Profile | None = None


@contextmanager
def applied(mutant: Mutant) -> Iterator[None]:
    function = _find(mutant.function)
    original = function.__code__
    function.__code__ = _mutated(function, mutant)
    try:
        yield
    finally:
        function.__code__ = original


def hunt(mutant: Mutant, *, seeds_max: int) -> tuple[int, Outcome | None]:
    """Runs seeds until one fails; returns how many it took, and that one's outcome."""
    with applied(mutant):
        for seed in range(seeds_max):
            outcome = run_seed(seed, profile=mutant.profile)
            if outcome.violation:
                return seed + 1, outcome
    return seeds_max, None


def _find(name: str) -> FunctionType:
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(f"cloudless.{module}")
    for part in path.split("."):
        found = inspect.getattr_static(found, part)
    found = getattr(found, "__func__", found)
    assert isinstance(found, FunctionType), f"{name} is no function"
    return found


def _mutated(function: FunctionType, mutant: Mutant) -> Any:
    source = textwrap.dedent(inspect.getsource(function))
    for old, new in mutant.edits:
        if source.count(old) != 1:
            raise LookupError(f"mutant {mutant.name!r}: {old!r} is {source.count(old)} times in {mutant.function}")
        source = source.replace(old, new)
    flags = __future__.annotations.compiler_flag
    code = compile(source, f"<mutant {mutant.name}>", "exec", flags=flags, dont_inherit=True)
    made: dict[str, Any] = {}
    exec(code, function.__globals__, made)  # noqa: S102 - the mutated source is the project's own
    replacement = made[function.__name__]
    assert replacement.__code__.co_freevars == function.__code__.co_freevars
    return replacement.__code__


# Where one kind of mistake shows soon.
QUARREL = Profile(
    members=5,
    safety_s=6.0,
    faults=(
        ("isolate_leader", 3.0),
        ("halves", 2.0),
        ("one_way", 2.0),
        ("power_off", 2.0),
        ("crash", 2.0),
        ("lossy", 2.0),
        ("crash_all", 0.5),
    ),
    pause_s=0.15,
    think_s=0.1,
    bursts=0.2,
    heartbeat_ms=50,
    election_ms=150,
    delay_max_s=0.02,
    loss=0.1,
)
DISORDER = Profile(
    safety_s=5.0,
    faults=(("lossy", 3.0), ("slow_link", 1.0)),
    pause_s=0.3,
    clients=4,
    think_s=0.05,
    bursts=0.2,
    reorder=0.3,
    duplicate=0.2,
    late=0.05,
    delay_max_s=0.02,
)
READERS = Profile(
    safety_s=4.0,
    faults=(("slow_link", 3.0), ("isolate_leader", 1.0)),
    pause_s=0.5,
    clients=8,
    think_s=0.03,
    reads=0.5,
    bursts=0.0,
    keys=1,
    delay_max_s=0.03,
)
CHANGES = Profile(
    safety_s=6.0,
    faults=(("add", 3.0), ("remove", 3.0), ("transfer", 2.0), ("isolate_leader", 2.0), ("crash", 1.0)),
    pause_s=0.15,
    clients=1,
    think_s=0.5,
    heartbeat_ms=50,
    election_ms=150,
    delay_max_s=0.03,
    loss=0.05,
)

_ELECTION = "coordinator.raft.core.election"
_FOLLOWING = "coordinator.raft.core.following"
_COMMIT = "coordinator.raft.core.commit"

MUTANTS = (
    Mutant(
        "a vote leaves before it is on the disk",
        f"{_ELECTION}:request_vote",
        (("after=step.hard_by if granted and not step.hard_durable else 0", "after=0"),),
    ),
    Mutant(
        "the own vote counts before it is on the disk",
        f"{_ELECTION}:campaign",
        (("step.votes = ()", "step.votes = (step.id,)"), ("after=step.hard_by", "after=0")),
    ),
    Mutant(
        "two votes in a term",
        f"{_ELECTION}:request_vote",
        (
            ('granted = up_to_date and step.vote in ("", sender) and', "granted = up_to_date and"),
            (
                "        if step.vote != sender:\n            step.remember(term, sender)\n",
                "        step.vote = sender\n",
            ),
        ),
    ),
    Mutant(
        "a vote for whoever asks, however old the log",
        f"{_ELECTION}:request_vote",
        (("(message.last_term, message.last_index) >= (log.last_term, log.last_index)", "True"),),
    ),
    Mutant(
        "half of the votes make a leader",
        "coordinator.raft.core.draft:Step.majority",
        (("count > len(self.voters) // 2", "count >= len(self.voters) // 2"),),
    ),
    Mutant(
        "entries of earlier terms are committed by counting",
        f"{_COMMIT}:advance_leader",
        (("index <= before or index < step.term_start", "index <= before"),),
        QUARREL,
    ),
    Mutant(
        "half of the members commit",
        f"{_COMMIT}:advance_leader",
        (("matches[(len(matches) - 1) // 2]", "matches[min(len(matches) - 1, (len(matches) + 1) // 2)]"),),
    ),
    Mutant(
        "the leader counts what is not on its disk yet",
        f"{_COMMIT}:advance_leader",
        (("matches.append(step.durable_index)", "matches.append(step.log.last_index)"),),
    ),
    Mutant(
        "a follower commits what the leader says, whether its log agrees or not",
        f"{_COMMIT}:advance_follower",
        (
            (
                "min(step.leader_commit, step.verified_index, step.durable_index)",
                "min(step.leader_commit, step.log.last_index)",
            ),
        ),
    ),
    Mutant(
        "entries are acknowledged before they are on the disk",
        f"{_FOLLOWING}:append_entries",
        ((", after=step.written)", ")"),),
    ),
    Mutant(
        "a heartbeat acknowledges a tail that was never compared",
        f"{_FOLLOWING}:append_entries",
        (("min(verified, step.durable_index)", "step.durable_index"),),
        QUARREL,
    ),
    Mutant(
        "entries are appended whatever comes before them",
        f"{_FOLLOWING}:append_entries",
        (
            (
                "previous > log.base_index and log.term_at(previous) != message.previous_term",
                "previous > log.last_index",
            ),
        ),
        QUARREL,
    ),
    Mutant(
        "the log is cut where nothing conflicts",
        f"{_FOLLOWING}:_append",
        (
            ("skip = _present(step, entries) if previous < step.log.last_index else 0", "skip = 0"),
            ("    if first <= step.commit_index:\n        return False\n", ""),
        ),
    ),
    Mutant(
        "the log is cut behind entries that are there, although they agree",
        f"{_FOLLOWING}:_append",
        (
            (
                "    if skip == len(entries):\n",
                "    if skip == len(entries) and step.commit_index <= index < step.log.last_index:\n"
                "        step.truncate(index + 1)\n"
                "    if skip == len(entries):\n",
            ),
        ),
        DISORDER,
    ),
    Mutant(
        "what was on the disk before the log was cut still counts",
        "coordinator.raft.core.draft:Step.truncate",
        (("    self.durable_index = min(self.durable_index, from_index - 1)\n", ""),),
        QUARREL,
    ),
    Mutant(
        "a read without asking whether it still leads",
        "coordinator.raft.core.reads:_ask",
        (
            (
                "    if not reads.round and step.commit_index >= step.term_start:\n        begin_round(step)",
                "    step.reads = reads\n    _answer(step, pending, step.commit_index)",
            ),
        ),
        READERS,
    ),
    Mutant(
        "a new leader answers reads before it knows what is committed",
        "coordinator.raft.core.reads:_ask",
        (("not reads.round and step.commit_index >= step.term_start", "not reads.round"),),
    ),
    Mutant(
        "reads join the round that is under way",
        "coordinator.raft.core.reads:_ask",
        (
            (
                "Reads(reads.round, reads.index, reads.asked, (*reads.waiting, pending))",
                "Reads(reads.round, reads.index, (*reads.asked, pending), reads.waiting) if reads.round else "
                "Reads(reads.round, reads.index, reads.asked, (*reads.waiting, pending))",
            ),
        ),
        READERS,
    ),
    Mutant(
        "members change while a change is under way",
        "coordinator.raft.core.membership:_free",
        (("step.configuration.index > step.commit_index or step.commit_index < step.term_start", "False"),),
        CHANGES,
    ),
    Mutant(
        "members change before the term's first entry is committed",
        "coordinator.raft.core.membership:_free",
        ((" or step.commit_index < step.term_start", ""),),
        CHANGES,
    ),
    Mutant(
        "a snapshot drops a log that agrees with it, and keeps one that does not",
        "coordinator.raft.core.snapshots:snapshot_installed",
        (("if not keep_log:", "if keep_log:"),),
    ),
    Mutant(
        "a snapshot leaves the log as it is",
        "coordinator.wal.storage:Storage.follow",
        (("kept = self.wal.follow(index, term)", "kept = True"),),
    ),
    Mutant(
        "the log is not synced",
        "coordinator.wal.log:Log.sync",
        (("        self._file.sync()\n", "        pass\n"),),
    ),
    Mutant(
        "term and vote are not written",
        "coordinator.raft.writer:Writer._append",
        (("hard_state=write.hard_state", "hard_state=None"),),
    ),
    Mutant(
        "a repeated request is applied again",
        "testing.sim_raft.registers:RegisterMachine.apply",
        (("if answer is not None:", "if False:"),),
    ),
)


def main() -> None:
    for mutant in MUTANTS:
        took, outcome = hunt(mutant, seeds_max=1000)
        print(
            f"{took if outcome else 'not':>5} {mutant.name}: {outcome.violation[:150] if outcome else ''}", flush=True
        )


if __name__ == "__main__":
    main()
