"""The store over a simulated disk and, where threads matter, over the real one."""

import asyncio
import dataclasses
import threading
from pathlib import Path

import pytest

from cloudless.clock import SystemClock
from cloudless.config import StoreConfig
from cloudless.coordinator import feed
from cloudless.coordinator.store import Store
from cloudless.coordinator.wal import single
from cloudless.coordinator.wal.inspect import Inspector, inspect
from cloudless.coordinator.wal.record import LogEntry
from cloudless.coordinator.wal.snapshots import file_name as snapshot_name
from cloudless.errors import (
    Compacted,
    Conflict,
    Corrupt,
    DiskFull,
    FailedPrecondition,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
    WatchLagged,
)
from cloudless.testing.disk import SimDisk
from cloudless.testing.ledger import LedgerMachine, Put

DIR = Path("/data")


async def open_store(disk=None, directory=DIR, **config) -> Store:
    if disk is None:
        return await Store.open(directory, machine=LedgerMachine(), clock=SystemClock(), config=StoreConfig(**config))
    return await Store.open(
        directory,
        machine=LedgerMachine(),
        clock=SystemClock(),
        config=StoreConfig(**config),
        filesystem=disk,
        run_blocking=disk.run_blocking,
        seconds=disk.seconds,
    )


@pytest.fixture
def disk():
    return SimDisk(3)


async def put(store, name, value=1, **kwargs):
    return await store.propose(Put(name, value), actor="user/test", **kwargs)


async def test_a_proposal_is_applied_and_durable_when_it_returns(disk):
    store = await open_store(disk)
    result = await put(store, "a", 7)
    assert (result.accepted, result.revision, result.changed) == (True, 1, "created")
    assert store.snapshot.state.values["a"] == 7
    assert (store.snapshot.index, store.snapshot.term) == (1, 1)
    disk.power_cut()
    again = await open_store(disk)
    assert again.snapshot.state == store.snapshot.state
    assert again.snapshot.index == 1
    await put(again, "b")
    assert again.snapshot.term == 2, "each start is a term of its own"


async def test_the_real_disk_and_its_lock(tmp_path):
    store = await open_store(directory=tmp_path / "data")
    await asyncio.gather(*(put(store, f"n{i}", i) for i in range(200)))
    with pytest.raises(FailedPrecondition, match="in use by another coordinator") as caught:
        await open_store(directory=tmp_path / "data")
    assert "pid" in caught.value.message
    await store.close()
    await store.close()
    again = await open_store(directory=tmp_path / "data")
    assert dict(again.snapshot.state.values) == {f"n{i}": i for i in range(200)}
    await again.close()
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


async def test_a_refusal_is_raised_as_its_class(disk):
    store = await open_store(disk)
    with pytest.raises(Conflict, match="would be negative") as caught:
        await put(store, "a", -1)
    assert (caught.value.message, caught.value.reason) == ("a would be negative", "Negative")
    assert caught.value.remedy == "add first"
    with pytest.raises(InvalidArgument, match="not a command"):
        await store.propose(object(), actor="user/test")


async def test_a_repeated_request_id_gets_the_first_answer(disk):
    store = await open_store(disk)
    first = await put(store, "a", 1, request_id="r1")
    again = await put(store, "a", 2, request_id="r1")
    assert again == first
    assert store.snapshot.state.values["a"] == 1


async def test_proposals_of_one_turn_share_a_write_and_keep_their_order(disk):
    store = await open_store(disk)
    before = disk.operations
    results = await asyncio.gather(*(put(store, "x", i) for i in range(100)))
    assert disk.operations - before == 2  # one append, one sync
    assert [r.revision for r in results] == list(range(1, 101))
    assert store.snapshot.state.values["x"] == 99


