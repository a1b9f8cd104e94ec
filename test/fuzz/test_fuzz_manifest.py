"""The manifest reader on arbitrary and mutated input: it answers with workloads or with problems, nothing else."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudless.api.v1 import convert, spec_pb2
from cloudless.core import defaults, validation
from cloudless.manifest import Source, parse
from cloudless.manifest.encode import manifest, to_yaml
from cloudless.testing.strategies import workloads

SETTINGS = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
SEED = b"""apiVersion: cloudless.dev/v1
kind: Workload
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 3
  containers:
    - &c {name: web, image: 'nginx:1.27', env: [{name: A, value: "b\\n"}], ports: [{name: http, containerPort: 80}]}
    - {<<: *c, name: two, ports: [], livenessProbe: {http: {port: 80}, period: 1m30s}}
  rollout: {maxSurge: 1, minReadySeconds: 5}
---
{"apiVersion": "cloudless.dev/v1", "kind": "Workload", "metadata": {"name": "b"}, "spec": {"containers": []}}
"""
SPLICES = st.sampled_from(
    rb"""\t \0 &a *c !! <<: ? - : \xff \xed\xa0\x80 --- ... { } [ ] " ' |\n >-\n %YAML -1 1e400 9999999999999 null ~"""
    .decode("unicode_escape").encode("latin-1").split(b" ")
)  # fmt: skip


def check(data: bytes | str) -> None:
    parsed = parse([Source("fuzz.yaml", data)])
    for problem in parsed.problems:
        assert problem.file == "fuzz.yaml"
        assert problem.line >= 0
        assert problem.message
        assert len(str(problem)) < 2000
    if not parsed.problems:
        for read in parsed.manifests:
            assert validation.validate(*defaults.apply(read.metadata, read.spec)) == ()
            # What passes can be sent.
            convert.to_proto(read.spec, spec_pb2.WorkloadSpec).SerializeToString()
            convert.to_proto(read.metadata, spec_pb2.Metadata).SerializeToString()


@SETTINGS
@given(st.binary(max_size=200) | st.text(max_size=200))
def test_arbitrary_input(data: bytes | str) -> None:
    check(data)


@SETTINGS
@given(st.lists(st.tuples(st.integers(0, len(SEED)), st.integers(0, 6), SPLICES | st.binary(max_size=3)), max_size=6))
def test_a_mutated_file(edits: list[tuple[int, int, bytes]]) -> None:
    data = SEED
    for position, removed, inserted in edits:
        data = data[:position] + inserted + data[position + removed :]
    check(data)


@settings(SETTINGS, max_examples=60)
@given(workload=workloads(), data=st.data())
def test_a_mutated_workload(workload: tuple, data: st.DataObject) -> None:
    """Any value of a valid manifest replaced by any other."""
    document = manifest(*workload)
    where: object = document
    while True:
        keys = list(where) if isinstance(where, dict) else list(range(len(where)))  # type: ignore[arg-type, call-overload]
        key = data.draw(st.sampled_from(keys))
        child = where[key]  # type: ignore[index]
        if isinstance(child, dict | list) and child and data.draw(st.booleans()):
            where = child
            continue
        scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10)
        where[key] = data.draw(scalars | st.lists(scalars, max_size=2) | st.dictionaries(st.text(max_size=5), scalars))  # type: ignore[index]
        break
    check(to_yaml(document))
