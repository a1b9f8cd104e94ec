"""What the store promises with every engine, and what it does when disks, processes and callers fail."""

import asyncio
import contextlib
import functools
import inspect
import itertools

import pytest

from cloudless.errors import (
    CloudlessError,
    Compacted,
    Conflict,
    DiskFull,
    FailedPrecondition,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
)
from cloudless.testing import engines
from cloudless.testing.disk import PowerCut
from cloudless.testing.engines import Cluster
from cloudless.testing.ledger import LedgerMachine


def on(**wanted):
    """Runs the test on each kind of engine that has these properties; it gets a `Cluster`."""
    kinds = [kind for kind in engines.KINDS if all(getattr(kind, name) == value for name, value in wanted.items())]

    def wrap(test):
        if not kinds:
            return None

        @pytest.mark.parametrize("kind", kinds, ids=[kind.name for kind in kinds])
        @functools.wraps(test)
        def run(kind, tmp_path, request):
            extra = {name: request.getfixturevalue(name) for name in names}
            engines.conformance(kind, functools.partial(test, **extra), tmp_path)

        names = list(inspect.signature(test).parameters)[1:]
        del run.__wrapped__
        run.__signature__ = inspect.Signature(
            [
                inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD)
                for name in ("kind", "tmp_path", "request")
            ]
        )
        return run

    return wrap


async def gather(*calls):
    return await asyncio.gather(*calls, return_exceptions=True)


# Writing


@on()
async def test_what_one_caller_proposes_at_once_is_applied_in_that_order(cluster: Cluster):
    store = await cluster.start()
    results = await asyncio.gather(*(cluster.put(store, "x", i) for i in range(100)))
    revisions = [result.revision for result in results]
    assert revisions == sorted(revisions)
    assert len(set(revisions)) == 100
    assert (await cluster.converge()).values["x"] == 99


@on()
async def test_a_write_is_applied_where_it_was_made_when_it_returns(cluster: Cluster):
    await cluster.start()
    for number, store in enumerate((*cluster.stores.values(), *cluster.stores.values())):
        result = await cluster.put(store, f"n{number}", number)
        assert store.snapshot.state.values[f"n{number}"] == number
        assert store.snapshot.index >= result.revision


@on()
async def test_many_callers_on_every_member_get_each_their_own_answer(cluster: Cluster):
    await cluster.start()

    async def caller(number, store):
        for i in range(15):
            name = f"n{number}.{i}"
            if i % 5 == 4:
                with pytest.raises(Conflict, match=f"{name} would be negative"):
                    await cluster.put(store, name, -1)
            else:
                assert (await cluster.put(store, name, i)).changed == "created"

    stores = itertools.cycle(cluster.stores.values())
    await asyncio.gather(*(caller(number, next(stores)) for number in range(30)))
    state = await cluster.converge()
    assert state.applied == len(state.values) == 30 * 12
    revisions = [revision for _, _, revision in cluster.acknowledged.values()]
    assert len(set(revisions)) == len(revisions) == 360


@on()
async def test_an_acknowledged_write_is_there_after_a_clean_restart(cluster: Cluster):
    store = await cluster.start()
    await asyncio.gather(*(cluster.put(store, f"n{i}", i) for i in range(50)))
    before, term = await cluster.converge(), store.term
    await cluster.stop()
    store = await cluster.start()
    assert await cluster.converge() == before
    assert store.term > term or not cluster.kind.local, "each leadership is a term of its own"
    assert (await cluster.put(store, "after")).revision > 50


@on()
async def test_a_repeated_request_id_gets_the_first_answer_over_restarts_and_everywhere(cluster: Cluster):
    store = await cluster.start()
    first = await cluster.put(store, "a", 1, request_id="again")
    with pytest.raises(Conflict):
        await cluster.put(store, "b", -1, request_id="refused")
    await cluster.stop()
    await cluster.start()
    cluster.crash()
    await cluster.start()
    for store in cluster.stores.values():
        assert await cluster.put(store, "a", 2, request_id="again") == first
        with pytest.raises(Conflict):
            await cluster.put(store, "b", 5, request_id="refused")
    assert dict((await cluster.converge()).values) == {"a": 1}