async def test_small_groups_on_a_fast_disk_stay_on_the_event_loop(tmp_path):
    threads = []

    async def run_blocking(work):
        threads.append(work)
        return work()

    disk = SimDisk(1)
    store = await Store.open(
        DIR,
        machine=LedgerMachine(),
        clock=SystemClock(),
        filesystem=disk,
        run_blocking=run_blocking,
        seconds=disk.seconds,
    )
    for i in range(100):
        await put(store, "a", i)
    assert 0 < len(threads) < 60, "trust in the disk comes with its speed"
    trusted = len(threads)
    disk.sync_delay_s = lambda _: 0.2
    await put(store, "a", 1)
    disk.sync_delay_s = None
    for i in range(10):
        await put(store, "a", i)
    assert len(threads) == trusted + 10, "after a stall the event loop is kept free"


async def test_a_caller_that_gave_up_before_the_write_leaves_no_entry(disk):
    store = await open_store(disk)
    task = asyncio.ensure_future(put(store, "gone"))
    kept = asyncio.ensure_future(put(store, "kept"))
    await asyncio.sleep(0)
    task.cancel()
    await kept
    assert "gone" not in store.snapshot.state.values
    assert store.snapshot.index == 1
    await store.close()


async def test_the_queue_is_bounded(disk, monkeypatch):
    monkeypatch.setattr(single, "QUEUE_ENTRIES_MAX", 10)
    store = await open_store(disk)
    results = await asyncio.gather(*(put(store, "x", i) for i in range(15)), return_exceptions=True)
    refused = [r for r in results if isinstance(r, ResourceExhausted)]
    assert len(refused) == 5
    assert refused[0].reason == "ProposalQueueFull"
    await put(store, "x", 1)
    monkeypatch.setattr(single, "ENTRY_BYTES_MAX", 100)
    with pytest.raises(InvalidArgument, match="100 are allowed"):
        await put(store, "x" * 200)


async def test_large_groups_are_split(disk, monkeypatch):
    monkeypatch.setattr(single, "GROUP_ENTRIES_MAX", 7)
    store = await open_store(disk)
    results = await asyncio.gather(*(put(store, f"n{i}", i) for i in range(50)))
    assert [r.revision for r in results] == list(range(1, 51))
    await store.close()


async def test_applying_yields_to_the_event_loop(monkeypatch, tmp_path):
    monkeypatch.setattr(single, "APPLY_SLICE_S", 0.0)
    store = await open_store(directory=tmp_path / "data")
    turns = 0

    async def other():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.ensure_future(other())
    results = await asyncio.gather(*(put(store, f"n{i}", i) for i in range(100)))
    assert turns > 100
    assert [r.revision for r in results] == list(range(1, 101))
    task.cancel()
    await store.close()


async def test_close_finishes_what_was_proposed(disk):
    store = await open_store(disk)
    tasks = [asyncio.ensure_future(put(store, f"n{i}", i)) for i in range(20)]
    await asyncio.sleep(0)
    await store.close()
    assert all(r.accepted for r in await asyncio.gather(*tasks))
    with pytest.raises(Unavailable, match="closed"):
        await put(store, "late")
    assert len((await open_store(disk)).snapshot.state.values) == 20


# What the store does for any engine


class Unsure:
    """The real engine of one member, with answers that get lost: `answers` says of each proposal what its caller hears
    ("": the truth; "before" it is proposed or "after" it is applied: Unavailable, of this reason)."""

    def __init__(self, engine, answers, reason="NoLeader") -> None:
        self._engine = engine
        self._answers = answers
        self._reason = reason
        self.proposed = []

    def __getattr__(self, name):
        return getattr(self._engine, name)

    async def propose(self, data, *, term=None):
        self.proposed.append(data)
        answer = self._answers.pop(0) if self._answers else ""
        if answer == "before":
            raise Unavailable("no", reason=self._reason)
        committed = await self._engine.propose(data, term=term)
        if answer == "after":
            raise Unavailable("lost", reason=self._reason)
        return committed


async def open_unsure(disk, answers, *, reason="NoLeader", **kwargs):
    engines = []

    async def engine(parts, host):
        engines.append(Unsure(await single.open_single(parts, host), answers, reason))
        return engines[0]

    store = await Store.open(
        DIR,
        machine=LedgerMachine(),
        clock=SystemClock(),
        filesystem=disk,
        run_blocking=disk.run_blocking,
        seconds=disk.seconds,
        engine=engine,
        **kwargs,
    )
    return store, engines[0]


