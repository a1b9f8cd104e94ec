"""Any workload, written as a manifest, reads back as itself; defaults and validation agree with each other."""

from __future__ import annotations

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudless.core import defaults, validation
from cloudless.core.spec import Metadata, WorkloadSpec
from cloudless.manifest import Source, parse
from cloudless.manifest.encode import manifest, to_yaml
from cloudless.testing.strategies import instances, workloads

SETTINGS = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@SETTINGS
@given(workload=workloads(), form=st.sampled_from(["yaml", "json", "ascii"]), filled=st.booleans())
def test_written_and_read_back(workload: tuple[Metadata, WorkloadSpec], form: str, filled: bool) -> None:
    metadata, spec = defaults.apply(*workload) if filled else workload
    document = manifest(metadata, spec)
    text = to_yaml(document) if form == "yaml" else json.dumps(document, ensure_ascii=form == "ascii")
    parsed = parse([Source("w.yaml", text)])
    assert parsed.problems == ()
    assert parsed.manifests[0].metadata == metadata
    assert defaults.apply(metadata, parsed.manifests[0].spec) == defaults.apply(metadata, spec)
    if filled:
        assert parsed.manifests[0].spec == spec


@SETTINGS
@given(workload=workloads())
def test_a_valid_workload_stays_valid_with_its_defaults(workload: tuple[Metadata, WorkloadSpec]) -> None:
    assert validation.validate(*workload) == ()
    assert validation.validate(*defaults.apply(*workload)) == ()


@SETTINGS
@given(metadata=instances(Metadata), spec=instances(WorkloadSpec))
def test_defaults_are_total_and_idempotent(metadata: Metadata, spec: WorkloadSpec) -> None:
    filled = defaults.apply(metadata, spec)
    assert defaults.apply(*filled) == filled


@SETTINGS
@given(metadata=instances(Metadata), spec=instances(WorkloadSpec))
def test_validation_is_total(metadata: Metadata, spec: WorkloadSpec) -> None:
    for violation in validation.validate(metadata, spec):
        assert violation.path.split(".")[0] in ("metadata", "spec")
        assert violation.message
        assert violation.remedy