@on()
async def test_what_is_too_large_is_refused_for_good_and_harms_nothing(cluster: Cluster):
    await cluster.start()
    for store in cluster.stores.values():
        with pytest.raises(InvalidArgument) as caught:
            await cluster.put(store, "x" * (17 * 2**20))
        assert caught.value.reason == "TooLarge"
        await cluster.put(store, "small")


@on()
async def test_what_waits_is_bounded_and_the_rest_is_refused_at_once(cluster: Cluster, monkeypatch):
    store = await cluster.start()
    monkeypatch.setattr(cluster.kind.limits, "QUEUE_ENTRIES_MAX", 10)
    results = await gather(*(cluster.put(store, f"n{i}", i, request_id=f"q{i}") for i in range(30)))
    refused = [i for i, result in enumerate(results) if isinstance(result, ResourceExhausted)]
    accepted = [i for i, result in enumerate(results) if not isinstance(result, BaseException)]
    assert sorted(refused + accepted) == list(range(30))
    assert refused
    assert accepted
    assert results[refused[0]].reason == "ProposalQueueFull"
    state = await cluster.converge()
    assert [f"n{i}" for i in accepted] == sorted(state.values, key=lambda name: int(name[1:]))
    assert len({id(results[i]) for i in refused}) == len(refused)
    await cluster.put(store, "later")