async def test_a_proposal_of_unknown_outcome_is_repeated_with_the_same_bytes(disk):
    store, engine = await open_unsure(disk, ["before", "after", "after", ""])
    result = await put(store, "a", 7)
    assert (result.revision, result.changed) == (1, "created"), "the first answer"
    assert len(engine.proposed) == 4
    assert len(set(engine.proposed)) == 1
    assert store.snapshot.index == 3
    assert store.snapshot.state.applied == 1


async def test_repeating_ends_with_time_with_the_caller_and_with_the_store(disk):
    store, engine = await open_unsure(disk, ["before"] * 10**6, propose_timeout_s=0.1)
    with pytest.raises(Unavailable) as caught:
        await put(store, "a")
    assert caught.value.reason == "NoLeader"
    assert len(engine.proposed) > 2
    store._propose_timeout_s = 1000
    task = asyncio.ensure_future(put(store, "a"))
    await asyncio.sleep(0.03)
    task.cancel()
    await asyncio.wait([task])
    asked = len(engine.proposed)
    task = asyncio.ensure_future(put(store, "a"))
    await asyncio.sleep(0.03)
    assert len(engine.proposed) > asked
    await store.close()
    with pytest.raises(Unavailable, match="closed"):
        await task


@pytest.mark.parametrize("reason", ["StoreClosed", "NoLeader"])
async def test_what_is_not_repeated(disk, reason):
    store, engine = await open_unsure(disk, ["before"], reason=reason)
    with pytest.raises(Unavailable):
        await put(store, "a", term=store.term if reason == "NoLeader" else None)
    assert len(engine.proposed) == 1


async def test_an_engines_own_entries_move_the_index_and_nothing_else(disk):
    store = await open_store(disk)
    watch = store.watch()
    await put(store, "a")
    state = store.snapshot.state
    assert (await store._engine.propose(b"\x00mine")).outcome is None
    assert store.snapshot.index == 2
    assert store.snapshot.state is state
    assert store.watch(2).ready() is None
    await put(store, "b")
    assert [(await anext(watch)).index for _ in range(2)] == [1, 3]
    assert (await anext(store.watch(2))).index == 3
    await store.close()
    again = await open_store(disk)
    assert (again.snapshot.index, dict(again.snapshot.state.values)) == (3, {"a": 1, "b": 1})
    await again.close()
    report = inspect(DIR, LedgerMachine(), filesystem=disk)
    assert report.consistent
    assert report.last_index == 3


async def test_installing_a_snapshot_replaces_the_state_and_sends_watchers_to_list_again(disk):
    machine = LedgerMachine()
    store = await open_store(disk)
    for i in range(3):
        await put(store, f"n{i}", i)
    behind, waiting = store.watch(1), store.watch()
    task = asyncio.ensure_future(anext(waiting))
    await asyncio.sleep(0)
    state = dataclasses.replace(store.snapshot.state, values=store.snapshot.state.values.set("new", 9))
    assert await store.install(machine.encode(state, index=50, term=8)) == (50, 8)
    assert (store.snapshot.index, store.snapshot.term, store.snapshot.state.values["new"]) == (50, 8, 9)
    assert (store.applied_index, store.applied_term) == (50, 8)
    for watch in (task, anext(behind)):
        with pytest.raises(Compacted, match="list again"):
            await watch
    with pytest.raises(Compacted):
        store.watch(49)
    fresh = store.watch(50)
    assert fresh.ready() is None
    assert await store.install(machine.encode(store.snapshot.state, index=40, term=7)) == (40, 7)
    assert store.snapshot.index == 50, "an older one changes nothing"
    store.apply(LogEntry(51, 8, machine.entry(Put("x", 1), state=state, actor="a", request_id="q", issued_at_ms=1)))
    assert (await anext(fresh)).index == 51
    with pytest.raises(ValueError, match="Expecting value"):
        await store.install(b"nonsense")
    assert store.snapshot.index == 51


