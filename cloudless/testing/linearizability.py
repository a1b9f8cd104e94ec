"""Whether a history of calls and answers could have come from one object that does one thing at a time.

The algorithm is Porcupine's (A. Athalye, 2017): Wing and Gong's search (1993) with G. Lowe's just-in-time
linearization and his cache of what was tried, (set of linearized operations, state) ("Testing for linearizability",
2017). Objects with several keys are checked key by key, which is sound (locality; Herlihy and Wing 1990, §3.3).

    history = [Operation(("write", 1), called=0, returned=1), Operation(("read",), result=1, called=2, returned=3)]
    verdict = check(Register(), history)
    assert verdict.linearizable, verdict.stuck_at

An operation whose outcome is unknown (`returned=None`) may have taken effect at any time behind its call, or never.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar


class _Unknown:
    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Final = _Unknown()
"""The result of an operation that got no answer."""

_S = TypeVar("_S", bound=Hashable)
_K = TypeVar("_K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Operation:
    """`called` and `returned` are positions in one order of events (a counter or a time). Of equal ones, the call comes
    first, so that the two operations overlap. `returned` None: the outcome is unknown, and so is `result`."""

    call: Any
    result: Any = UNKNOWN
    called: float = 0
    returned: float | None = None
    client: str = ""


class Model(Protocol[_S]):
    """A sequential object. States are immutable and hashable."""

    def initial(self) -> _S: ...

    def step(self, state: _S, call: Any, result: Any) -> tuple[_S] | None:
        """The state after the call, in a tuple of its own; None where `result` is not what it would have answered.
        `result` UNKNOWN fits always."""
        ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """`longest`: the most operations that could be put in an order, as an order; the whole proof where `linearizable`.
    `stuck_at`: else the operation that found no place behind it."""

    linearizable: bool
    longest: tuple[Operation, ...]
    stuck_at: Operation | None
    steps: int


class Undecided(RuntimeError):
    """The search took more steps than it was allowed."""


class Register:
    """One value. ("read",) answers it; ("write", v) and ("append", v) answer None; ("cas", expected, new) answers
    whether it was `expected` and is `new` now. A value that was appended to is a tuple."""

    def __init__(self, initial: Hashable = None) -> None:
        self._initial = initial

    def initial(self) -> Hashable:
        return self._initial

    def step(self, state: Hashable, call: Any, result: Any) -> tuple[Hashable] | None:
        kind = call[0]
        if kind == "read":
            return (state,) if result is UNKNOWN or result == state else None
        if kind == "write":
            return (call[1],)
        if kind == "append":
            return ((*state, call[1]) if isinstance(state, tuple) else (call[1],),)
        if kind == "cas":
            fits = state == call[1]
            if result is not UNKNOWN and result is not fits:
                return None
            return (call[2],) if fits else (state,)
        raise ValueError(f"a register has no operation {kind!r}")


def check(model: Model[_S], history: Iterable[Operation], *, steps_max: int = 2_000_000) -> Verdict:
    """Raises Undecided when `steps_max` transitions of the model did not suffice."""
    operations = tuple(history)
    search = _Search(operations)
    state = model.initial()
    done = 0  # bit i: operation i has its place
    seen: set[tuple[int, _S]] = set()
    order: list[tuple[int, _S]] = []  # each operation with its place, and the state before it
    longest: tuple[Operation, ...] = ()
    stuck_at: Operation | None = None
    steps = 0
    at = search.first
    while search.unreturned:
        if search.is_call(at):
            steps += 1
            if steps > steps_max:
                raise Undecided(f"{len(operations)} operations: no verdict after {steps_max} steps")
            operation = operations[at]
            after = model.step(state, operation.call, operation.result)
            if after is not None:
                known = (done | 1 << at, after[0])
                if known not in seen:
                    seen.add(known)
                    order.append((at, state))
                    done, state = known
                    search.lift(at)
                    at = search.first
                    continue
            at = search.next(at)
            continue
        # A return: this operation needs a place before it, and has none in the order tried so far.
        if stuck_at is None or len(order) > len(longest):
            longest = tuple(operations[i] for i, _ in order)
            stuck_at = operations[search.operation(at)]
        if not order:
            return Verdict(False, longest, stuck_at, steps)
        last, state = order.pop()
        done ^= 1 << last
        search.unlift(last)
        at = search.next(last)
    return Verdict(True, tuple(operations[i] for i, _ in order), None, steps)


def check_keys(
    model: Model[_S], histories: Mapping[_K, Sequence[Operation]], *, steps_max: int = 2_000_000
) -> dict[_K, Verdict]:
    """The keys whose histories are not linearizable, with the verdict; empty when all are."""
    verdicts = {key: check(model, history, steps_max=steps_max) for key, history in histories.items()}
    return {key: verdict for key, verdict in verdicts.items() if not verdict.linearizable}


class _Search:
    """Calls and returns in the order of time, as a doubly linked list from which operations are lifted and put back
    (Knuth's dancing links). Event i is the call of operation i, event n + i its return; 2 n is head and end."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._count = count = len(operations)
        self._end = 2 * count
        events: list[tuple[float, int, int]] = []
        self._returns = [False] * count
        for i, operation in enumerate(operations):
            if operation.returned is None:
                events.append((operation.called, 0, i))
                continue
            if operation.returned < operation.called or math.isnan(operation.returned):
                raise ValueError(f"{operation} returned before it was called")
            self._returns[i] = True
            events += [(operation.called, 0, i), (operation.returned, 1, count + i)]
        self.unreturned = sum(self._returns)  # completed operations that have no place yet
        self._next = [self._end] * (self._end + 1)
        self._previous = [self._end] * (self._end + 1)
        before = self._end
        for _, _, event in sorted(events):
            self._next[before], self._previous[event] = event, before
            before = event
        self._next[before], self._previous[self._end] = self._end, before

    @property
    def first(self) -> int:
        return self._next[self._end]

    def next(self, event: int) -> int:
        return self._next[event]

    def is_call(self, event: int) -> bool:
        return event < self._count

    def operation(self, event: int) -> int:
        return event - self._count

    def lift(self, call: int) -> None:
        self._unlink(call)
        if self._returns[call]:
            self._unlink(self._count + call)
            self.unreturned -= 1

    def unlift(self, call: int) -> None:
        if self._returns[call]:
            self.unreturned += 1
            self._relink(self._count + call)
        self._relink(call)

    def _unlink(self, event: int) -> None:
        before, after = self._previous[event], self._next[event]
        self._next[before], self._previous[after] = after, before

    def _relink(self, event: int) -> None:
        before, after = self._previous[event], self._next[event]
        self._next[before] = self._previous[after] = event
