"""Whole clusters of cores under everything that may go wrong; `python -m cloudless.testing.raft_core` runs more."""

from __future__ import annotations

import random
from dataclasses import fields

import pytest

from cloudless.coordinator.raft.core import events as ev
from cloudless.coordinator.raft.core import messages as msg
from cloudless.coordinator.raft.core.model import NO_OP, Member, encode_configuration
from cloudless.coordinator.raft.core.step import step
from cloudless.coordinator.wal.record import LogEntry
from cloudless.testing.raft_core import Cluster, run_seed
from cloudless.testing.raft_core_member import configuration

SEEDS_PER_TEST = 10


@pytest.mark.parametrize("first", range(0, 120, SEEDS_PER_TEST))
def test_a_cluster_stays_safe_and_recovers(first: int) -> None:
    for seed in range(first, first + SEEDS_PER_TEST):
        run_seed(seed, members=(3, 3, 5, 2, 1)[seed % 5], duration_ms=1500.0)


def test_one_seed_is_one_history() -> None:
    first, second = (run_seed(7, duration_ms=800.0) for _ in range(2))
    assert first.steps == second.steps
    assert [n.state for n in first.nodes.values()] == [n.state for n in second.nodes.values()]


def some_message(draw: random.Random, near: int, term: int) -> msg.Message:
    """Of any kind, with numbers that are near, at an edge, or absurd."""

    def number() -> int:
        return draw.choice((0, 1, near, near + 1, near - 1, draw.randint(0, near + 3), -1, 2**40))

    kind = draw.choice(msg.Message.__args__)
    values: dict[str, object] = {}
    for spec in fields(kind):
        if spec.name == "term":
            values["term"] = draw.choice((term, term, term, term - 1, term + 1, 0))
        elif spec.name == "entries":
            first = number()
            values["entries"] = tuple(
                LogEntry(first + i * draw.choice((1, 1, 1, 2)), draw.choice((term, term - 1, 1)), draw.choice(DATA))
                for i in range(draw.randint(0, 3))
            )
        elif spec.name == "configuration":
            values[spec.name] = draw.choice(DATA)
        elif spec.name == "data":
            values[spec.name] = b"x" * draw.randint(0, 5)
        elif spec.type == "bool":
            values[spec.name] = draw.random() < 0.5
        else:
            values[spec.name] = number()
    return kind(**values)


DATA = (b"", b"x", NO_OP, b"\x00c", b"\x00c{}", encode_configuration(configuration("ab")))


def some_event(draw: random.Random, near: int, term: int) -> ev.Event:
    def number() -> int:
        return draw.choice((0, 1, near, near + 1, draw.randint(0, near + 3), -1, 2**40))

    name = draw.choice(("m0", "m1", "m2", "stranger", ""))
    return draw.choice(
        (
            ev.Tick(),
            ev.Propose(draw.choice((-1, 0, 1, 5))),
            ev.Persisted(number(), number(), number()),
            ev.AddLearner(1, Member(name, "x:1", False)),
            ev.Promote(2, name),
            ev.Remove(3, name),
            ev.Transfer(4, name),
            ev.Read(5),
            ev.Compacted(number(), number(), number()),
            ev.Unreachable(name),
            ev.SnapshotStored(name, term, number(), number()),
            ev.Measured(draw.choice((-1.0, 0.0, 5.0, 1e12)), 1.0),
        )
    )


@pytest.mark.parametrize("seed", range(12))
def test_no_event_raises_whatever_it_says(seed: int) -> None:
    """The senders lie here, so that nothing is promised but this: no step raises, and no commit goes back."""
    draw = random.Random(seed)
    cluster = Cluster(seed)
    cluster.live_through(400.0)
    states = [node.state for node in cluster.nodes.values() if node.state is not None]
    assert states
    for state in states:
        now_ms = state.due_ms
        current = state
        for _ in range(400):
            now_ms += draw.choice((0.0, 1.0, 100.0))
            near = draw.choice((current.log.last_index, current.commit_index, current.log.base_index))
            if draw.random() < 0.75:
                sender = draw.choice(("m0", "m1", "m2", "stranger", "", current.leader))
                event: ev.Event = ev.Received(sender, some_message(draw, near, current.term))
            else:
                event = some_event(draw, near, current.term)
            after, _ = step(current, event, now_ms=now_ms, jitter=draw.random())
            assert after.commit_index >= current.commit_index, event
            assert after.term >= current.term, event
            assert after.durable_index <= after.log.last_index, event
            current = after if draw.random() < 0.9 else state
