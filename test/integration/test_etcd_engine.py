"""The etcd engine against a real etcd: several stores on one log, and what happens when etcd is killed, frozen, full,
compacted by somebody else, or written by a stranger."""

import asyncio
import contextlib
import dataclasses
import signal
import subprocess

import pytest

from cloudless.clock import SystemClock
from cloudless.config import EtcdConfig, StoreConfig
from cloudless.coordinator.core.commands import PutUser
from cloudless.coordinator.etcd.client import EtcdClient
from cloudless.coordinator.etcd.engine import open_etcd
from cloudless.coordinator.etcd.layout import decode_entries, encode_entries
from cloudless.coordinator.store import Store
from cloudless.coordinator.wal.machine import FabricMachine
from cloudless.core.model import Role, RoleBinding, User
from cloudless.errors import Compacted, Corrupt, DiskFull, FailedPrecondition, InvalidArgument, Unavailable
from cloudless.testing.etcd import running_etcd

pytestmark = pytest.mark.xdist_group("etcd")
MACHINE = FabricMachine("etcd.test")
LEASE_MS = 1000


@pytest.fixture(scope="module")
def etcd(tmp_path_factory):
    with running_etcd(tmp_path_factory.mktemp("etcd")) as members:
        yield members[0]


@pytest.fixture
async def stores(etcd, tmp_path, request):
    """Opens stores on a prefix of this test's own; closes them all."""
    async with contextlib.AsyncExitStack() as stack:

        async def open_store(name, *, endpoint=etcd.endpoint, open_engine=open_etcd, timeout_s=10.0, **settings):
            settings.setdefault("snapshot_entries", 10**9)
            where = EtcdConfig(endpoints=(endpoint,), prefix=f"/{request.node.name}/", lease_ttl_ms=LEASE_MS)
            store = await Store.open(
                tmp_path / name,
                machine=MACHINE,
                clock=SystemClock(),
                config=StoreConfig(engine="etcd", etcd=where, **settings),
                member=name,
                engine=open_engine,
                propose_timeout_s=timeout_s,
            )
            stack.push_async_callback(store.close)
            return store

        yield open_store


def user(name, padding=""):
    return PutUser(User(name, (RoleBinding(Role.VIEWER, "ns" + padding),)))


async def put(store, name, **more):
    return await store.propose(user(name), actor="user/test", **more)


async def until(condition, timeout_s=15.0):
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


def digest(store):
    return MACHINE.state_hash(store.snapshot.state)


async def leader_of(*stores):
    await until(lambda: any(store.leading for store in stores))
    return next(store for store in stores if store.leading)


async def test_several_stores_are_one_log(stores):
    opened = [await stores(name) for name in ("c1", "c2", "c3")]
    await asyncio.gather(*(put(opened[n % 3], f"u{n}") for n in range(90)))
    for store in opened:
        await store.read_barrier()
        assert set(store.snapshot.state.users) == {f"u{n}" for n in range(90)}
    assert len({digest(store) for store in opened}) == 1
    leader = await leader_of(*opened)
    assert [store.leading for store in opened].count(True) == 1
    await until(lambda: {store.leader_id for store in opened} == {leader.status().member})


async def test_a_reopened_store_has_everything_and_a_repeat_has_no_second_effect(stores):
    first = await stores("c1")
    answer = await put(first, "alice", request_id="r1")
    await first.close()
    again = await stores("c1")
    assert "alice" in again.snapshot.state.users
    assert await put(again, "alice", request_id="r1") == answer


async def test_leadership_moves_at_once_when_the_leader_closes_and_its_term_is_no_longer_good(stores):
    one, two = await stores("c1"), await stores("c2")
    leader = await leader_of(one, two)
    other = two if leader is one else one
    heard = []
    leader.on_leadership(lambda leads: heard.append((leader.term, leads)))
    term = leader.term
    await put(leader, "planned", term=term)
    await leader.close()
    assert [leads for _, leads in heard] == [True, False]
    await until(lambda: other.leading, timeout_s=0.9 * LEASE_MS / 1000)
    assert other.term > term
    with pytest.raises(FailedPrecondition) as refused:
        await put(other, "stale", term=term)
    assert refused.value.reason == "LeadershipLost"
    assert "stale" not in other.snapshot.state.users