@on()
async def test_a_caller_that_gives_up_leaves_the_others_alone(cluster: Cluster):
    store = await cluster.start()
    tasks = [asyncio.ensure_future(cluster.put(store, f"n{i}", i)) for i in range(40)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await gather(*tasks)
    assert all(isinstance(result, asyncio.CancelledError) for result in results[::2])
    assert all(result.accepted for result in results[1::2])
    for delay_s in (0.0001, 0.0005, 0.002):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(cluster.put(store, f"late{delay_s}"), delay_s)
    await cluster.put(store, "after")
    await cluster.converge()


# Reading


@on()
async def test_a_read_behind_the_barrier_sees_every_write_acknowledged_before_it_anywhere(cluster: Cluster):
    await cluster.start()
    writers = itertools.cycle(cluster.stores.values())
    for number in range(20):
        await cluster.put(next(writers), "x", number)
        for store in cluster.stores.values():
            index = await store.read_barrier()
            assert store.snapshot.index >= index
            assert store.snapshot.state.values["x"] == number


@on()
async def test_barriers_and_writes_at_once(cluster: Cluster):
    await cluster.start()
    done = 0

    async def write(store):
        nonlocal done
        for _ in range(20):
            done = max(done, (await cluster.put(store, "x", done)).revision)

    async def read(store):
        for _ in range(40):
            known = done
            await store.read_barrier()
            assert store.snapshot.index >= known

    stores = cluster.stores.values()
    await asyncio.gather(*(write(s) for s in stores), *(read(s) for s in stores))


# Leading


@on()
async def test_work_of_a_former_term_is_refused_and_never_applied(cluster: Cluster):
    store = await cluster.start()
    assert (await cluster.put(store, "mine", term=store.term)).accepted
    for term in (store.term - 1, store.term + 1):
        with pytest.raises(FailedPrecondition) as caught:
            await cluster.put(store, "stale", term=term)
        assert caught.value.reason == "LeadershipLost"
    for other in cluster.others(store):
        with pytest.raises(FailedPrecondition) as caught:
            await cluster.put(other, "stale", term=other.term)
        assert caught.value.reason == "LeadershipLost"
    await cluster.put(store, "after")
    assert set((await cluster.converge()).values) == {"mine", "after"}


@on()
async def test_leadership_begins_with_true_and_ends_with_false(cluster: Cluster):
    store = await cluster.start()
    told = {member: [] for member in cluster.members}

    def listen(member):
        listened = cluster.stores[member]
        listened.on_leadership(told[member].append)
        listened.on_leadership(lambda leading: told[member].append(listened.leading))

    for member in cluster.members:
        listen(member)
    leader = store.leader_id
    assert told[leader] == [True, True]
    assert all(calls == [False, False] for member, calls in told.items() if member != leader)
    await cluster.stop(leader)
    assert told[leader] == [True, True, False, False], "the role is the new one when the listener hears of it"
    if cluster.stores:
        after = await cluster.leader()
        assert after.leader_id != leader
        assert told[after.leader_id] == [False, False, True, True]
        await cluster.put(after, "on")
        await cluster.start()
        await cluster.converge()
    for calls in told.values():
        assert all(a == b for a, b in zip(calls[::2], calls[1::2], strict=True))


@on()
async def test_the_status_says_what_is_so(cluster: Cluster):
    store = await cluster.start()
    await asyncio.gather(*(cluster.put(store, f"n{i}", i) for i in range(10)))
    await cluster.converge()
    for member, each in cluster.stores.items():
        status = each.status()
        assert status.engine == cluster.kind.name.partition("-")[0]
        assert status.member == member
        assert status.leader == store.leader_id == each.leader_id
        assert status.role == ("leader" if each is store else "follower")
        assert status.term == store.term == each.term
        assert status.applied_index == each.snapshot.index == each.applied_index
        assert status.applied_index <= status.commit_index <= status.last_index
        assert status.commit_index >= max(revision for _, _, revision in cluster.acknowledged.values())
        assert 1 <= status.first_index <= status.last_index + 1
    leads = store.status()
    assert [m.id for m in leads.members if m.leader] == [store.leader_id]
    if cluster.kind.replicated:
        assert {m.id for m in leads.members} == set(cluster.members)
        assert all(m.voter and m.match_index >= 0 for m in leads.members)
    assert store.failure is None


@on(replicated=False)
async def test_members_cannot_be_changed_without_replication(cluster: Cluster):
    await cluster.start()
    for store in cluster.stores.values():
        members = store.membership
        for change in (
            members.add_learner("c9", "c9:1"),
            members.promote("c1"),
            members.remove("c1"),
            members.transfer(),
        ):
            with pytest.raises(FailedPrecondition) as caught:
                await change
            assert caught.value.reason == "NotReplicated"
            assert caught.value.remedy


@on(replicated=True)
async def test_changes_of_members_that_make_no_sense_are_refused(cluster: Cluster):
    store = await cluster.start()
    for each in cluster.stores.values():
        with pytest.raises(FailedPrecondition) as caught:
            await each.membership.promote("nobody")
        assert caught.value.reason == "UnknownMember"
        await each.membership.promote(store.leader_id)
        await each.membership.remove("nobody-either")
    if len(cluster.members) == 1:
        with pytest.raises(FailedPrecondition) as caught:
            await store.membership.remove(store.leader_id)
        assert caught.value.reason == "LastVoter"
    await cluster.put(store, "on")


# Watching


@on()
async def test_a_watch_gets_every_change_once_and_in_order_over_snapshots(cluster: Cluster):
    store = await cluster.start(snapshot_entries=20, segment_bytes=2000)
    watches = [each.watch() for each in cluster.stores.values()]
    for i in range(70):
        await cluster.put(store, f"n{i}", i)
        if i % 10 == 9:
            await cluster.converge()  # who falls behind a snapshot gets that instead of the changes
    for watch in watches:
        batches = [await asyncio.wait_for(anext(watch), 20) for _ in range(70)]
        assert [batch.changes[0].key for batch in batches] == [f"n{i}" for i in range(70)]
        indexes = [batch.index for batch in batches]
        assert indexes == sorted(set(indexes))
        assert dict(batches[30].state.values) == {f"n{i}": i for i in range(31)}
        watch.close()


@on()
async def test_a_watch_is_resumed_after_a_restart_or_told_to_list_again(cluster: Cluster):
    store = await cluster.start(snapshot_entries=1000)
    for i in range(20):
        await cluster.put(store, f"n{i}", i)
    seen = store.snapshot.index
    for i in range(20, 30):
        await cluster.put(store, f"n{i}", i)
    await cluster.stop()
    await cluster.start()
    await cluster.converge()
    for each in cluster.stores.values():
        try:
            watch = each.watch(seen)
        except Compacted:
            assert not cluster.kind.local
            continue
        assert [(await anext(watch)).changes[0].key for _ in range(10)] == [f"n{i}" for i in range(20, 30)]
        with pytest.raises(Compacted, match="ahead of this coordinator"):
            each.watch(each.snapshot.index + 1)


# Snapshots


@on()
async def test_snapshots_make_the_log_short_and_lose_nothing(cluster: Cluster):
    store = await cluster.start(snapshot_entries=25, segment_bytes=1500)
    for i in range(2000):
        await cluster.put(store, f"n{i % 9}", i)
        await asyncio.sleep(0.0001)  # a snapshot takes time, which writes that never wait leave it none of
        if i > 200 and all(each.status().first_index > 100 for each in cluster.stores.values()):
            break
    assert i < 1999 or not cluster.kind.local, store.status()
    before = await cluster.converge()
    if cluster.kind.local:
        cluster.crash()
    else:
        await cluster.stop()
    store = await cluster.start()
    after = await cluster.converge()
    assert LedgerMachine().state_hash(after) == LedgerMachine().state_hash(before)
    await cluster.put(store, "on")


@on()
async def test_a_member_that_was_away_catches_up(cluster: Cluster):
    store = await cluster.start(snapshot_entries=25, segment_bytes=1500)
    if len(cluster.members) == 1:
        return
    away = cluster.others(store)[0].status().member
    await cluster.stop(away)
    for i in range(2000):
        await cluster.put(store, f"n{i % 9}", i)
        await asyncio.sleep(0.0001)
        if i > 100 and store.status().first_index > 50:
            break
    back = await cluster.open(away)
    await cluster.until(lambda: back.snapshot.index >= store.snapshot.index)
    await cluster.converge()
    await cluster.put(back, "here")
    cluster.crash(away)
    back = await cluster.open(away)
    await cluster.converge()


# Ends


@on()
async def test_close_finishes_what_was_proposed_and_takes_nothing_more(cluster: Cluster):
    store = await cluster.start()
    tasks = [asyncio.ensure_future(cluster.put(store, f"n{i}", i)) for i in range(20)]
    await asyncio.sleep(0)
    await asyncio.wait_for(cluster.stop(store.status().member), 20)
    results = await gather(*tasks)
    assert all(not isinstance(r, BaseException) or isinstance(r, Unavailable) for r in results)
    if len(cluster.members) == 1:
        assert all(result.accepted for result in results), results
    await store.close()
    with pytest.raises(Unavailable) as caught:
        await store.propose(engines.Put("late", 1), actor="user/test")
    assert caught.value.reason == "StoreClosed"
    with pytest.raises(Unavailable):
        await store.read_barrier()
    assert not store.leading
    await cluster.start()
    await cluster.converge()


@on(local=True)
async def test_a_power_cut_at_any_operation_of_the_leaders_disk_loses_nothing_acknowledged(cluster: Cluster):
    store = await cluster.start(snapshot_entries=15, segment_bytes=1200, propose_timeout_s=0.5)
    for cut_at in range(1, 45 if len(cluster.members) == 1 else 25):
        disk = cluster.disks[store.leader_id]
        disk.cut_power_at = disk.operations + cut_at

        async def write(caller, store=store):
            for _ in range(15):
                with contextlib.suppress(CloudlessError):
                    await cluster.put(store, f"n{caller}", 1)

        tasks = [asyncio.ensure_future(write(caller)) for caller in range(4)]
        while not disk.off and not all(task.done() for task in tasks):
            await asyncio.sleep(0.001)
        for task in tasks:
            task.cancel()
        cluster.crash()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError, PowerCut):
                await task
        while True:
            try:
                store = await cluster.start()
                break
            except PowerCut:
                cluster.crash()
        await cluster.converge()


