"""A cluster of pure Raft cores in one synchronous loop, with everything that may go wrong drawn from a seed.

No event loop, no store, no files: messages wait in one heap of virtual time, a disk is what survives a crash, a
snapshot is an index. So a second of a cluster's life costs milliseconds, and a seed is the whole story of a failure:

    python -m cloudless.testing.raft_core --seeds 1000 [--first N] [--members 5]

`Checker` looks at every step: election safety, log matching, leader completeness, state machine safety, votes and
acknowledgements that leave only when they are on the disk, reads that are not older than what was committed when they
were asked for.
"""

from __future__ import annotations

import argparse
import heapq
import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from cloudless.coordinator.raft.core import effects as fx
from cloudless.coordinator.raft.core import events as ev
from cloudless.coordinator.raft.core import messages as msg
from cloudless.coordinator.raft.core.model import (
    CONFIGURATION,
    Configuration,
    LogShape,
    Member,
    Role,
    State,
    Timing,
    decode_configuration,
    encode_configuration,
)
from cloudless.coordinator.raft.core.start import initial
from cloudless.coordinator.raft.core.step import step
from cloudless.coordinator.wal.record import LogEntry
from cloudless.testing.raft_core_checker import Checker, Violation
from cloudless.testing.raft_core_disk import Disk, Log, Node, Snapshot, Write
from cloudless.testing.raft_core_faults import Faults

SNAPSHOT_BYTES: Final = 5
PIECE_BYTES: Final = 2

Step = Callable[..., tuple[State, tuple[fx.Effect, ...]]]


