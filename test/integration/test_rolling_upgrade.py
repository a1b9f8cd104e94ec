"""Three real coordinators in one event loop, upgraded one after the other while they serve, and downgraded."""

from __future__ import annotations

import asyncio
import functools
from pathlib import Path

import pytest

from cloudless.coordinator import joining, main
from cloudless.coordinator.core import commands
from cloudless.coordinator.core.commands import RestartWorkload
from cloudless.coordinator.core.snapshot import state_hash
from cloudless.coordinator.wal.machine import FabricMachine
from cloudless.errors import CloudlessError, FailedPrecondition
from cloudless.testing.coordinator import Cluster, RunningCoordinator, eventually

OLD, NEW = commands.SCHEMA, commands.SCHEMA + 1
ONLY_NEW = RestartWorkload("default", "web")  # as if the next version had brought it


class Upgrading:
    """Coordinators c1 to c3, each of which runs the version that it was last started with."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        # Snapshots all the time: one of a state that was got wrong would stay.
        self.cluster = Cluster(directory, store__snapshot_entries=5)
        self._monkeypatch = monkeypatch
        monkeypatch.setattr(commands, "SCHEMA", NEW)
        monkeypatch.setitem(commands.SINCE, RestartWorkload, NEW)

    def version(self, schema: int) -> None:
        """What is started from now on."""
        self._monkeypatch.setattr(main, "FabricMachine", functools.partial(FabricMachine, schema=schema))
        self._monkeypatch.setattr(joining, "SCHEMA", schema)

    async def restart(self, name: str, schema: int) -> RunningCoordinator:
        """Returns when it is ready again."""
        await self.cluster.stop(name)
        self.version(schema)
        member = await self.cluster.start(name)
        await asyncio.wait_for(member.coordinator.wait_ready(), 20)
        return member

    async def agree(self) -> str:
        """The hash of the state that all of them come to hold."""
        members = self.cluster.members.values()

        def hashes() -> set[tuple[int, str]]:
            return {(member.store.snapshot.index, state_hash(member.state)) for member in members}

        await eventually(lambda: len(hashes()) == 1, what="one state everywhere")
        return hashes().pop()[1]

    async def write_everywhere(self, label: str) -> None:
        for name, member in self.cluster.members.items():
            for number in range(4):
                await member.put_workload(f"{label}-{name}-{number}", replicas=0)


@pytest.fixture
async def upgrading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    started = Upgrading(tmp_path, monkeypatch)
    try:
        yield started
    finally:
        await started.cluster.close()


async def _form(upgrading: Upgrading, schema: int) -> None:
    upgrading.version(schema)
    cluster = upgrading.cluster
    await cluster.start("c1")
    for name in ("c2", "c3"):
        await cluster.add(name)
    await cluster.voters("c1", "c2", "c3")
    for member in cluster.members.values():
        await asyncio.wait_for(member.coordinator.wait_ready(), 20)


async def _propose(member: RunningCoordinator) -> None:
    await member.store.propose(ONLY_NEW, actor=f"coordinator/{member.config.id}")


def _generations(member: RunningCoordinator) -> set[int]:
    """Of the workload that was restarted: one more for each entry that only the next version knows."""
    return {member.state.workloads["default", "web"].generation}


async def test_one_after_the_other(upgrading: Upgrading) -> None:
    cluster = upgrading.cluster
    await _form(upgrading, OLD)
    await cluster.members["c1"].put_workload("web", replicas=0)
    leader = (await cluster.leader()).config.id
    order = [*sorted(set(cluster.members) - {leader}), leader]
    for done, name in enumerate(order):
        expected = [OLD] * (3 - done) + [NEW] * done
        await eventually(
            lambda at=cluster.members[name], expected=expected: (
                sorted(r.schema for r in at.state.coordinators.values()) == expected
            ),
            what=f"{name} to know which are new",
        )
        for member in cluster.members.values():
            with pytest.raises(FailedPrecondition) as caught:
                await _propose(member)
            assert caught.value.reason == "UpgradeNotFinished"
            assert caught.value.remedy
        await upgrading.write_everywhere(f"round{done}")
        await upgrading.agree()
        await upgrading.restart(name, NEW)
    await eventually(
        lambda: all({r.schema for r in m.state.coordinators.values()} == {NEW} for m in cluster.members.values()),
        what="everybody to know that all are new",
    )
    for member in cluster.members.values():
        await _propose(member)
    await upgrading.write_everywhere("after")
    await upgrading.agree()
    assert [_generations(member) for member in cluster.members.values()] == [{4}, {4}, {4}]


async def test_there_is_no_way_back(upgrading: Upgrading) -> None:
    """What an older version does not understand it must not skip: its state would be another one for good."""
    cluster = upgrading.cluster
    await _form(upgrading, NEW)
    await upgrading.write_everywhere("before")
    await cluster.members["c1"].put_workload("web", replicas=0)
    leader = await cluster.leader()
    back = next(name for name in cluster.members if name != leader.config.id)
    await cluster.stop(back)
    await cluster.leader()
    for member in cluster.members.values():
        for _ in range(4):
            await _propose(member)
    upgrading.version(OLD)
    end = await _end_of(cluster, back)
    assert end.reason == "CoordinatorTooOld"
    assert f"coordinator {back} understands" in end.message
    assert end.remedy
    upgrading.version(NEW)
    again = await cluster.start(back)
    await asyncio.wait_for(again.coordinator.wait_ready(), 20)
    await upgrading.write_everywhere("after")
    await upgrading.agree()
    assert _generations(again) == {9}


async def _end_of(cluster: Cluster, name: str) -> CloudlessError:
    """Starts it, and returns what it ends with."""
    try:
        started = await cluster.start(name)
        await asyncio.wait_for(started.coordinator.wait(asyncio.Event()), 20)
    except CloudlessError as error:
        if name in cluster.members:
            await cluster.kill(name)
        return error
    raise AssertionError(f"{name} goes on")