@on()
async def test_members_killed_under_load_lose_nothing_acknowledged(cluster: Cluster):
    await cluster.start(snapshot_entries=40, segment_bytes=3000, propose_timeout_s=0.5)
    for number in range(6 if cluster.kind.run is engines.run_virtual else 3):
        tasks = []

        async def write(caller, store):
            for i in range(30):
                with contextlib.suppress(CloudlessError):
                    await cluster.put(store, f"n{caller}.{i}", i)

        stores = itertools.cycle(list(cluster.stores.values()))
        tasks = [asyncio.ensure_future(write(caller, next(stores))) for caller in range(9)]
        for _ in range(5 + 7 * number):
            await asyncio.sleep(0.0005)
        victims = [cluster.random.choice(cluster.members)] if number % 2 else cluster.members
        cluster.crash(*victims, power=number % 3 == 0)
        for task in tasks:
            task.cancel()
        await gather(*tasks)
        await cluster.start()
        await cluster.converge()


# Disks


@on(local=True)
async def test_full_disks_refuse_or_delay_writes_and_recover_by_themselves(cluster: Cluster):
    store = await cluster.start(propose_timeout_s=2.0)
    await cluster.put(store, "before")
    for disk in cluster.disks.values():
        disk.capacity_bytes = disk.used_bytes() + 20
    results = await gather(*(asyncio.wait_for(cluster.put(store, f"n{i}", request_id=f"f{i}"), 3) for i in range(5)))
    assert all(isinstance(result, DiskFull | Unavailable | TimeoutError) for result in results), results
    refused = [f"f{i}" for i, result in enumerate(results) if isinstance(result, DiskFull)]
    assert refused or len(cluster.members) > 1
    assert store.failure is None
    assert store.snapshot.state.values["before"] == 1
    for disk in cluster.disks.values():
        disk.capacity_bytes = None
    await cluster.put(await cluster.leader(), "room")
    cluster.crash()
    await cluster.start()
    state = await cluster.converge()
    assert {"before", "room"} <= set(state.values)
    assert not set(refused) & set(state.results), "what was refused for want of space came back"


