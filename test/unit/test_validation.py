"""Validation of what reaches the coordinator by the API, where no manifest reader stood before it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cloudless.core import validation
from cloudless.core.container_rules import is_image_reference
from cloudless.core.spec import (
    Container,
    EnvVar,
    ExecProbe,
    HttpProbe,
    Metadata,
    Placement,
    PreStop,
    Probe,
    ResourceAmounts,
    Resources,
    Rollout,
    RolloutStrategy,
    SecurityContext,
    Termination,
    Toleration,
    WorkloadSpec,
)

METADATA = Metadata(name="web", namespace="default")
CONTAINER = Container(name="web", image="nginx")
SPEC = WorkloadSpec(replicas=1, containers=(CONTAINER,))


def paths(spec: WorkloadSpec = SPEC, metadata: Metadata = METADATA) -> list[str]:
    return [violation.path for violation in validation.validate(metadata, spec)]


def with_container(**changes: object) -> WorkloadSpec:
    return replace(SPEC, containers=(replace(CONTAINER, **changes),))  # type: ignore[arg-type]


def stopping(hook: PreStop, *, grace_ms: int = 0) -> WorkloadSpec:
    return replace(SPEC, termination=Termination(grace_ms, hook))


@pytest.mark.parametrize(
    "hook",
    [PreStop(exec=ExecProbe(("a",))), PreStop(http=HttpProbe("", "80")), PreStop(sleep_ms=9_999)],
    ids=["exec", "http", "sleep"],
)
def test_hooks_before_the_request_to_stop(hook: PreStop) -> None:
    assert paths(stopping(hook)) == []


def test_the_least_workload_is_well_formed() -> None:
    assert paths() == []


def test_an_empty_spec_and_metadata() -> None:
    assert paths(WorkloadSpec(), Metadata()) == ["metadata.name", "spec.containers"]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (replace(SPEC, termination=Termination(grace_period_ms=-1)), ["spec.termination.gracePeriod"]),
        (stopping(PreStop()), ["spec.termination.preStop"]),
        (stopping(PreStop(exec=ExecProbe(("a",)), sleep_ms=1_000)), ["spec.termination.preStop"]),
        (stopping(PreStop(exec=ExecProbe())), ["spec.termination.preStop.exec.command"]),
        (stopping(PreStop(exec=ExecProbe(("a\0",)))), ["spec.termination.preStop.exec.command[0]"]),
        (stopping(PreStop(http=HttpProbe("/", "web"))), ["spec.termination.preStop.http.port"]),
        (stopping(PreStop(http=HttpProbe("/a b", "80"))), ["spec.termination.preStop.http.path"]),
        (stopping(PreStop(sleep_ms=10_000)), ["spec.termination.preStop.sleep"]),
        (stopping(PreStop(sleep_ms=5_000), grace_ms=5_000), ["spec.termination.preStop.sleep"]),
        (stopping(PreStop(sleep_ms=-1)), ["spec.termination.preStop.sleep"]),
        (with_container(resources=Resources(ResourceAmounts(cpu_millis=-1))), ["resources.requests.cpu"]),
        (with_container(resources=Resources(ResourceAmounts(pids=2**62))), ["resources.requests.pids"]),
        (with_container(resources=Resources(limits=ResourceAmounts(cpu_millis=9))), ["resources.limits.cpu"]),
        (with_container(env=(EnvVar("A", "a\0b"),)), ["env[0].value"]),
        (with_container(env=(EnvVar("", "a"),)), ["env[0].name"]),
        (with_container(args=("a\0b",)), ["args[0]"]),
        (with_container(args=("a" * 200_000,)), ["args[0]"]),
        (with_container(working_dir="srv"), ["workingDir"]),
        (with_container(liveness_probe=Probe(exec=ExecProbe())), ["livenessProbe.exec.command"]),
        (with_container(liveness_probe=Probe(http=HttpProbe(port="0"))), ["livenessProbe.http.port"]),
        (with_container(liveness_probe=Probe(http=HttpProbe(port="9" * 50))), ["livenessProbe.http.port"]),
        (
            with_container(liveness_probe=Probe(http=HttpProbe(port="1", headers={"A": "b\r\nC: d"}))),
            ["livenessProbe.http.headers.A"],
        ),
        (with_container(image="", process=("",)), ["process[0]"]),
        (with_container(image="", process=("a",), args=("b",)), ["args"]),
        (
            with_container(security_context=SecurityContext(run_as_non_root=True, run_as_user=0)),
            ["securityContext.runAsUser"],
        ),
        (
            with_container(security_context=SecurityContext(runtime_class_name="process")),
            ["securityContext.runtimeClassName"],
        ),
        (
            replace(SPEC, security_context=SecurityContext(runtime_class_name="process")),
            ["spec.securityContext.runtimeClassName"],
        ),
        (
            replace(SPEC, containers=(CONTAINER, Container(name="b", process=("sleep",)))),
            ["spec.containers[1]"],
        ),
        (replace(SPEC, placement=Placement(zones=("a", "a"))), ["spec.placement.zones[1]"]),
        (replace(SPEC, placement=Placement(regions=("",))), ["spec.placement.regions[0]"]),
        (replace(SPEC, placement=Placement(tolerations=(Toleration(),))), ["spec.placement.tolerations[0].key"]),
        (
            replace(SPEC, rollout=Rollout(strategy=RolloutStrategy.RECREATE, min_available=1)),
            ["spec.rollout.minAvailable"],
        ),
        (replace(SPEC, containers=(CONTAINER,) * 33), ["spec.containers"]),
    ],
)
def test_each_violation_names_its_path(spec: WorkloadSpec, expected: list[str]) -> None:
    found = paths(spec)
    full = [path if path.startswith("spec.") else f"spec.containers[0].{path}" for path in expected]
    names = [f"spec.containers[{number}].name" for number in range(40)]  # of the case with too many containers
    assert [path for path in found if path not in names] == full


def test_a_workload_scaled_to_nothing_may_keep_its_rollout() -> None:
    assert paths(replace(SPEC, replicas=0, rollout=Rollout(min_available=2))) == []


def test_annotations_and_labels_are_bounded() -> None:
    metadata = replace(METADATA, labels={f"k{n}": "v" for n in range(65)}, annotations={"a": "x" * 70_000})
    assert paths(SPEC, metadata) == ["metadata.labels", "metadata.annotations"]


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("nginx", True),
        ("nginx:1.27", True),
        ("library/nginx", True),
        ("docker.io/library/nginx:1.27", True),
        ("cloudless.local/web:demo", True),
        ("localhost:5000/a/b/c:tag", True),
        ("a/b__c-d.e:v1", True),
        ("nginx@sha256:" + "a" * 64, True),
        ("nginx:1@sha256:" + "a" * 64, True),
        ("", False),
        ("Nginx", False),
        ("nginx:", False),
        ("nginx:a b", False),
        ("nginx@sha256:abc", False),
        ("/nginx", False),
        ("nginx/", False),
        ("a//b", False),
        ("http://nginx", False),
        ("nginx:" + "a" * 129, False),
        ("nginx\n", False),
        ("a" * 600, False),
    ],
)
def test_image_references(text: str, valid: bool) -> None:
    assert is_image_reference(text) is valid


def test_names_and_labels_of_other_objects() -> None:
    assert validation.validate_name("node-1", "name") == ()
    assert [str(v) for v in validation.validate_name("-x", "name")] == [
        "name: '-x' is not a valid name; use at most 63 of a-z, 0-9 and -, with a letter or digit at both ends"
    ]
    assert validation.validate_labels({"a/b": "c"}, "labels") == ()
    assert [v.path for v in validation.validate_labels({"a b": "c", "d": "-"}, "labels")] == ["labels.a b", "labels.d"]
    assert [v.path for v in validation.validate_replicas(-1)] == ["spec.replicas"]
