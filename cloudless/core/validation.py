"""Is a workload well formed? Every violation at once, each with its path in the manifest and what to do.

`validate` takes a spec before or after its defaults were filled in: what is not stated (zero, empty, None) is
no violation unless it has no default. The coordinator runs it on every write; the manifest reader runs it to
point at the line. What this version of Cloudless cannot honour is refused here too, never ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from cloudless.core.annotation_rules import annotation_violations
from cloudless.core.container_rules import (
    container_violations,
    containers_violations,
    runtime_class_violations,
    security_violations,
)
from cloudless.core.job_rules import job_violations
from cloudless.core.labels import NAME_LENGTH_MAX, is_dns_label, is_label_key, is_label_value
from cloudless.core.lease_rules import lease_violations
from cloudless.core.placement_rules import neighbour_violations
from cloudless.core.rollout_rules import rollout_violations
from cloudless.core.spec import (
    Affinity,
    AntiAffinity,
    Metadata,
    Placement,
    RestartPolicy,
    SpreadConstraint,
    Toleration,
    WorkloadSpec,
)
from cloudless.core.termination_rules import termination_violations
from cloudless.core.violations import Violation, bounded, duration

__all__ = [
    "Violation",
    "validate",
    "validate_labels",
    "validate_metadata",
    "validate_name",
    "validate_replicas",
    "validate_spec",
]

REPLICAS_MAX: Final = 10_000
PRIORITY_MAX: Final = 100
LABELS_MAX: Final = 64
TERMS_MAX: Final = 64  # of each list under placement
ANNOTATIONS_LENGTH_MAX: Final = 64 * 2**10
TOPOLOGY_WORDS: Final = ("node", "zone", "region")

_NAME_REMEDY: Final = f"use at most {NAME_LENGTH_MAX} of a-z, 0-9 and -, with a letter or digit at both ends"
_KEY_REMEDY: Final = "use letters, digits, -, _ and . (at most 63), with an optional prefix as in example.com/name"
_VALUE_REMEDY: Final = "use at most 63 letters, digits, -, _ and ., with a letter or digit at both ends"


def validate(metadata: Metadata, spec: WorkloadSpec) -> tuple[Violation, ...]:
    """Everything that is wrong with this workload, in the order of the manifest; empty when it is well formed."""
    return (*_metadata(metadata), *_spec(spec))


def validate_metadata(metadata: Metadata) -> tuple[Violation, ...]:
    """The part of `validate` that is about the metadata."""
    return tuple(_metadata(metadata))


def validate_spec(spec: WorkloadSpec) -> tuple[Violation, ...]:
    """The part of `validate` that is about the spec."""
    return tuple(_spec(spec))


def validate_name(text: str, path: str) -> tuple[Violation, ...]:
    """Violations of a name that must be a DNS label: of workloads, namespaces, nodes and people."""
    if is_dns_label(text):
        return ()
    what = f"{text[:80]!r} is not a valid name" if text else "a name is required"
    return (Violation(path, what, _NAME_REMEDY),)


def validate_labels(labels: Mapping[str, str], path: str) -> tuple[Violation, ...]:
    """Violations of a map of labels: keys `[prefix/]name`, values of at most 63 characters."""
    return tuple(_labels(labels, path))


def validate_replicas(replicas: int, path: str = "spec.replicas") -> tuple[Violation, ...]:
    """Violations of a number of replicas, as in a scale request."""
    return tuple(bounded(replicas, path, lowest=0, highest=REPLICAS_MAX))


def _metadata(metadata: Metadata) -> Iterator[Violation]:
    yield from validate_name(metadata.name, "metadata.name")
    if metadata.namespace:
        yield from validate_name(metadata.namespace, "metadata.namespace")
    yield from _labels(metadata.labels, "metadata.labels")
    for key in metadata.annotations:
        if not is_label_key(key):
            path = f"metadata.annotations.{key}"
            yield Violation(path, f"{key[:80]!r} is not an annotation's key", _KEY_REMEDY)
    if sum(len(key) + len(value) for key, value in metadata.annotations.items()) > ANNOTATIONS_LENGTH_MAX:
        remedy = f"use at most {ANNOTATIONS_LENGTH_MAX} characters in all"
        yield Violation("metadata.annotations", "the annotations are too long", remedy)
    yield from annotation_violations(metadata)


def _labels(labels: Mapping[str, str], path: str) -> Iterator[Violation]:
    if len(labels) > LABELS_MAX:
        yield Violation(path, f"{len(labels)} labels are too many", f"use at most {LABELS_MAX}")
    for key, value in labels.items():
        if not is_label_key(key):
            yield Violation(f"{path}.{key}", f"{key[:80]!r} is not a label key", _KEY_REMEDY)
        if not is_label_value(value):
            yield Violation(f"{path}.{key}", f"{value[:80]!r} is not a label value", _VALUE_REMEDY)


def _spec(spec: WorkloadSpec) -> Iterator[Violation]:
    yield from job_violations(spec)
    yield from validate_replicas(spec.replicas)
    yield from bounded(spec.priority, "spec.priority", lowest=0, highest=PRIORITY_MAX)
    yield from containers_violations(spec.containers, "spec.containers")
    for index, container in enumerate(spec.containers):
        yield from container_violations(container, f"spec.containers[{index}]")
    yield from _placement(spec.placement)
    yield from _restart_policy(spec.restart_policy)
    yield from rollout_violations(spec)
    yield from duration(spec.disruption.offline_grace_ms, "spec.disruption.offlineGrace")
    yield from lease_violations(spec.disruption)
    yield from termination_violations(spec.termination, spec.containers, "spec.termination")
    if spec.security_context is not None:
        path = "spec.securityContext"
        yield from security_violations(spec.security_context, path)
        yield from runtime_class_violations(spec.containers, spec.security_context.runtime_class_name, path)


def _placement(placement: Placement) -> Iterator[Violation]:
    path = "spec.placement"
    for field in ("regions", "zones"):
        yield from _names(getattr(placement, field), f"{path}.{field}")
    yield from _labels(placement.node_selector, f"{path}.nodeSelector")
    terms: tuple[tuple[str, Sequence[object]], ...] = (
        ("tolerations", placement.tolerations),
        ("affinity", placement.affinity),
        ("antiAffinity", placement.anti_affinity),
        ("spread", placement.spread),
    )
    for key, items in terms:
        if len(items) > TERMS_MAX:
            yield Violation(f"{path}.{key}", f"{len(items)} terms are too many", f"use at most {TERMS_MAX}")
    for index, toleration in enumerate(placement.tolerations):
        yield from _toleration(toleration, f"{path}.tolerations[{index}]")
    for index, wish in enumerate(placement.affinity):
        yield from _neighbours(wish, f"{path}.affinity[{index}]")
    for index, term in enumerate(placement.anti_affinity):
        yield from _neighbours(term, f"{path}.antiAffinity[{index}]")
    yield from neighbour_violations(placement, path)
    yield from _spread(placement.spread, f"{path}.spread")


def _names(names: Sequence[str], path: str) -> Iterator[Violation]:
    if len(names) > TERMS_MAX:
        yield Violation(path, f"{len(names)} names are too many", f"use at most {TERMS_MAX}")
    seen: dict[str, int] = {}
    for index, name in enumerate(names):
        if not name or not is_label_value(name):
            yield Violation(f"{path}[{index}]", f"{name[:80]!r} is not a label value", _VALUE_REMEDY)
        elif name in seen:
            yield Violation(f"{path}[{index}]", f"{name!r} is listed twice", "remove one of the two")
        seen.setdefault(name, index)


def _toleration(toleration: Toleration, path: str) -> Iterator[Violation]:
    if toleration.operator not in ("", "Equal", "Exists"):
        what = f"{toleration.operator[:80]!r} is not an operator"
        yield Violation(f"{path}.operator", what, "use Equal or Exists")
    elif toleration.operator == "Exists" and toleration.value:
        yield Violation(f"{path}.value", "Exists takes no value", "remove the value or use Equal")
    elif toleration.operator != "Exists" and not toleration.key:
        remedy = "name the taint's key, or use the operator Exists to tolerate every taint"
        yield Violation(f"{path}.key", "Equal needs a key", remedy)
    if toleration.key and not is_label_key(toleration.key):
        yield Violation(f"{path}.key", f"{toleration.key[:80]!r} is not a taint's key", _KEY_REMEDY)
    if not is_label_value(toleration.value):
        yield Violation(f"{path}.value", f"{toleration.value[:80]!r} is not a taint's value", _VALUE_REMEDY)


def _topology_key(key: str, path: str) -> Iterator[Violation]:
    if key not in TOPOLOGY_WORDS and not is_label_key(key):
        what = f"{key[:80]!r} is not a topology key" if key else "a topology key is required"
        yield Violation(path, what, "use node, zone, region or a node label's key")


def _neighbours(term: Affinity | AntiAffinity, path: str) -> Iterator[Violation]:
    if term.workload:
        yield from validate_name(term.workload, f"{path}.workload")
    if term.topology_key:
        yield from _topology_key(term.topology_key, f"{path}.topologyKey")


def _spread(spread: Sequence[SpreadConstraint], path: str) -> Iterator[Violation]:
    seen: dict[str, int] = {}
    for index, term in enumerate(spread):
        here = f"{path}[{index}]"
        yield from _topology_key(term.topology_key, f"{here}.topologyKey")
        if term.topology_key in seen:
            what = f"{term.topology_key!r} is already spread over by {path}[{seen[term.topology_key]}]"
            yield Violation(f"{here}.topologyKey", what, "remove one of the two")
        elif term.topology_key:
            seen[term.topology_key] = index
        yield from bounded(term.max_skew, f"{here}.maxSkew", lowest=0, highest=REPLICAS_MAX)


def _restart_policy(policy: RestartPolicy) -> Iterator[Violation]:
    path = "spec.restartPolicy"
    yield from bounded(policy.max_retries, f"{path}.maxRetries", lowest=0, highest=1_000_000)
    yield from duration(policy.backoff.initial_ms, f"{path}.backoff.initial")
    yield from duration(policy.backoff.max_ms, f"{path}.backoff.max")
    yield from duration(policy.backoff.reset_ms, f"{path}.backoff.reset")
    if 0 < policy.backoff.max_ms < policy.backoff.initial_ms:
        remedy = "lower backoff.initial or raise backoff.max"
        yield Violation(f"{path}.backoff.max", "the longest backoff is shorter than the first", remedy)