@on(local=True)
async def test_a_disk_that_fails_ends_this_member_and_no_other(cluster: Cluster):
    store = await cluster.start(propose_timeout_s=2.0)
    await cluster.put(store, "before")
    watch, told, victim = store.watch(), [], store.leader_id
    store.on_leadership(told.append)
    cluster.disks[victim].fail_syncs()
    await gather(*(asyncio.wait_for(cluster.put(store, f"n{i}"), 5) for i in range(3)))
    failure = await asyncio.wait_for(store.wait_failed(), 20)
    assert (failure.reason, store.failure, store.leading) == ("DiskFailed", failure, False)
    assert told == [True, False]
    for _ in range(3):  # what was applied before comes first
        with contextlib.suppress(Unavailable):
            await asyncio.wait_for(anext(watch), 5)
    with pytest.raises(Unavailable):
        await asyncio.wait_for(anext(watch), 5)
    with pytest.raises(Unavailable):
        await cluster.put(store, "late")
    with pytest.raises(Unavailable):
        await store.read_barrier()
    if len(cluster.members) > 1:
        await cluster.until(lambda: any(other.leading for other in cluster.others(store)))
        await cluster.put(next(other for other in cluster.others(store) if other.leading), "goes on")
    await store.close()
    cluster.crash(victim)
    await cluster.start()
    assert "before" in (await cluster.converge()).values