async def test_what_a_leader_plans_is_compared_in_etcd_itself(stores, etcd, request):
    """The leader has not noticed yet that its key is gone: the log refuses its plan all the same."""
    store = await stores("c1")
    await leader_of(store)
    term = store.term
    client = EtcdClient(EtcdConfig(endpoints=(etcd.endpoint,)))
    proposed = None
    try:
        store._engine._replica._on_leader_gone = lambda revision: None  # the news is late
        await client.delete(f"/{request.node.name}/leader".encode())
        proposed = await asyncio.gather(put(store, "stale", term=term), return_exceptions=True)
    finally:
        await client.close()
    assert isinstance(proposed[0], FailedPrecondition)
    assert proposed[0].reason == "LeadershipLost"
    assert "stale" not in store.snapshot.state.users


async def test_snapshots_replace_the_log_and_a_new_member_begins_with_one(stores, etcd, request, monkeypatch):
    monkeypatch.setattr("cloudless.coordinator.etcd.engine.TRAILING_ENTRIES", 10)
    one = await stores("c1", snapshot_entries=50)
    await leader_of(one)
    for start in range(0, 400, 20):
        await asyncio.gather(*(put(one, f"u{n}") for n in range(start, start + 20)))
    await until(lambda: one.status().first_index > 300)
    two = await stores("c2")
    assert digest(two) == digest(one)
    assert two.snapshot.index == one.snapshot.index
    client = EtcdClient(EtcdConfig(endpoints=(etcd.endpoint,)))
    try:
        left = await client.range(f"/{request.node.name}/log/".encode(), f"/{request.node.name}/log0".encode())
        kept = sum(len(decode_entries(pair.value, first_index=1)) for pair in left.kvs)
        snapshots: set[bytes] = set()
        async with asyncio.timeout(10):
            while len(snapshots) != 1:  # older ones go in the background
                parts = await client.range(
                    f"/{request.node.name}/snapshots/".encode(), f"/{request.node.name}/snapshots0".encode()
                )
                snapshots = {pair.key.split(b"/")[3] for pair in parts.kvs}
    finally:
        await client.close()
    assert kept < 150


async def test_a_member_whose_place_in_etcd_was_compacted_reads_anew(stores):
    one = await stores("c1")
    gone = []

    class Forgetful(EtcdClient):
        async def watch(self, prefix, *, from_revision):
            if not gone:
                gone.append(from_revision)
                raise Compacted("forgotten")
            async for answer in super().watch(prefix, from_revision=from_revision):
                yield answer

    def forgetful(monkey=Forgetful):
        async def open_engine(parts, host):
            from cloudless.coordinator.etcd import engine as module

            kept, module.EtcdClient = module.EtcdClient, monkey
            try:
                return await open_etcd(parts, host)
            finally:
                module.EtcdClient = kept

        return open_engine

    two = await stores("c2", open_engine=forgetful())
    await asyncio.gather(*(put(one, f"u{n}") for n in range(50)))
    await two.read_barrier()
    assert gone
    assert digest(two) == digest(one)


async def test_writes_outlive_a_killed_etcd(tmp_path, stores):
    with running_etcd(tmp_path / "own") as (etcd,):
        store = await stores("c1", endpoint=etcd.endpoint, timeout_s=30.0)
        acknowledged = []
        stop = asyncio.Event()

        async def write(number):
            for n in range(10_000):
                if stop.is_set():
                    return
                name = f"w{number}-{n}"
                await put(store, name)
                acknowledged.append(name)

        writers = [asyncio.create_task(write(n)) for n in range(8)]
        for _ in range(3):
            count = len(acknowledged)
            await until(lambda count=count: len(acknowledged) > count + 50)
            await asyncio.to_thread(etcd.kill)
            await asyncio.to_thread(etcd.start)
            await asyncio.to_thread(etcd.wait_ready)
        count = len(acknowledged)
        await until(lambda: len(acknowledged) > count + 50)
        stop.set()
        await asyncio.gather(*writers)
        second = await stores("c2", endpoint=etcd.endpoint)
        assert set(acknowledged) <= set(second.snapshot.state.users)
        assert digest(second) == digest(store)
        await store.close()
        await second.close()


