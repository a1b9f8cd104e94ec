"""An etcd that was put back is noticed; one that is merely asked while entries are applied is not taken for it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cloudless.coordinator.etcd.replica import Replica
from cloudless.errors import Corrupt


def replica(applied: int, *, applied_meanwhile: int = 0) -> Replica:
    """One whose etcd holds nothing, and whose host has applied so much before and while it is asked."""
    host = SimpleNamespace(applied_index=applied)

    async def answer(_key: bytes) -> Any:
        host.applied_index += applied_meanwhile
        return SimpleNamespace(kvs=[], header=SimpleNamespace(revision=1))

    client: Any = SimpleNamespace(range=answer)
    nothing: Any = lambda *_: None  # noqa: E731
    made: Any = Replica(
        client,
        SimpleNamespace(head=b"head"),  # type: ignore[arg-type]
        host,  # type: ignore[arg-type]
        on_leader=nothing,
        on_leader_gone=nothing,
        on_applied=nothing,
    )
    return made


async def test_what_is_applied_while_etcd_is_asked_is_no_contradiction() -> None:
    await replica(0, applied_meanwhile=1)._check_head()


async def test_an_etcd_that_holds_less_than_was_applied_before_was_put_back() -> None:
    with pytest.raises(Corrupt, match="put back to an older state"):
        await replica(1)._check_head()
