import pytest

from cloudless.api.v1 import log_pb2
from cloudless.coordinator.core import commands, machine
from cloudless.coordinator.core.commands import Entry, NoOp, ScaleWorkload, decode, encode


def test_each_field_of_the_oneof_has_exactly_one_command_and_one_apply_function():
    fields = {field.name for field in log_pb2.RaftEntry.DESCRIPTOR.oneofs_by_name["command"].fields}
    assert set(commands.BY_FIELD) == fields
    assert len(set(commands.BY_FIELD.values())) == len(fields)
    assert set(machine.APPLY) == set(commands.BY_FIELD.values())
    assert len(set(machine.APPLY.values())) == len(fields)


def test_tags_are_permanent():
    numbers = {f.name: f.number for f in log_pb2.RaftEntry.DESCRIPTOR.oneofs_by_name["command"].fields}
    assert numbers == {
        "no_op": 10, "create_token": 11, "revoke_token": 12, "enroll_node": 13, "renew_certificate": 14,
        "update_node": 15, "remove_node": 16, "report_node": 17, "put_workload": 18, "scale_workload": 19,
        "delete_workload": 20, "apply_plan": 21, "report_replicas": 22, "put_user": 23, "revoke_user": 24,
        "restart_workload": 25, "enroll_coordinator": 26, "announce_coordinator": 27, "remove_coordinator": 28,
        "record_event": 29, "control_rollout": 30, "start_run": 31,
    }  # fmt: skip


def test_a_command_without_fields_survives_the_wire():
    entry = Entry(1, "r1", 7, "system/leader", NoOp())
    assert decode(encode(entry)) == entry


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "schema 0"),
        (b"\xff\xff\xff", "not a log entry"),
        (log_pb2.RaftEntry(schema=4).SerializeToString(), "schema 4"),
        (log_pb2.RaftEntry(schema=1, actor="a").SerializeToString(), "no command"),
        (log_pb2.RaftEntry(schema=1).SerializeToString() + b"\xca\x3e\x01x", "no command"),  # field 1001 of a later one
        (encode(Entry(1, "", 0, "", ScaleWorkload("ns", "web", 3)))[:-1], "not a log entry"),
    ],
)
def test_what_is_no_entry_is_refused_with_the_cause(data, why):
    with pytest.raises(ValueError, match=why):
        decode(data)


def test_a_number_that_does_not_fit_its_field_is_refused_before_it_is_proposed():
    with pytest.raises(ValueError, match="out of range"):
        encode(Entry(1, "", 0, "", ScaleWorkload("ns", "web", 2**31)))