async def test_one_member_has_no_membership_and_leads_as_long_as_it_can_write(disk):
    store = await Store.open(
        DIR,
        machine=LedgerMachine(),
        clock=SystemClock(),
        member="c1",
        filesystem=disk,
        run_blocking=disk.run_blocking,
        seconds=disk.seconds,
    )
    led = []
    store.on_leadership(led.append)
    assert (store.leading, store.leader_id, led) == (True, "c1", [True])
    for change in (
        store.membership.add_learner("c2", "c2:1"),
        store.membership.promote("c2"),
        store.membership.remove("c2"),
        store.membership.transfer(),
    ):
        with pytest.raises(FailedPrecondition, match="engine is single") as caught:
            await change
        assert caught.value.reason == "NotReplicated"
        assert "raft" in caught.value.remedy
    await put(store, "a", term=store.term)
    with pytest.raises(FailedPrecondition) as caught:
        await put(store, "a", term=store.term - 1)
    assert caught.value.reason == "LeadershipLost"
    disk.fail_syncs()
    with pytest.raises(Unavailable):
        await put(store, "b")
    assert (store.leading, store.leader_id, led) == (False, "", [True, False])
    with pytest.raises(Unavailable):
        await store.read_barrier()
    await store.close()
    assert led == [True, False]


# Full and failing disks


async def test_a_full_disk_refuses_writes_and_recovers(disk):
    store = await open_store(disk)
    await put(store, "a", 1)
    disk.capacity_bytes = disk.used_bytes() + 5
    results = await asyncio.gather(*(put(store, f"n{i}") for i in range(3)), return_exceptions=True)
    assert all(isinstance(r, DiskFull) for r in results)
    assert "free space" in str(results[0])
    assert len({id(r) for r in results}) == 3
    assert store.snapshot.index == 1
    assert store.failure is None
    disk.capacity_bytes = None
    await put(store, "b", 2)
    disk.power_cut()
    assert dict((await open_store(disk)).snapshot.state.values) == {"a": 1, "b": 2}


async def test_it_starts_on_a_full_disk_and_serves_reads(disk):
    store = await open_store(disk)
    await put(store, "a", 1)
    await store.close()
    disk.capacity_bytes = 0
    again = await open_store(disk)
    assert again.snapshot.state.values["a"] == 1
    with pytest.raises(DiskFull):
        await put(again, "b")
    disk.capacity_bytes = None
    await put(again, "b")


async def test_a_failed_sync_fails_the_store_for_good(disk):
    store = await open_store(disk)
    await put(store, "a", 1)
    watch = store.watch()
    waiting = asyncio.ensure_future(anext(watch))
    disk.fail_syncs()
    results = await asyncio.gather(*(put(store, f"n{i}") for i in range(3)), return_exceptions=True)
    assert all(isinstance(r, Unavailable) and r.reason == "DiskFailed" for r in results)
    assert (await store.wait_failed()).reason == "DiskFailed"
    assert not store.leading
    with pytest.raises(Unavailable):
        await waiting
    with pytest.raises(Unavailable, match="disk failed"):
        await put(store, "b")
    await store.close()
    disk.power_cut()
    again = await open_store(disk)
    assert dict(again.snapshot.state.values) == {"a": 1}


async def test_a_state_machine_that_raises_stops_the_store_loudly(disk, monkeypatch):
    store = await open_store(disk)
    monkeypatch.setattr(LedgerMachine, "apply", lambda *_, **__: 1 / 0)
    results = await asyncio.gather(put(store, "a"), put(store, "b"), return_exceptions=True)
    assert [type(r).__name__ for r in results] == ["Internal", "Internal"]
    assert "division by zero" in str(await store.wait_failed())
    await store.close()


# Snapshots and recovery


async def settle(store):
    while store._snapshot_task is not None:
        await asyncio.wait([store._snapshot_task])
        await asyncio.sleep(0)


async def test_snapshots_are_written_and_the_log_is_compacted(disk):
    store = await open_store(disk, snapshot_entries=50, segment_bytes=2000)
    for i in range(300):
        await put(store, f"n{i % 9}", i)
    await settle(store)
    names = disk.list_names(DIR / "snapshots")
    assert len(names) == 2
    assert len(disk.list_names(DIR / "wal")) < 15
    disk.power_cut()
    again = await open_store(disk, snapshot_entries=50, segment_bytes=2000)
    assert again.snapshot.state == store.snapshot.state
    assert again.snapshot.index == 300


