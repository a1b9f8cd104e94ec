"""Refusals at the member listener: every one is counted, and the log gets a bounded number of them."""

from __future__ import annotations

import asyncio
from pathlib import Path

from cloudless.coordinator.core.state import State
from cloudless.coordinator.refusals import EVENTS_PER_MINUTE_MAX, REFUSED, MemberRefusals
from cloudless.coordinator.store import Store
from cloudless.coordinator.wal.machine import FabricMachine
from cloudless.core.model import Event, Severity


class Clock:
    def __init__(self) -> None:
        self.at_ms = 0

    def now_ms(self) -> int:
        return 1_700_000_000_000 + self.at_ms

    def monotonic_ms(self) -> int:
        return self.at_ms


async def _recorded(store: Store[State], count: int) -> list[Event]:
    """The events, once there are so many."""
    watch = store.watch(0)
    try:
        async with asyncio.timeout(5):
            while len(found := [e for e in store.snapshot.state.events if e.type == "security.member_refused"]) < count:
                await anext(watch)
    finally:
        watch.close()
    return found


def _count(reason: str) -> float:
    return REFUSED.labels(reason)._value.get()


async def test_a_flood_is_counted_and_recorded_in_part(tmp_path: Path) -> None:
    clock = Clock()
    store = await Store.open(tmp_path / "log", machine=FabricMachine("fabric.example"), clock=clock)
    refusals = MemberRefusals("c1", clock)
    recorder = asyncio.create_task(refusals.record(store))
    before = _count("NotACoordinator")
    try:
        for number in range(25):
            refusals.refused(
                peer=f"192.0.2.1:{number}",
                who=f"spiffe://fabric.example/node/n{number}",
                reason="NotACoordinator",
                detail="x" * 5000,
            )
        assert _count("NotACoordinator") == before + 25
        first = await _recorded(store, EVENTS_PER_MINUTE_MAX)
        clock.at_ms += 60_000
        refusals.refused(peer="192.0.2.2:1", who="", reason="NoCertificate", detail="it showed none")
        last = (await _recorded(store, EVENTS_PER_MINUTE_MAX + 1))[-1]
    finally:
        recorder.cancel()
        await store.close()
    assert len(first) == EVENTS_PER_MINUTE_MAX
    assert first[0].resource == "coordinator/c1"
    assert first[0].severity is Severity.WARNING
    assert dict(first[0].metadata) == {
        "peer": "192.0.2.1:0",
        "reason": "NotACoordinator",
        "certificate": "spiffe://fabric.example/node/n0",
    }
    assert last.metadata["before"] == "15"
    assert "it showed none" in last.description


async def test_one_who_goes_on_knocking_is_recorded_once_a_minute(tmp_path: Path) -> None:
    clock = Clock()
    store = await Store.open(tmp_path / "log", machine=FabricMachine("fabric.example"), clock=clock)
    refusals = MemberRefusals("c1", clock)
    recorder = asyncio.create_task(refusals.record(store))

    def knock(port: int, who: str = "c3", reason: str = "Removed") -> None:
        refusals.refused(peer=f"192.0.2.1:{port}", who=who, reason=reason, detail="it was removed")

    try:
        for port in range(5):
            knock(port)
        knock(5, reason="WrongCluster")
        await _recorded(store, 2)
        clock.at_ms += 60_000
        knock(6)
        events = await _recorded(store, 3)
    finally:
        recorder.cancel()
        await store.close()
    found = [(event.metadata["reason"], event.metadata.get("before", "0")) for event in events]
    assert found == [("Removed", "0"), ("WrongCluster", "4"), ("Removed", "0")]
