"""Every domain type survives the way to its proto message, over the wire, and back."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudless.api.v1 import convert, log_pb2, session_pb2, spec_pb2, types_pb2
from cloudless.coordinator.core import commands
from cloudless.core import model, spec
from cloudless.testing.strategies import instances

TYPES = [
    (cls, message)
    for module in (spec, model)
    for name, cls in vars(module).items()
    if isinstance(cls, type) and dataclasses.is_dataclass(cls) and cls.__module__ == module.__name__
    for message in [getattr(m, name) for m in (spec_pb2, types_pb2, session_pb2) if hasattr(m, name)]
]


def test_the_domain_types_have_messages() -> None:
    assert {spec.WorkloadSpec, model.Node, model.Replica, model.Assignment, model.Event} <= {cls for cls, _ in TYPES}


@pytest.mark.parametrize(("cls", "message_type"), TYPES, ids=lambda value: value.__name__)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_round_trip(cls: type, message_type: type, data: st.DataObject) -> None:
    value = data.draw(instances(cls))
    wire = convert.to_proto(value, message_type).SerializeToString()
    assert convert.from_proto(message_type.FromString(wire), cls) == value


def test_an_enum_of_a_later_version_reads_as_none() -> None:
    message = types_pb2.Node(state=99)
    assert convert.from_proto(message, model.Node).state is None


def test_a_field_that_the_message_lacks_is_a_mistake() -> None:
    with pytest.raises(TypeError, match="no field 'type' for WorkloadSpec"):
        convert.to_proto(spec.WorkloadSpec(), spec_pb2.Metadata)


def test_an_optional_zero_is_kept_and_an_empty_message_is_present() -> None:
    context = convert.to_proto(spec.SecurityContext(run_as_user=0, privileged=False), spec_pb2.SecurityContext)
    assert context.HasField("run_as_user")
    assert context.HasField("privileged")
    assert not context.HasField("host_network")
    container = convert.to_proto(spec.Container(), spec_pb2.Container)
    assert container.HasField("resources")  # as it always was: equal objects have equal bytes
    assert not container.HasField("startup_probe")


def put_back(metadata: spec.Metadata, body: spec.WorkloadSpec) -> commands.PutWorkload:
    put = commands.PutWorkload(metadata, body)
    wire = convert.to_proto(put, log_pb2.PutWorkload).SerializeToString()
    back = convert.from_proto(log_pb2.PutWorkload.FromString(wire), commands.PutWorkload)
    assert back == put
    return back


def test_equal_specs_are_read_as_one_object_and_written_from_its_bytes() -> None:
    body = spec.WorkloadSpec(replicas=3, containers=(spec.Container(name="main", image="web:1"),))
    first, again = put_back(spec.Metadata("a"), body), put_back(spec.Metadata("b"), body)
    other = put_back(spec.Metadata("a"), dataclasses.replace(body, replicas=4))
    assert first.spec is again.spec
    assert other.spec.replicas == 4
    for _ in range(2):  # written, and copied from what was written
        assert convert.to_proto(first, log_pb2.PutWorkload).spec == convert.to_proto(body, spec_pb2.WorkloadSpec)


def test_more_specs_than_are_kept_and_large_ones_make_no_difference() -> None:
    large = spec.WorkloadSpec(containers=(spec.Container(name="main", command=("x" * 10_000,)),))
    for number in range(3000):
        put_back(spec.Metadata("a"), spec.WorkloadSpec(replicas=number))
        if number % 1000 == 0:
            put_back(spec.Metadata("a"), large)
