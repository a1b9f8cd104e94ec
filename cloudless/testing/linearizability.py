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

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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


class Journal:
    """A list that is only appended to, and was `final` in the end: ("read",) answers it, ("append", v) answers None.
    Agrees with Register where the history ends with a read that saw `final` and appended values differ, and is decided
    without a search, because only one order of the appends can have led there."""

    def __init__(self, final: tuple[Hashable, ...]) -> None:
        self._final = final

    def initial(self) -> int:
        return 0

    def step(self, state: int, call: Any, result: Any) -> tuple[int] | None:
        if call[0] == "append":
            return (state + 1,) if state < len(self._final) and self._final[state] == call[1] else None
        if call[0] == "read":
            return (state,) if result is UNKNOWN or (result or ()) == self._final[:state] else None
        raise ValueError(f"a journal has no operation {call[0]!r}")


def narrowed(history: Iterable[Operation]) -> list[Operation]:
    """The same history of a Register or Journal in which no value was written twice: an operation of unknown outcome
    whose value somebody saw did take effect, before the first to see it returned. That saves most of the search."""
    operations = list(history)
    seen: dict[Hashable, float] = {}
    for operation in operations:
        if operation.returned is None:
            continue
        if operation.call[0] == "read":
            value = operation.result
        elif operation.call[0] == "cas" and operation.result:
            value = operation.call[1]
        else:
            continue
        for part in value if isinstance(value, tuple) else (value,):
            seen[part] = min(seen.get(part, operation.returned), operation.returned)
    for number, operation in enumerate(operations):
        at = seen.get(operation.call[-1]) if operation.returned is None and operation.call[0] != "read" else None
        if at is not None and at >= operation.called:
            result = True if operation.call[0] == "cas" else None
            operations[number] = replace(operation, returned=at, result=result)
    return operations


def check(model: Model[_S], history: Iterable[Operation], *, steps_max: int = 2_000_000) -> Verdict:
    """Raises Undecided when `steps_max` transitions of the model did not suffice."""
    operations = tuple(history)
    unanswered = sum(operation.returned is None for operation in operations)
    steps, allowed = 0, 0
    while True:
        # Most of what got no answer never mattered: an order that needs little of it is looked for first.
        verdict = _search(model, operations, min(allowed, unanswered), steps_max - steps)
        steps += verdict.steps
        if verdict.linearizable or allowed >= unanswered:
            return replace(verdict, steps=steps)
        allowed = 2 * allowed or 1


def _search(model: Model[_S], operations: tuple[Operation, ...], allowed: int, steps_max: int) -> Verdict:
    """With at most `allowed` of the unanswered operations."""
    search = _Search(operations)
    state = model.initial()
    done = 0  # bit i: operation i has its place
    seen: set[tuple[int, _S]] = set()
    order: list[tuple[int, _S, Iterator[int]]] = []  # each operation with its place; state and candidates before it
    longest: tuple[Operation, ...] = ()
    stuck_at: Operation | None = None
    steps = 0
    candidates = search.candidates(allowed)
    while search.unreturned:
        for at in candidates:
            steps += 1
            if steps > steps_max:
                raise Undecided(f"{len(operations)} operations: no verdict in time")
            operation = operations[at]
            after = model.step(state, operation.call, operation.result)
            if after is None:
                continue
            known = (done | 1 << at, after[0])
            if known in seen:
                continue
            seen.add(known)
            order.append((at, state, candidates))
            done, state = known
            search.lift(at)
            candidates = search.candidates(allowed)
            break
        else:
            # An operation returns here that needs a place before, and has none behind the order tried so far.
            if stuck_at is None or len(order) > len(longest):
                longest = tuple(operations[i] for i, _, _ in order)
                stuck_at = operations[search.first_to_return()]
            if not order:
                return Verdict(False, longest, stuck_at, steps)
            last, state, candidates = order.pop()
            done ^= 1 << last
            search.unlift(last)
    return Verdict(True, tuple(operations[i] for i, _, _ in order), None, steps)


def check_keys(
    model: Model[_S], histories: Mapping[_K, Sequence[Operation]], *, steps_max: int = 2_000_000
) -> dict[_K, Verdict]:
    """The keys whose histories are not linearizable, with the verdict; empty when all are."""
    verdicts = {key: check(model, history, steps_max=steps_max) for key, history in histories.items()}
    return {key: verdict for key, verdict in verdicts.items() if not verdict.linearizable}


class _Search:
    """Calls and returns in the order of time, as a doubly linked list from which operations are lifted and put back
    (Knuth's dancing links). Event i is the call of operation i, event n + i its return. Calls that never returned are
    in a list of their own: they are tried last, when nothing else explains what was seen, as they fit everywhere."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._count = count = len(operations)
        self._end = 2 * count  # head and end of the list of calls and returns
        self._open = 2 * count + 1  # and of that of calls without a return
        self._returns = [operation.returned is not None for operation in operations]
        self.unreturned = sum(self._returns)  # completed operations that have no place yet
        self._opened = 0  # operations without a return that have a place
        events: list[tuple[float, int, int]] = []
        for i, operation in enumerate(operations):
            events.append((operation.called, 0, i))
            if operation.returned is not None:
                if not operation.called <= operation.returned:
                    raise ValueError(f"{operation} returned before it was called")
                events.append((operation.returned, 1, count + i))
        self._next = list(range(2 * count + 2))
        self._previous = list(range(2 * count + 2))
        self._rank = [0] * (2 * count)
        for rank, (_, _, event) in enumerate(sorted(events)):
            self._rank[event] = rank
            before_head = self._end if event >= count or self._returns[event] else self._open
            last = self._previous[before_head]
            self._next[last] = self._previous[before_head] = event
            self._previous[event], self._next[event] = last, before_head

    def candidates(self, allowed: int) -> Iterator[int]:
        """What may have its place next: whatever was called before the first return; of calls without a return while
        fewer than `allowed` are lifted. Good as long as each lift that was made since is undone when it goes on."""
        following = self._next
        event = following[self._end]
        while event < self._count:
            yield event
            event = following[event]
        if self._opened >= allowed:
            return
        limit = self._rank[event]
        event = self._previous[self._open]  # newest first: what is needed was mostly called lately
        while event != self._open:
            if self._rank[event] < limit:
                yield event
            event = self._previous[event]

    def first_to_return(self) -> int:
        event = self._next[self._end]
        while event < self._count:
            event = self._next[event]
        return event - self._count

    def lift(self, call: int) -> None:
        self._unlink(call)
        if self._returns[call]:
            self._unlink(self._count + call)
            self.unreturned -= 1
        else:
            self._opened += 1

    def unlift(self, call: int) -> None:
        if self._returns[call]:
            self.unreturned += 1
            self._relink(self._count + call)
        else:
            self._opened -= 1
        self._relink(call)

    def _unlink(self, event: int) -> None:
        before, after = self._previous[event], self._next[event]
        self._next[before], self._previous[after] = after, before

    def _relink(self, event: int) -> None:
        before, after = self._previous[event], self._next[event]
        self._next[before] = self._previous[after] = event