async def test_a_frozen_etcd_ends_leadership_before_the_lease_and_nothing_is_acknowledged(tmp_path, stores):
    with running_etcd(tmp_path / "own") as (etcd,):
        store = await stores("c1", endpoint=etcd.endpoint, timeout_s=1.0)
        await leader_of(store)
        term = store.term
        etcd.send(signal.SIGSTOP)
        try:
            await until(lambda: not store.leading, timeout_s=LEASE_MS / 1000 * 2)
            with pytest.raises(FailedPrecondition):
                await put(store, "planned", term=term)
            with pytest.raises(Unavailable):
                await put(store, "not-acknowledged")
            with pytest.raises(Unavailable):
                await store.read_barrier()
        finally:
            etcd.send(signal.SIGCONT)
        await until(lambda: store.leading, timeout_s=20)
        await put(store, "after")
        assert store.failure is None
        await store.close()


async def test_a_full_etcd_refuses_and_recovers(tmp_path, stores):
    with running_etcd(tmp_path / "own", quota_bytes=16 * 2**20) as (etcd,):
        store = await stores("c1", endpoint=etcd.endpoint)

        async def fill():
            for n in range(200):
                await store.propose(user("same", "x" * 500_000), actor="user/test", request_id=f"r{n}")

        with pytest.raises(DiskFull) as full:
            await fill()
        assert "alarm disarm" in full.value.remedy
        kept = store.snapshot.index
        client = EtcdClient(EtcdConfig(endpoints=(etcd.endpoint,)))
        try:
            await client.delete(b"/nothing")  # deletions are still taken
        except DiskFull:
            pass
        finally:
            await client.close()
        run = ["etcdctl", f"--endpoints={etcd.endpoint}"]
        environment = {"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"}
        # What an operator does: a larger quota, and the alarm off.
        etcd.kill()
        etcd._argv = [part for part in etcd._argv if "quota" not in part]
        etcd.start()
        await asyncio.to_thread(etcd.wait_ready)
        await asyncio.to_thread(subprocess.run, [*run, "alarm", "disarm"], env=environment, check=True)
        await put(store, "after")
        assert store.snapshot.index > kept
        await store.close()


async def test_an_etcd_put_back_to_an_older_state_stops_the_coordinator(tmp_path, stores):
    with running_etcd(tmp_path / "own") as (etcd,):
        store = await stores("c1", endpoint=etcd.endpoint)
        for n in range(5):
            await put(store, f"u{n}")
        etcd.kill()
        subprocess.run(["rm", "-r", str(etcd.directory / "data")], check=True)
        etcd.start()
        await asyncio.to_thread(etcd.wait_ready)
        async with asyncio.timeout(20):
            failure = await store.wait_failed()
        assert isinstance(failure, Corrupt)
        assert "older state" in failure.message
        await store.close()


async def test_foreign_bytes_in_the_log_stop_the_coordinator_with_the_cause(stores, etcd, request):
    store = await stores("c1")
    await put(store, "alice")
    client = EtcdClient(EtcdConfig(endpoints=(etcd.endpoint,)))
    from cloudless.coordinator.etcd import client as etcd_client

    try:
        key = f"/{request.node.name}/log/{store.snapshot.index + 1:020d}".encode()
        await client.txn([], [etcd_client.put(key, b"garbage")])
        async with asyncio.timeout(10):
            failure = await store.wait_failed()
    finally:
        await client.close()
    assert isinstance(failure, Corrupt)
    assert "prefix" in failure.remedy


async def test_a_missing_etcd_is_said_at_once_and_too_large_an_entry_is_refused(stores):
    with pytest.raises(Unavailable) as missing:
        await stores("c1", endpoint="127.0.0.1:1")
    assert "127.0.0.1:1" in missing.value.message
    assert missing.value.remedy
    store = await stores("c2")
    with pytest.raises(InvalidArgument) as large:
        await store.propose(user("big", "x" * 1_100_000), actor="user/test")
    assert large.value.reason == "TooLarge"


@pytest.mark.parametrize("cut", [0, 5, 15, 17, 30, -1])
def test_damaged_groups_are_corrupt_and_nothing_else(cut):
    value = encode_entries(3, [b"one", b"two", b""])
    assert [entry.data for entry in decode_entries(value, first_index=7)] == [b"one", b"two", b""]
    with pytest.raises(Corrupt):
        decode_entries(value[:cut], first_index=7)
    for at in range(8, len(value)):
        bad = bytearray(value)
        bad[at] ^= 1
        with pytest.raises(Corrupt):
            decode_entries(bytes(bad), first_index=7)


def test_settings_name_files_that_can_be_read(tmp_path):
    config = dataclasses.replace(EtcdConfig(), ca_file=tmp_path / "nothing.pem")
    with pytest.raises(InvalidArgument) as bad:
        EtcdClient(config)
    assert "nothing.pem" in bad.value.message
