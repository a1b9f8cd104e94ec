"""The log against a model, with power cuts and kills inside any operation."""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudless.coordinator.wal.log import Log
from cloudless.coordinator.wal.record import HardState, LogEntry
from cloudless.errors import DiskFull
from cloudless.testing.disk import PowerCut, SimDisk

DIR = Path("/wal")

steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 6), st.integers(0, 700)),
        st.tuples(st.just("truncate"), st.integers(0, 8), st.just(0)),
        st.tuples(st.just("vote"), st.integers(0, 3), st.just(0)),
        st.tuples(st.just("compact"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("reset"), st.integers(1, 9), st.just(0)),
        st.tuples(st.just("full"), st.integers(1, 6), st.integers(0, 700)),
        st.tuples(st.just("restart"), st.just(0), st.just(0)),
        st.tuples(st.just("power_cut"), st.just(0), st.just(0)),
    ),
    max_size=25,
)


@dataclasses.dataclass(frozen=True)
class Model:
    """What the log must contain. Entries up to `covered` may be gone: a snapshot has them."""

    entries: dict[int, LogEntry] = dataclasses.field(default_factory=dict)
    last: int = 0
    last_term: int = 0
    hard_state: HardState = HardState()
    covered: int = 0

    def matches(self, log: Log) -> bool:
        if (log.last_index, log.last_term, log.hard_state) != (self.last, self.last_term, self.hard_state):
            return False
        if log.first_index > self.covered + 1:
            return False
        found = log.entries(log.first_index, log.last_index + 1)
        return found == [self.entries[i] for i in range(log.first_index, self.last + 1)]


def open_log(disk: SimDisk) -> Log:
    salts = itertools.count(7)
    return Log.open(disk, DIR, segment_bytes=1500, salt=lambda: next(salts), seconds=disk.seconds)


def the_one_that_matches(log: Log, models: list[Model]) -> Model:
    for model in models:
        if model.matches(log):
            return model
    found = log.entries(log.first_index, log.last_index + 1)
    raise AssertionError(f"the log has {found} {log.hard_state}; allowed was any of {models}")


def prepare(log: Log, disk: SimDisk, model: Model, step, term: int) -> tuple[Callable[[], None], list[Model]]:
    """The operation, and the models that a crash inside it may leave; the last one is what it must leave."""
    kind, number, size = step
    if kind in ("append", "full"):
        group = [LogEntry(model.last + 1 + i, term, bytes([i]) * size) for i in range(number)]
        possible = [model]
        for entry in group:
            entries = possible[-1].entries | {entry.index: entry}
            possible.append(dataclasses.replace(possible[-1], entries=entries, last=entry.index, last_term=entry.term))
        if kind == "append":
            return lambda: log.append(group), possible

        def on_a_full_disk() -> None:
            disk.capacity_bytes = disk.used_bytes() + min(size, 39)
            try:
                with pytest.raises(DiskFull):
                    log.append(group)
            finally:
                disk.capacity_bytes = None

        return on_a_full_disk, [*possible[1:], model]
    if kind == "truncate":
        at = max(log.first_index, model.last + 1 - number)
        kept = {i: e for i, e in model.entries.items() if i < at}
        after = dataclasses.replace(model, entries=kept, last=at - 1, last_term=log.term_at(at - 1))

        def truncate() -> None:
            log.truncate_from(at)
            log.sync()

        return truncate, [model, after]
    if kind == "vote":
        after = dataclasses.replace(model, hard_state=HardState(term, f"c{number}"))
        return lambda: log.set_hard_state(after.hard_state), [model, after]
    if kind == "compact":
        after = dataclasses.replace(model, covered=max(model.covered, model.last - number))
        return lambda: log.compact(after.covered) and None, [after]
    assert kind == "reset"
    last = model.last + number
    after = dataclasses.replace(model, entries={}, last=last, last_term=term, covered=last)
    return lambda: log.reset(last, term), [model, after]


@given(steps=steps, seed=st.integers(0, 2**32), cuts=st.lists(st.integers(1, 40), max_size=6))
@settings(max_examples=1000, deadline=None)
def test_acknowledged_is_durable_whatever_happens(steps, seed, cuts):
    disk = SimDisk(seed)
    log = open_log(disk)
    model = Model()
    cuts = list(cuts)

    def arm() -> None:
        disk.cut_power_at = disk.operations + cuts.pop() if cuts else None

    arm()
    for term, step in enumerate(steps, start=1):
        possible = [model]
        try:
            if step[0] in ("restart", "power_cut"):
                getattr(disk, step[0])()
                log = open_log(disk)
            else:
                operation, possible = prepare(log, disk, model, step, term)
                operation()
            model = the_one_that_matches(log, [possible[-1]])
        except PowerCut:
            while True:
                disk.power_cut()
                arm()  # the recovery itself may be cut too
                try:
                    log = open_log(disk)
                except PowerCut:
                    continue
                break
            model = the_one_that_matches(log, possible)
    disk.power_cut()
    the_one_that_matches(open_log(disk), [model])


def test_power_cut_at_every_single_operation():
    """One fixed history with rolls, votes, truncation and compaction, cut at each of its operations in turn."""
    history = [
        *[("append", n, 300) for n in (1, 3, 2)],
        ("vote", 2, 0),
        ("truncate", 2, 0),
        *[("append", n, 400) for n in (4, 1, 5)],
        ("compact", 4, 0),
        ("full", 3, 0),
        ("reset", 5, 0),
        ("append", 2, 100),
    ]
    for seed in range(5):
        for at in itertools.count(1):
            disk = SimDisk(seed * 1000 + at)
            disk.cut_power_at = at
            model = Model()
            possible = [model]
            try:
                log = open_log(disk)
                for term, step in enumerate(history, start=1):
                    operation, possible = prepare(log, disk, model, step, term)
                    operation()
                    model = the_one_that_matches(log, [possible[-1]])
            except PowerCut:
                disk.power_cut()
                the_one_that_matches(open_log(disk), possible)
            else:
                break
        assert at > 40