async def test_writes_go_on_while_a_snapshot_is_encoded(tmp_path, monkeypatch):
    released = threading.Event()
    began = threading.Event()
    encode = LedgerMachine.encode

    def slow_encode(self, state, *, index, term):
        began.set()
        assert released.wait(20)
        return encode(self, state, index=index, term=term)

    monkeypatch.setattr(LedgerMachine, "encode", slow_encode)
    store = await open_store(directory=tmp_path / "data", snapshot_entries=10)
    for i in range(40):
        await put(store, "a", i)
    assert began.is_set() or store._snapshot_task is not None
    assert not list((tmp_path / "data" / "snapshots").glob("*.snap"))
    released.set()
    await store.close()
    assert [p.name for p in (tmp_path / "data" / "snapshots").glob("*.snap")] == [snapshot_name(10)]


@pytest.mark.parametrize("damaged", ["newest", "both"])
async def test_damaged_snapshots(disk, damaged):
    store = await open_store(disk, snapshot_entries=20, segment_bytes=500)
    for i in range(100):
        await put(store, f"n{i}", i)
    await settle(store)
    names = disk.list_names(DIR / "snapshots")
    for name in names if damaged == "both" else names[-1:]:
        disk.flip_bit(DIR / "snapshots" / name, offset=100)
    disk.restart()
    if damaged == "both":
        with pytest.raises(Corrupt, match="are missing: there is no readable snapshot") as caught:
            await open_store(disk)
        assert "backup" in caught.value.remedy
        assert inspect(DIR, LedgerMachine(), filesystem=disk).damage == caught.value.message
        await _lock_is_free(disk)
    else:
        again = await open_store(disk)
        assert again.snapshot.state == store.snapshot.state


async def _lock_is_free(disk):
    disk.lock(DIR / "lock").release()


async def test_without_any_good_snapshot_a_whole_log_is_enough(disk):
    store = await open_store(disk, snapshot_entries=20)
    for i in range(50):
        await put(store, f"n{i}", i)
    await settle(store)
    for name in disk.list_names(DIR / "snapshots"):
        disk.flip_bit(DIR / "snapshots" / name, offset=100)
    disk.restart()
    assert (await open_store(disk)).snapshot.state == store.snapshot.state


