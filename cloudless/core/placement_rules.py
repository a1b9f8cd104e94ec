"""Rules for what a workload wants of its neighbours: affinity and anti-affinity."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cloudless.core.labels import is_label_key, is_label_value
from cloudless.core.spec import Affinity, AntiAffinity, Placement
from cloudless.core.violations import Violation, bounded

WEIGHT_MAX: Final = 100
LABELS_MAX: Final = 16  # of one term


def neighbour_violations(placement: Placement, path: str) -> Iterator[Violation]:
    """What is wrong with the terms themselves, beyond the names and topology keys in them, and between them."""
    for index, wish in enumerate(placement.affinity):
        yield from _term(wish, f"{path}.affinity[{index}]")
    for index, term in enumerate(placement.anti_affinity):
        yield from _term(term, f"{path}.antiAffinity[{index}]")
    apart = {_target(term): index for index, term in enumerate(placement.anti_affinity) if term.required}
    for index, wish in enumerate(placement.affinity):
        if wish.required and _target(wish) in apart:
            what = f"it asks for what antiAffinity[{apart[_target(wish)]}] rules out"
            yield Violation(f"{path}.affinity[{index}]", what, "remove one of the two")


def _term(term: Affinity | AntiAffinity, path: str) -> Iterator[Violation]:
    if term.workload and term.match_labels:
        yield Violation(path, "a term names a workload or labels, not both", "remove workload or matchLabels")
    if len(term.match_labels) > LABELS_MAX:
        what = f"{len(term.match_labels)} labels are too many"
        yield Violation(f"{path}.matchLabels", what, f"use at most {LABELS_MAX}")
    for key, value in term.match_labels.items():
        if not is_label_key(key) or not is_label_value(value):
            what = f"{key[:80]}={value[:80]} is not a label"
            yield Violation(f"{path}.matchLabels.{key}", what, "use the labels of the workloads that are meant")
    yield from bounded(term.weight, f"{path}.weight", lowest=0, highest=WEIGHT_MAX)
    if term.required and term.weight:
        yield Violation(f"{path}.weight", "a required term has no weight", "remove weight, or required")


def _target(term: Affinity | AntiAffinity) -> tuple[str, tuple[tuple[str, str], ...], str]:
    return term.workload, tuple(sorted(term.match_labels.items())), term.topology_key or "node"
