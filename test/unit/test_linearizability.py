"""The checker of linearizability against histories whose verdict is known, and against brute force."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudless.testing.linearizability import (
    UNKNOWN,
    Journal,
    Operation,
    Register,
    Undecided,
    check,
    check_keys,
    narrowed,
)


def op(kind: str, *values: object, at: tuple[float, float | None], gives: object = None) -> Operation:
    returned = at[1]
    return Operation((kind, *values), UNKNOWN if returned is None else gives, at[0], returned)


GOOD = {
    "nothing happened": [],
    "a read of what was never written": [op("read", at=(0, 1), gives=None)],
    "one after the other": [op("write", 1, at=(0, 1)), op("read", at=(2, 3), gives=1)],
    "a read beside a write sees the old value": [op("write", 1, at=(0, 5)), op("read", at=(1, 2), gives=None)],
    "a read beside a write sees the new value": [op("write", 1, at=(0, 5)), op("read", at=(1, 2), gives=1)],
    "two readers beside a write, old then new": [
        op("write", 1, at=(0, 9)),
        op("read", at=(1, 3), gives=None),
        op("read", at=(4, 6), gives=1),
    ],
    "concurrent writes in either order": [
        op("write", 1, at=(0, 5)),
        op("write", 2, at=(1, 4)),
        op("read", at=(6, 7), gives=1),
    ],
    "overlapping reads that need the second write first": [
        op("write", 1, at=(0, 10)),
        op("write", 2, at=(0, 10)),
        op("read", at=(1, 9), gives=2),
        op("read", at=(2, 11), gives=1),
    ],
    "an unknown write that took effect": [op("write", 1, at=(0, None)), op("read", at=(5, 6), gives=1)],
    "an unknown write that never did": [op("write", 1, at=(0, None)), op("read", at=(5, 6), gives=None)],
    "an unknown write that took effect very late": [
        op("write", 1, at=(0, None)),
        op("write", 2, at=(1, 2)),
        op("read", at=(3, 4), gives=2),
        op("read", at=(5, 6), gives=1),
    ],
    "an unknown swap explains the value": [
        op("write", 1, at=(0, 1)),
        op("cas", 1, 2, at=(2, None)),
        op("read", at=(3, 4), gives=2),
    ],
    "an unknown read": [op("write", 1, at=(0, 1)), op("read", at=(2, None))],
    "a swap that fits and one that does not": [
        op("write", 1, at=(0, 1)),
        op("cas", 1, 2, at=(2, 3), gives=True),
        op("cas", 1, 3, at=(4, 5), gives=False),
        op("read", at=(6, 7), gives=2),
    ],
    "one of two concurrent swaps wins": [
        op("cas", None, 1, at=(0, 5), gives=False),
        op("cas", None, 2, at=(0, 5), gives=True),
        op("read", at=(6, 7), gives=2),
    ],
    "appends in the order of the reads": [
        op("append", "a", at=(0, 9)),
        op("append", "b", at=(0, 9)),
        op("read", at=(1, 2), gives=("b",)),
        op("read", at=(10, 11), gives=("b", "a")),
    ],
    "equal times overlap": [op("write", 1, at=(0, 1)), op("read", at=(1, 2), gives=None)],
}

BAD = {
    "a stale read": [op("write", 1, at=(0, 1)), op("read", at=(2, 3), gives=None)],
    "a read of a value from nowhere": [op("write", 1, at=(0, 1)), op("read", at=(0, 1), gives=7)],
    "a read of what will be written": [op("read", at=(0, 1), gives=1), op("write", 1, at=(2, 3))],
    "two readers, new then old": [
        op("write", 1, at=(0, 9)),
        op("read", at=(1, 3), gives=1),
        op("read", at=(4, 6), gives=None),
    ],
    "a lost update": [
        op("append", "a", at=(0, 1)),
        op("append", "b", at=(2, 3)),
        op("read", at=(4, 5), gives=("b",)),
    ],
    "a write applied twice": [op("append", "a", at=(0, 1)), op("read", at=(2, 3), gives=("a", "a"))],
    "appends in two orders": [
        op("append", "a", at=(0, 9)),
        op("append", "b", at=(0, 9)),
        op("read", at=(1, 2), gives=("b",)),
        op("read", at=(10, 11), gives=("a", "b")),
    ],
    "both of two swaps win": [
        op("cas", None, 1, at=(0, 5), gives=True),
        op("cas", None, 2, at=(0, 5), gives=True),
    ],
    "a swap refused for no reason": [op("write", 1, at=(0, 1)), op("cas", 1, 2, at=(2, 3), gives=False)],
    "an unknown write cannot act before its call": [
        op("read", at=(0, 1), gives=1),
        op("write", 1, at=(2, None)),
    ],
    "an unknown write acts at most once": [
        op("write", 1, at=(0, None)),
        op("read", at=(1, 2), gives=1),
        op("write", 2, at=(3, 4)),
        op("read", at=(5, 6), gives=1),
    ],
    "an acknowledged write vanished after a failover": [
        op("write", 1, at=(0, 1)),
        op("write", 2, at=(2, 3)),
        op("read", at=(4, 5), gives=2),
        op("read", at=(6, 7), gives=1),
    ],
    "readers disagree about two concurrent writes": [
        op("write", 1, at=(0, 3)),
        op("write", 2, at=(0, 3)),
        op("read", at=(4, 5), gives=1),
        op("read", at=(6, 7), gives=2),
    ],
}


@pytest.mark.parametrize("name", GOOD)
def test_a_linearizable_history_passes_with_a_proof(name: str) -> None:
    history = GOOD[name]
    verdict = check(Register(), history)
    assert verdict.linearizable
    assert replays(verdict.longest)
    assert {id(o) for o in history if o.returned is not None} <= {id(o) for o in verdict.longest}


@pytest.mark.parametrize("name", BAD)
def test_a_history_that_is_not_linearizable_is_refused(name: str) -> None:
    verdict = check(Register(), BAD[name])
    assert not verdict.linearizable
    assert verdict.stuck_at is not None
    assert replays(verdict.longest)


@pytest.mark.parametrize("name", [*GOOD, *BAD])
def test_the_order_in_which_the_history_is_listed_does_not_matter(name: str) -> None:
    history = [*GOOD.get(name, BAD.get(name, []))]
    random.Random(7).shuffle(history)
    assert check(Register(), history).linearizable is (name in GOOD)


def test_keys_are_checked_by_themselves() -> None:
    histories = {"a": GOOD["one after the other"], "b": BAD["a stale read"]}
    assert list(check_keys(Register(), histories)) == ["b"]


def test_a_call_cannot_return_before_it_was_made() -> None:
    with pytest.raises(ValueError, match="before it was called"):
        check(Register(), [op("read", at=(2, 1))])


def test_a_search_that_takes_too_long_is_given_up() -> None:
    history = [op("append", i, at=(0, 99)) for i in range(12)] + [op("read", at=(100, 101), gives=("x",))]
    with pytest.raises(Undecided, match="operations"):
        check(Register(), history, steps_max=1000)


def test_unanswered_writes_that_nobody_saw_cost_nothing() -> None:
    history = [op("write", i, at=(i, None)) for i in range(40)]
    history += [op("read", at=(100 + i, 100.5 + i), gives=None) for i in range(10)]
    verdict = check(Register(), history)
    assert verdict.linearizable
    assert verdict.steps < 1000


def test_unanswered_writes_that_somebody_saw_are_narrowed_to_when() -> None:
    history = [op("write", i, at=(i, None)) for i in range(40)]
    history += [op("read", at=(100 + i, 100.5 + i), gives=i // 2) for i in range(10)]
    verdict = check(Register(), narrowed(history))
    assert verdict.linearizable
    assert verdict.steps < 1000


APPENDS = {name: history for name, history in {**GOOD, **BAD}.items() if {o.call[0] for o in history} >= {"append"}}


@pytest.mark.parametrize("name", APPENDS)
def test_a_journal_agrees_with_a_register_that_is_appended_to(name: str) -> None:
    final = max((o.result for o in APPENDS[name] if o.call[0] == "read"), key=len)
    assert check(Journal(final), APPENDS[name]).linearizable is (name in GOOD)


@settings(max_examples=200, deadline=None)
@given(st.randoms(use_true_random=False))
def test_a_journal_agrees_with_a_register_on_random_histories(rng: random.Random) -> None:
    history = simulated(rng, clients=3, operations=7, kinds=("read", "append"))
    value: list[object] = []
    for number, operation in enumerate(history):
        if operation.call[0] == "read" and operation.returned is not None and rng.random() < 0.2:
            history[number] = replace(operation, result=rng.choice([None, (0,), (1,), (1, 2)]))
        if operation.call[0] == "append":
            value.append(operation.call[1])
    final = tuple(value)
    history.append(Operation(("read",), final or None, 1e6, 1e6 + 1))
    assert check(Journal(final), history).linearizable is check(Register(), history).linearizable


def test_a_long_history_of_many_clients_takes_a_moment() -> None:
    """2,000 operations of 8 clients, a tenth of them without an answer."""
    rng = random.Random(1)
    history = simulated(rng, clients=8, operations=2000, kinds=("read", "read", "write", "cas"))
    assert check(Register(), narrowed(history)).linearizable


@settings(max_examples=200, deadline=None)
@given(st.randoms(use_true_random=False))
def test_a_narrowed_history_has_the_same_verdict(rng: random.Random) -> None:
    history = simulated(rng, clients=3, operations=8)
    for number, operation in enumerate(history):
        if operation.call[0] == "read" and operation.returned is not None and rng.random() < 0.2:
            history[number] = replace(operation, result=rng.choice([None, 0, 1, 2, (1,), (1, 2)]))
    assert check(Register(), narrowed(history)).linearizable is check(Register(), history).linearizable


def replays(order: tuple[Operation, ...]) -> bool:
    model = Register()
    state = model.initial()
    for position, operation in enumerate(order):
        after = model.step(state, operation.call, operation.result)
        if after is None:
            return False
        (state,) = after
        for later in order[position + 1 :]:
            if later.returned is not None and later.returned < operation.called:
                return False
    return True


KINDS = ("read", "write", "cas", "append")


def simulated(rng: random.Random, *, clients: int, operations: int, kinds: tuple[str, ...] = KINDS) -> list[Operation]:
    """A history of a real register: each operation takes effect at one moment between its call and its return."""
    free_at = [0.0] * clients
    todo = []
    for number in range(operations):
        client = min(range(clients), key=lambda c: free_at[c])
        called = free_at[client] + rng.random()
        effect, returned = (called + x for x in sorted((rng.random(), rng.random())))
        free_at[client] = returned
        calls: dict[str, tuple[object, ...]] = {
            "read": ("read",),
            "write": ("write", number),
            "cas": ("cas", number - 1, number),
            "append": ("append", number),
        }
        todo.append((effect, called, returned, calls[rng.choice(kinds)]))
    value: object = None
    history = []
    for _, called, returned, call in sorted(todo):
        gives: object = None
        if call[0] == "read":
            gives = value
        elif call[0] == "write":
            value = call[1]
        elif call[0] == "append":
            value = (*value, call[1]) if isinstance(value, tuple) else (call[1],)
        elif gives := value == call[1]:
            value = call[2]
        if rng.random() < 0.1:
            history.append(Operation(call, UNKNOWN, called, None))
        else:
            history.append(Operation(call, gives, called, returned))
    return history


def brute_force(history: list[Operation]) -> bool:
    """Every order of every choice of the unanswered operations."""
    answered = [o for o in history if o.returned is not None]
    unanswered = [o for o in history if o.returned is None]
    return any(
        replays(order)
        for count in range(len(unanswered) + 1)
        for chosen in itertools.combinations(unanswered, count)
        for order in itertools.permutations([*answered, *chosen])
    )


VALUES = st.sampled_from([None, 1, 2])
CALLS = st.one_of(
    st.tuples(st.just("read")),
    st.tuples(st.just("write"), VALUES),
    st.tuples(st.just("cas"), VALUES, VALUES),
)


@st.composite
def histories(draw: st.DrawFn) -> list[Operation]:
    history = []
    for _ in range(draw(st.integers(0, 5))):
        call = draw(CALLS)
        called = draw(st.integers(0, 9))
        if draw(st.integers(0, 3)) == 0:
            history.append(Operation(call, UNKNOWN, called, None))
            continue
        result = {"read": VALUES, "cas": st.booleans()}.get(call[0], st.none())
        history.append(Operation(call, draw(result), called, called + draw(st.integers(0, 6))))
    return history


@settings(max_examples=400, deadline=None)
@given(histories())
def test_it_agrees_with_brute_force(history: list[Operation]) -> None:
    assert check(Register(), history).linearizable is brute_force(history)