async def test_a_log_that_lost_its_tail_behind_a_snapshot_goes_on_from_the_snapshot(disk):
    store = await open_store(disk, snapshot_entries=20)
    for i in range(40):
        await put(store, f"n{i}", i)
    await settle(store)
    (segment,) = disk.list_names(DIR / "wal")
    file = disk.open_append(DIR / "wal" / segment)
    file.truncate(file.size_bytes() // 2)
    disk.restart()
    again = await open_store(disk, snapshot_entries=20)
    assert again.snapshot.index == 40
    assert again.snapshot.state == store.snapshot.state
    await put(again, "more")
    disk.power_cut()
    assert (await open_store(disk)).snapshot.index == 41


async def test_a_snapshot_of_another_history_is_refused(disk):
    for directory in (DIR, Path("/other")):
        store = await open_store(disk, directory, snapshot_entries=20)
        if directory != DIR:
            await store.close()
            store = await open_store(disk, directory, snapshot_entries=20)
            await put(store, "x")
            await store.close()
            store = await open_store(disk, directory, snapshot_entries=20)
        for i in range(25):
            await put(store, f"n{i}", i)
        await settle(store)
        await store.close()
    (theirs,) = disk.list_names(Path("/other/snapshots"))
    (ours,) = disk.list_names(DIR / "snapshots")
    assert ours == theirs
    disk.rename(Path("/other/snapshots") / theirs, DIR / "snapshots" / ours)
    with pytest.raises(Corrupt, match="not of the same history"):
        await open_store(disk)


async def test_a_full_disk_stops_snapshots_but_not_the_log(disk):
    store = await open_store(disk, snapshot_entries=20)
    for i in range(19):
        await put(store, f"n{i}", i)
    disk.capacity_bytes = disk.used_bytes() + 600
    await put(store, "n19")
    await settle(store)
    assert disk.list_names(DIR / "snapshots") == ()
    disk.capacity_bytes = None
    for i in range(20, 40):
        await put(store, f"n{i}", i)
    await settle(store)
    assert len(disk.list_names(DIR / "snapshots")) >= 1


async def test_an_unknown_engine_is_refused(disk):
    with pytest.raises(InvalidArgument, match="use single or raft"):
        await open_store(disk, engine="paxos")


# Watching


async def test_a_watch_gets_every_batch_in_order_then_what_comes(disk):
    store = await open_store(disk)
    for i in range(5):
        await put(store, f"n{i}", i)
    watch = store.watch(2)
    assert [(await anext(watch)).index for _ in range(3)] == [3, 4, 5]
    assert watch.ready() is None
    waiting = asyncio.ensure_future(anext(watch))
    await put(store, "later", 9)
    batch = await waiting
    assert (batch.index, batch.changes[0].key, batch.state.values["later"]) == (6, "later", 9)
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    watch.close()
    with pytest.raises(StopAsyncIteration):
        await waiting


async def test_refused_commands_make_no_batch(disk):
    store = await open_store(disk)
    watch = store.watch()
    with pytest.raises(Conflict):
        await put(store, "a", -1)
    await put(store, "b")
    assert (await anext(watch)).index == 2


async def test_a_watch_goes_on_over_a_restart_as_far_as_the_log_reaches(disk):
    store = await open_store(disk, snapshot_entries=30)
    for i in range(50):
        await put(store, f"n{i}", i)
    await settle(store)
    await store.close()
    again = await open_store(disk, snapshot_entries=30)
    watch = again.watch(40)
    assert [(await anext(watch)).index for _ in range(10)] == list(range(41, 51))
    with pytest.raises(Compacted, match="kept from index 30"):
        again.watch(29)
    again.watch(30)
    with pytest.raises(Compacted, match="ahead of this coordinator"):
        again.watch(51)


async def test_a_slow_watcher_is_told(disk, monkeypatch):
    monkeypatch.setattr(feed, "WATCH_BATCHES", 10)
    store = await open_store(disk)
    watch = store.watch(0)
    for i in range(11):
        await put(store, f"n{i}", i)
    with pytest.raises(WatchLagged, match="11 changes behind"):
        await anext(watch)
    with pytest.raises(Compacted):
        store.watch(0)
    assert (await anext(store.watch(1))).index == 2


async def test_closing_the_store_ends_its_watches_after_the_last_batch(disk):
    store = await open_store(disk)
    watch = store.watch()
    await put(store, "a")
    await store.close()
    assert (await anext(watch)).index == 1
    with pytest.raises(Unavailable, match="closed"):
        await anext(watch)


async def test_a_watcher_that_gives_up_leaves_nothing_behind(disk):
    store = await open_store(disk)
    watch = store.watch()
    for _ in range(50):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(watch), 0)
    assert not store._feed._waiting


# Inspection


async def test_inspect_reports_and_changes_nothing(tmp_path):
    data = tmp_path / "data"
    store = await open_store(directory=data, snapshot_entries=20)
    for i in range(50):
        await put(store, f"n{i}", i)
    await settle(store)
    await store.close()
    with (data / "wal" / "0000000000000001.wal").open("ab") as file:
        file.write(b"torn")
    before = {p: p.read_bytes() for p in data.rglob("*") if p.is_file()}
    report = inspect(data, LedgerMachine())
    assert {p: p.read_bytes() for p in data.rglob("*") if p.is_file()} == before
    assert report.consistent
    assert report.replay_hash == report.state_hash == LedgerMachine().state_hash(store.snapshot.state)
    assert (report.first_index, report.last_index, report.term) == (1, 50, 1)
    assert report.segments[0].torn_bytes == 4
    assert [s.index for s in report.snapshots] == sorted((s.index for s in report.snapshots), reverse=True)
    assert [e.index for e in Inspector(data, LedgerMachine()).entries()] == list(range(1, 51))
    assert not dataclasses.replace(report, replay_hash="other").consistent
