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
