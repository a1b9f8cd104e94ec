"""Ids of new replicas: the workload's name and five characters that follow from a seed."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Container, Iterator
from typing import Final

_SUFFIX: Final = 5
_NAME_MAX: Final = 63 - 1 - _SUFFIX  # an id is a DNS label, too


def new_ids(taken: Container[str], *, namespace: str, name: str, seed: int) -> Iterator[str]:
    """Ids such as `web-x7k2p` that are not taken and differ from each other; endless.

    The same arguments give the same ids. `taken` is every replica id of the state: ids are unique over all
    namespaces.
    """
    prefix = name[:_NAME_MAX].rstrip("-")
    given: set[str] = set()
    counter = 0
    while True:
        digest = hashlib.sha256(f"{seed}/{namespace}/{name}/{counter}".encode()).digest()
        counter += 1
        candidate = f"{prefix}-{base64.b32encode(digest)[:_SUFFIX].decode().lower()}"
        if candidate not in taken and candidate not in given:
            given.add(candidate)
            yield candidate
