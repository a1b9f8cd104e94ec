"""The columns say what the plain scheduler says, node for node and word for word, whatever happened before."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from cloudless.coordinator.core.scheduler import Weights
from cloudless.coordinator.core.scheduler.plan import Board
from cloudless.testing.plain_scheduler import PlainBoard
from cloudless.testing.random_clusters import HOUR_MS, NAMES, NOW_MS, changed, cluster, usage

SEEDS = st.integers(0, 2**32)


def same(fast, plain):
    assert (fast.node_id, fast.summary, fast.rejections, fast.nodes_considered, fast.decided_at_ms) == (
        plain.node_id,
        plain.summary,
        plain.rejections,
        plain.nodes_considered,
        plain.decided_at_ms,
    )
    assert [c.node_id for c in fast.candidates] == [c.node_id for c in plain.candidates]
    for one, other in zip(fast.candidates, plain.candidates, strict=True):
        assert abs(one.total - other.total) < 1e-9
        assert [(t.name, t.weight) for t in one.terms] == [(t.name, t.weight) for t in other.terms]
        assert all(abs(a.value - b.value) < 1e-9 for a, b in zip(one.terms, other.terms, strict=True))
        assert type(one.total) is float
        assert all(type(term.value) is float for term in one.terms)


def boards(rng, state, name, used):
    record = state.workloads[("default", name)]
    weights = rng.choice([Weights(), Weights(0.1, 0.5, 0.2, 0.9, 0.3)])
    now_ms = NOW_MS + rng.choice([0, rng.randrange(200 * HOUR_MS)])
    own = sorted(state.replicas_by_workload.get(("default", name), ()))
    ignoring = set(rng.sample(own, rng.randrange(len(own) + 1)))
    common = {"weights": weights, "usage": used, "now_ms": now_ms, "ignoring": ignoring}
    return Board(state, record, ids_max=None, **common), PlainBoard(state, record, **common)


@settings(deadline=None, max_examples=60)
@given(SEEDS)
def test_the_same_decisions_in_every_state(seed):
    rng = random.Random(seed)
    state = cluster(rng)
    used = {}
    for step in range(6):
        fast, plain = boards(rng, state, rng.choice(NAMES), used)
        for _ in range(rng.randrange(1, 6)):
            if rng.random() < 0.2 and state.nodes:
                node_id = rng.choice([*sorted(state.nodes), "unknown"])
                same(fast.place_on(node_id), plain.place_on(node_id))
            else:
                same(fast.place(), plain.place())
        for _ in range(rng.randrange(3)):
            state = changed(rng, state, step)
        if rng.random() < 0.5:
            used = {**used, **{i: usage(rng) for i in sorted(state.nodes) if rng.random() < 0.4}}
        if rng.random() < 0.2:
            used = {}


@settings(deadline=None, max_examples=8)
@given(SEEDS)
def test_the_same_decisions_on_many_nodes(seed):
    """More than the best few that are kept in order, and more reasons than are looked for one by one."""
    rng = random.Random(seed)
    state = cluster(rng, nodes_max=150, replicas_max=40)
    used = {i: usage(rng) for i in sorted(state.nodes) if rng.random() < 0.3}
    fast, plain = boards(rng, state, "web", used)
    for _ in range(20):
        same(fast.place(), plain.place())


@settings(deadline=None, max_examples=30)
@given(SEEDS)
def test_states_that_branched_off_do_not_mix(seed):
    """Forecasts go on from a snapshot while the fabric goes its own way."""
    rng = random.Random(seed)
    branches = [cluster(rng)] * 3
    for step in range(9):
        at = rng.randrange(len(branches))
        branches[at] = changed(rng, branches[at], step)
        fast, plain = boards(rng, branches[at], rng.choice(NAMES), {})
        same(fast.place(), plain.place())