class Cluster:
    """`members` voters, and learners that come and go. `step` can be another one: a mutant."""

    def __init__(self, seed: int, *, members: int = 3, faults: Faults | None = None, step: Step = step) -> None:
        self.random = random.Random(seed)
        self.faults = faults or Faults.drawn(self.random)
        self.step = step
        self.now_ms = 0.0
        self.checker = Checker()
        self.steps = 0
        self._sequence = 0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._blocked: set[tuple[str, str]] = set()
        self._reads: dict[int, tuple[str, int]] = {}  # who was asked, and what was committed then
        self._ids = 0
        self._data = 0
        self.reads_answered = 0
        self.changes: dict[str, int] = {}
        self.timing = Timing(heartbeat_ms=30, election_ms=150)
        first = Configuration("simulated", tuple(Member(f"m{i}", f"m{i}:1") for i in range(members)))
        self.nodes = {m.id: Node(m.id, Disk(), first) for m in first.members}
        for node in list(self.nodes.values()):
            self.start(node)

    # Time

    def at(self, delay_ms: float, action: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._queue, (self.now_ms + delay_ms, self._sequence, action))

    def run(self, duration_ms: float) -> None:
        end_ms = self.now_ms + duration_ms
        while self._queue and self._queue[0][0] <= end_ms:
            self.now_ms, _, action = heapq.heappop(self._queue)
            action()
        self.now_ms = end_ms

    def _clock_ms(self, node: Node) -> float:
        return self.now_ms * node.rate + node.ahead_ms

    # Members

    def start(self, node: Node) -> None:
        disk = node.disk
        snapshot = disk.snapshot
        if snapshot is not None and disk.log.term_at(snapshot.index) != snapshot.term:
            disk.log = Log(snapshot.index, snapshot.term)
        node.log = disk.log.copy()
        known = [node.first]
        if snapshot is not None:
            known = [decode_configuration(snapshot.configuration, index=snapshot.index)]
        floor = known[0].index
        known += [
            decode_configuration(entry.data, index=entry.index)
            for entry in node.log.entries
            if entry.index > floor and entry.data.startswith(CONFIGURATION)
        ]
        node.life += 1
        node.writes, node.held, node.syncing = [], [], False
        node.incoming = {}
        node.snapshots = {snapshot.index: snapshot} if snapshot is not None else {}
        node.rate = self.random.uniform(0.9, 1.1)
        node.state = initial(
            node.id,
            hard_state=disk.hard_state,
            log=LogShape.of(node.log.base_index, node.log.base_term, [e.term for e in node.log.entries]),
            configurations=known,
            snapshot_index=snapshot.index if snapshot else 0,
            snapshot_term=snapshot.term if snapshot else 0,
            timing=self.timing,
            now_ms=self._clock_ms(node),
            jitter=self.random.random(),
        )
        node.applied = node.state.commit_index
        self._wake(node)

    def crash(self, node: Node) -> None:
        """What was not synced may be on the disk, but only in order."""
        for write in node.writes[: self.random.randint(0, len(node.writes))]:
            node.disk.write(write)
        node.state = None
        self._reads = {number: read for number, read in self._reads.items() if read[0] != node.id}
        for sender in self.nodes:
            self._lost_connection(sender, node.id)

    def feed(self, node: Node, event: ev.Event) -> None:
        before = node.state
        if before is None:
            return
        self.steps += 1
        now_ms = self._clock_ms(node)
        after, effects = self.step(before, event, now_ms=now_ms, jitter=self.random.random())
        node.state = after
        for effect in effects:
            self._carry_out(node, effect)
        self.checker.stepped(node, before, after, event)
        if type(event) is ev.Tick:
            self.checker.check(after.due_ms > now_ms, "time stands still", node.id, after)
        if after.due_ms < before.due_ms or after.due_ms <= now_ms or type(event) is ev.Tick:
            self._wake(node)

    def _wake(self, node: Node) -> None:
        assert node.state is not None
        life = node.life

        def due() -> None:
            state = node.state
            if state is None or node.life != life:
                return
            if state.due_ms <= self._clock_ms(node) + 1e-6:
                self.feed(node, ev.Tick())
            else:
                self._wake(node)

        self.at(max(0.1, (node.state.due_ms - self._clock_ms(node)) / node.rate), due)

    # Effects

    def _carry_out(self, node: Node, effect: fx.Effect) -> None:
        state = node.state
        assert state is not None
        if type(effect) is fx.Persist:
            self._persist(node, effect)
        elif type(effect) is fx.Send:
            if effect.after > state.durable:
                node.held.append(effect)
            else:
                self._send(node, effect)
        elif type(effect) is fx.Commit:
            self.checker.check(effect.index > node.applied, "nothing new is committed", node.id, effect)
            self.checker.committed_to(node, node.applied + 1, effect.index)
            node.applied = effect.index
        elif type(effect) is fx.ReadAnswered:
            who, asked = self._reads.pop(effect.id, ("", 0))
            self.checker.check(who == node.id, "a read was answered twice", effect)
            if effect.index:
                self.reads_answered += 1
                self.checker.check(effect.index >= asked, "a stale read", node.id, effect, asked)
        elif type(effect) is fx.ChangeAnswered:
            self.changes[effect.reason] = self.changes.get(effect.reason, 0) + 1
        elif type(effect) is fx.SendSnapshot:
            self._send_snapshot(node, effect)
        elif type(effect) is fx.StoreSnapshot:
            self._store_snapshot(node, effect)

    def _persist(self, node: Node, effect: fx.Persist) -> None:
        log = node.log
        if effect.truncate_from:
            self.checker.check(effect.truncate_from > node.applied, "applied entries are cut", node.id, effect)
            log.truncate(effect.truncate_from)
        entries = effect.entries
        if effect.proposals:
            made = []
            for offset in range(effect.proposals):
                self._data += 1
                made.append(LogEntry(effect.first_index + offset, effect.term, b"%d" % self._data))
            entries = tuple(made)
        first = log.last_index + 1
        log.entries.extend(entries)
        self.checker.appended(log, first)
        node.writes.append(
            Write(effect.number, effect.hard_state, effect.truncate_from, entries, log.last_index, log.last_term)
        )
        self._sync(node)

    def _sync(self, node: Node) -> None:
        """One at a time; what comes meanwhile is for the next one."""
        if node.syncing or not node.writes:
            return
        node.syncing = True
        life, count = node.life, len(node.writes)
        delay_ms = self.random.uniform(0.1, self.faults.sync_ms)
        if node.stopped_disk_until > self.now_ms:
            delay_ms += node.stopped_disk_until - self.now_ms

        def synced() -> None:
            if node.life != life or node.state is None:
                return
            node.syncing = False
            done, node.writes = node.writes[:count], node.writes[count:]
            if done:  # else a snapshot's installation waited for them
                for write in done:
                    node.disk.write(write)
                last = done[-1]
                self._durable(node, last)
            self._sync(node)

        self.at(delay_ms, synced)

    def _durable(self, node: Node, last: Write) -> None:
        release = [send for send in node.held if send.after <= last.number]
        node.held = [send for send in node.held if send.after > last.number]
        for send in release:
            self._send(node, send)
        self.feed(node, ev.Persisted(last.number, last.last_index, last.last_term))

    def _send(self, node: Node, effect: fx.Send) -> None:
        message = effect.message
        if effect.fill_to:
            assert type(message) is msg.AppendEntries
            last = effect.fill_to
            if self.random.random() < self.faults.short:
                last = self.random.randint(message.previous_index, last)
            message = replace(message, entries=node.log.slice(message.previous_index + 1, last))
        self.checker.sent(node, message, effect.to)
        if (node.id, effect.to) in self._blocked or self.random.random() < self.faults.loss:
            return
        for _ in range(2 if self.random.random() < self.faults.duplicate else 1):
            slow = self.random.random() < self.faults.slow
            delay_ms = self.random.uniform(0.2, self.faults.slow_ms if slow else self.faults.delay_ms)
            self.at(delay_ms, lambda: self._deliver(node.id, effect.to, message))

    def _deliver(self, sender: str, to: str, message: msg.Message) -> None:
        node = self.nodes.get(to)
        if node is not None and (sender, to) not in self._blocked:
            self.feed(node, ev.Received(sender, message))

    def _lost_connection(self, sender: str, to: str) -> None:
        node = self.nodes.get(sender)
        if node is not None and self.random.random() < 0.5:
            self.at(self.random.uniform(0.0, 5.0), lambda: self.feed(node, ev.Unreachable(to)))

    def _send_snapshot(self, node: Node, effect: fx.SendSnapshot) -> None:
        index = effect.index or max(node.snapshots, default=0)
        snapshot = node.snapshots.get(index)
        state = node.state
        assert state is not None
        if snapshot is None:
            self.at(0.1, lambda: self.feed(node, ev.Unreachable(effect.to)))
            return
        data = b"s" * max(0, min(PIECE_BYTES, SNAPSHOT_BYTES - effect.offset))
        chunk = msg.SnapshotChunk(
            state.term,
            snapshot.index,
            snapshot.term,
            effect.offset,
            SNAPSHOT_BYTES,
            snapshot.configuration,
            data,
            effect.round,
        )
        self._send(node, fx.Send(effect.to, chunk))

    def _store_snapshot(self, node: Node, effect: fx.StoreSnapshot) -> None:
        chunk = effect.chunk
        key = (effect.leader, chunk.term, chunk.index)
        life = node.life

        def stored() -> None:
            if node.life != life or node.state is None:
                return
            have = node.incoming.get(key, 0)
            if chunk.offset == 0:
                have = 0
            if chunk.offset != have or self.random.random() < 0.03:
                node.incoming.pop(key, None)
                self.feed(node, ev.SnapshotStored(effect.leader, chunk.term, chunk.index, 0))
                return
            node.incoming = {key: have + len(chunk.data)}
            if have + len(chunk.data) < chunk.total:
                self.feed(node, ev.SnapshotStored(effect.leader, chunk.term, chunk.index, have + len(chunk.data)))
            else:
                self.at(self.random.uniform(1.0, 300.0), install)

        def install() -> None:
            if node.life == life and node.state is not None:
                self._install(node, effect)

        self.at(self.random.uniform(0.1, 10.0), stored)

    def _install(self, node: Node, effect: fx.StoreSnapshot) -> None:
        chunk = effect.chunk
        node.incoming = {}
        earlier, node.writes = node.writes, []
        for write in earlier:
            node.disk.write(write)
        if chunk.index > node.applied:
            snapshot = Snapshot(chunk.index, chunk.last_term, chunk.configuration)
            node.disk.snapshot = snapshot
            node.snapshots[snapshot.index] = snapshot
            if effect.keep_log:
                self.checker.check(node.log.term_at(chunk.index) == chunk.last_term, "no log to keep", node.id, chunk)
            else:
                node.log = Log(chunk.index, chunk.last_term)
                node.disk.log = node.log.copy()
            node.applied = chunk.index
        self.feed(node, ev.SnapshotInstalled(effect.leader, chunk.index, chunk.last_term, chunk.configuration))
        if earlier:
            self._durable(node, earlier[-1])

    # What people and their disks do

    def leader(self) -> Node | None:
        """The one with the highest term that thinks it leads."""
        leading = [n for n in self.nodes.values() if n.state is not None and n.state.role is Role.LEADER]
        return max(leading, key=lambda n: n.state.term if n.state else 0, default=None)

    def any_node(self) -> Node:
        return self.random.choice(list(self.nodes.values()))

    def propose(self, count: int = 1) -> None:
        for node in list(self.nodes.values()):
            if node.state is not None and node.state.role is Role.LEADER:
                self.feed(node, ev.Propose(count))

    def read(self, node: Node) -> None:
        if node.state is not None:
            self._ids += 1
            self._reads[self._ids] = (node.id, self.checker.commit_index)
            self.feed(node, ev.Read(self._ids))

    def compact(self, node: Node) -> None:
        state = node.state
        if state is None or node.applied <= max(node.snapshots, default=0) or state.receiving is not None:
            return
        term = node.log.term_at(node.applied)
        assert term is not None
        configuration = encode_configuration(state.configuration_at(node.applied))
        snapshot = Snapshot(node.applied, term, configuration)
        node.disk.snapshot = snapshot
        kept = [index for index in node.snapshots if self.random.random() < 0.7]
        node.snapshots = {index: node.snapshots[index] for index in kept} | {snapshot.index: snapshot}
        first = max(node.log.base_index + 1, snapshot.index + 1 - self.random.choice((0, 0, 3, 50)))
        node.log.compact(first - 1)
        node.disk.log.compact(min(first - 1, node.disk.log.last_index))
        self.feed(node, ev.Compacted(first, snapshot.index, snapshot.term))

    def change(self, node: Node) -> None:
        """A change of members that is usually sensible."""
        state = node.state
        if state is None:
            return
        self._ids += 1
        configuration = state.configuration
        learners = [m.id for m in configuration.members if not m.voter]
        voters = list(configuration.voters)
        kind = self.random.random()
        if learners and kind < 0.5:
            self.feed(node, ev.Promote(self._ids, self.random.choice(learners)))
        elif len(voters) > 3 or (kind < 0.6 and len(voters) > 1):
            self.feed(node, ev.Remove(self._ids, self.random.choice(voters)))
        elif learners and kind < 0.7:
            self.feed(node, ev.Remove(self._ids, self.random.choice(learners)))
        elif len(learners) < 2:
            name = f"m{len(self.nodes)}"
            self.nodes[name] = Node(name, Disk(), Configuration())
            self.start(self.nodes[name])
            self.feed(node, ev.AddLearner(self._ids, Member(name, f"{name}:1", False)))

    def partition(self) -> None:
        names = list(self.nodes)
        side = {name for name in names if self.random.random() < 0.5}
        if self.random.random() < 0.3 and (leader := self.leader()) is not None:
            side = {leader.id}
        both_ways = self.random.random() < 0.7
        for a in names:
            for b in names:
                if (a in side) != (b in side) and (both_ways or a in side):
                    self._blocked.add((a, b))
                    self._lost_connection(a, b)

    def disturb(self) -> None:
        """One moment of the time in which things go wrong."""
        chance, faults = self.random.random, self.faults
        for node in list(self.nodes.values()):
            if node.state is None:
                if chance() < faults.heal:
                    self.start(node)
            elif chance() < faults.crash / len(self.nodes) * (3 if node.state.role is Role.LEADER else 1):
                self.crash(node)
        if chance() < faults.heal:
            self._blocked.clear()
        elif chance() < faults.partition:
            self.partition()
        if chance() < faults.stand and (state := self.any_node().state) is not None and state.leader:
            self.feed(self.nodes[state.id], ev.Received(state.leader, msg.TimeoutNow(state.term)))
        if chance() < faults.jump:
            leader = self.leader()
            for node in self.nodes.values():
                if node.state is not None and node is not leader and chance() < 0.9:
                    node.ahead_ms += self.random.uniform(0.0, 4 * self.timing.election_ms)
                    self._wake(node)
        if chance() < faults.slow_disk:
            self.any_node().stopped_disk_until = self.now_ms + self.random.uniform(20.0, 500.0)
        if chance() < faults.unreachable:
            self._lost_connection((self.leader() or self.any_node()).id, self.any_node().id)
        if chance() < faults.compact:
            self.compact(self.any_node())
        if chance() < faults.change:
            self.change(self.leader() or self.any_node())
        if chance() < faults.transfer and (leader := self.leader()) is not None and leader.state is not None:
            self._ids += 1
            target = self.random.choice(["", *leader.state.voters])
            self.feed(leader, ev.Transfer(self._ids, target))
        if chance() < 0.1 and (node := self.any_node()).state is not None:
            slow = self.random.choice((0.5, 5.0, 60.0))
            self.feed(node, ev.Measured(slow, slow))

    def live_through(self, duration_ms: float) -> None:
        """With faults; writes and reads all the while."""
        end_ms = self.now_ms + duration_ms
        disturb_ms = self.now_ms
        while self.now_ms < end_ms:
            self.run(self.random.uniform(1.0, 25.0))
            if self.random.random() < 0.7:
                self.propose(self.random.choice((1, 1, 2, 7)))
            if self.random.random() < 0.4:
                self.read(self.any_node())
            if self.now_ms >= disturb_ms:
                disturb_ms = self.now_ms + self.faults.interval_ms
                self.disturb()

    def recover(self, duration_ms: float = 3000.0) -> None:
        """Everything is well again: what was accepted reaches all members, reads are answered. Raises Violation."""
        self._blocked.clear()
        self.faults = Faults()
        for node in self.nodes.values():
            node.stopped_disk_until = 0.0
            if node.state is None:
                self.start(node)
            else:
                self.feed(node, ev.Measured(0.1, 0.1))
        self.run(duration_ms)
        check = self.checker.check
        leader = self.leader()
        if leader is None or leader.state is None:
            raise Violation("nobody leads")
        before = leader.state.commit_index
        self.feed(leader, ev.Propose(3))
        members = [m.id for m in leader.state.configuration.members]
        answered = self.reads_answered
        for member in members:
            self.read(self.nodes[member])
        self.run(500.0)
        last = leader.state.log.last_index
        check(last >= before + 3, "no proposals are taken", leader.state)
        for member in members:
            state = self.nodes[member].state
            assert state is not None
            check(state.commit_index == last, "a member is behind", member, state, "leader:", leader.state)
            check(state.leader == leader.id, "a member does not know the leader", member, leader.id)
        check(self.reads_answered == answered + len(members), "reads are not answered")
        check(not self._reads, "reads were forgotten", self._reads)


def run_seed(seed: int, *, members: int = 3, duration_ms: float = 3000.0, step: Step = step) -> Cluster:
    """One history: bad times, then good ones. Raises Violation, and whatever the core raises."""
    cluster = Cluster(seed, members=members, step=step)
    cluster.live_through(duration_ms)
    cluster.recover()
    return cluster


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--members", type=int, default=0, help="0: 1, 2, 3 and 5 in turn")
    options = parser.parse_args()
    began = time.monotonic()
    steps, failed, commits = 0, 0, 0
    for seed in range(options.first, options.first + options.seeds):
        try:
            cluster = run_seed(seed, members=options.members or (3, 3, 5, 2, 1)[seed % 5])
        except AssertionError as error:
            failed += 1
            print(f"seed {seed}: {str(error)[:1500] or repr(error)}")
        else:
            steps += cluster.steps
            commits += cluster.checker.commit_index
    print(f"{options.seeds} seeds, {failed} failed, {steps} steps, {commits} commits, {time.monotonic() - began:.1f} s")


if __name__ == "__main__":
    main()
