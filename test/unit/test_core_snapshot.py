import dataclasses

import pytest

from cloudless.coordinator.core import commands as c
from cloudless.coordinator.core import machine, snapshot
from cloudless.coordinator.core.state import State
from cloudless.core.spec import Metadata
from cloudless.errors import Corrupt
from cloudless.testing import golden_log
from cloudless.testing.fabric_model import Fabric, service


def test_a_state_survives_its_snapshot_at_every_step_of_the_golden_log():
    for index, state in enumerate(golden_log.replay(golden_log.entries()), 1):
        data = snapshot.encode(state, index=index, term=3)
        assert snapshot.decode(data) == (state, index, 3)


def test_the_hash_does_not_depend_on_the_way_to_the_state():
    one, other = Fabric(), Fabric()
    for fabric, names in ((one, "abcd"), (other, "dcba")):
        for name in names:
            fabric.state = fabric.state.with_workload(one.state.workloads.get(("x", name)) or _record(name))
    assert snapshot.state_hash(one.state) == snapshot.state_hash(other.state)
    other.put("more", service())
    assert snapshot.state_hash(one.state) != snapshot.state_hash(other.state)


def _record(name):
    fabric = Fabric()
    fabric.put(name, service())
    return fabric.state.workloads["default", name]


def test_the_hash_leaves_out_where_in_the_log_it_was_taken():
    state = State.empty("t")
    assert snapshot.encode(state, index=1, term=1) != snapshot.encode(state, index=2, term=1)
    assert snapshot.state_hash(state) == snapshot.state_hash(
        snapshot.decode(snapshot.encode(state, index=9, term=9))[0]
    )


def test_old_events_and_answers_leave_at_the_same_entry_after_a_restart():
    state = State.empty("t")
    small = {"events": 5, "request_ids": 4}
    for field, limit in small.items():
        state = _limited(state, field, limit)
    restarted = state
    for index in range(1, 30):
        command = c.PutWorkload(_metadata(index), service())
        data = c.encode(c.Entry(c.SCHEMA, f"r{index}", index, "a", command))
        state = machine.apply(state, data, index=index, term=1).state
        restarted = machine.apply(restarted, data, index=index, term=1).state
        again = snapshot.decode(snapshot.encode(restarted, index=index, term=1))[0]
        for field, limit in small.items():
            again = _limited(again, field, limit)
        restarted = again
        assert snapshot.state_hash(restarted) == snapshot.state_hash(state)
    assert len(state.events) == 5
    assert len(state.results) == 4


def _metadata(index):
    return Metadata(f"w{index}", "default")


def _limited(state, field, limit):
    log = getattr(state, field)
    return dataclasses.replace(state, **{field: dataclasses.replace(log, limit=limit)})


@pytest.mark.parametrize("data", [b"\xff", b"", b"\x08\x63"])
def test_what_is_no_snapshot_is_corrupt(data):
    with pytest.raises(Corrupt):
        snapshot.decode(data)
