"""Annotations that the fabric reads, beside those that are notes of people: their keys and what they may say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cloudless.core.spec import Metadata
from cloudless.core.violations import Violation

REBALANCE: Final = "cloudless.dev/rebalance"  # a service's replicas may be moved to clearly better nodes

_WORDS: Final = ("true", "false")


def rebalances(metadata: Metadata) -> bool:
    """Whether the workload asks for its replicas to be moved to better nodes."""
    return metadata.annotations.get(REBALANCE) == "true"


def annotation_violations(metadata: Metadata) -> Iterator[Violation]:
    """What is wrong with the values of annotations that the fabric reads."""
    stated = metadata.annotations.get(REBALANCE)
    if stated is not None and stated not in _WORDS:
        what = f"{stated[:80]!r} is neither true nor false"
        yield Violation(f"metadata.annotations.{REBALANCE}", what, 'use "true" or "false", in quotes')
