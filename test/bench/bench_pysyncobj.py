"""Why pysyncobj does not replicate this fabric: acknowledged writes that are gone after one crash of the leader.

Three members in one process on a virtual clock; messages arrive in order and none is lost before the crash, as over
TCP; member c hears nothing yet (a majority does not need it). The follower cuts its log behind `prevLogIdx` without
looking for a conflict, and an acknowledgement moves the leader's next index back, so that batches which the follower
has acknowledged already are sent again. A leader that crashes between two of those batches takes what it had
acknowledged with it. Nothing here is random: two runs print the same.

    .venv/bin/python test/bench/bench_pysyncobj.py          (docs/adr/0009-own-raft-core.md)
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
from collections import deque
from pathlib import Path

import pysyncobj
import pysyncobj.syncobj
from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf, replicated
from pysyncobj.node import Node
from pysyncobj.transport import Transport

WRITES = 1000
COMMAND = "x" * 200
LAG = 3  # messages that an acknowledgement is behind
OUT = Path(__file__).parents[2] / "build" / "bench" / "pysyncobj.json"


class VirtualTime:
    now = 1000.0


pysyncobj.syncobj.monotonicTime = lambda: VirtualTime.now


class Wires:
    """Every directed link is a queue."""

    def __init__(self) -> None:
        self.ends: dict[str, MemoryTransport] = {}
        self.queues: dict[tuple[str, str], deque] = {}

    def deliver(self, source: str, target: str) -> bool:
        queue = self.queues.get((source, target))
        if not queue:
            return False
        self.ends[target]._onMessageReceived(Node(source), queue.popleft())
        return True


class MemoryTransport(Transport):
    def __init__(self, wires: Wires, name: str, others: list[str]) -> None:
        super().__init__(None, None, None)
        self.wires, self.name, self.others = wires, name, others
        self.up = set(others)
        wires.ends[name] = self

    def tryGetReady(self):
        pass

    def open(self) -> None:
        for other in self.others:
            self._onNodeConnected(Node(other))

    @property
    def ready(self):
        return True

    def waitReady(self):
        pass

    def addNode(self, node):
        pass

    def dropNode(self, node):
        pass

    def destroy(self):
        pass

    def send(self, node, message):
        if node.id not in self.up:
            return False
        self.wires.queues.setdefault((self.name, node.id), deque()).append(message)
        return True


class Register(SyncObj):
    def __init__(self, name: str, others: list[str], wires: Wires, timeout_s: float) -> None:
        self.applied: list[int] = []
        conf = SyncObjConf(
            autoTick=False,
            appendEntriesBatchSizeBytes=4096,
            raftMinTimeout=timeout_s,
            raftMaxTimeout=timeout_s + 0.001,
            connectionTimeout=60.0,
            leaderFallbackTimeout=60.0,
            dynamicMembershipChange=False,
        )
        super().__init__(Node(name), [Node(o) for o in others], conf, transport=MemoryTransport(wires, name, others))

    @replicated
    def write(self, number, padding):
        self.applied.append(number)


def main() -> None:
    logging.disable(logging.CRITICAL)
    wires = Wires()
    names = ["a", "b", "c"]
    timeouts = {"a": 0.5, "b": 1.5, "c": 30.0}
    members = {n: Register(n, [o for o in names if o != n], wires, timeouts[n]) for n in names}
    a, b, c = members.values()
    for end in wires.ends.values():
        end.open()

    def tick(*chosen: Register) -> None:
        VirtualTime.now += 0.05
        for member in chosen:
            member.doTick(0.0)

    for _ in range(100):  # a stands and is elected by b
        tick(a, b)
        while wires.deliver("a", "b") or wires.deliver("b", "a"):
            pass
        if a._isLeader():
            break
    assert a._isLeader()

    acknowledged: list[int] = []

    def answered(number: int):
        def callback(_result, error):
            if error == FAIL_REASON.SUCCESS:
                acknowledged.append(number)

        return callback

    number = 0
    steps = 0
    while len(acknowledged) < WRITES and steps < 100_000:
        steps += 1
        for _ in range(20):
            if number < WRITES:
                number += 1
                a.write(number, COMMAND, callback=answered(number))
        tick(a, b)
        wires.deliver("a", "b")
        wires.deliver("a", "b")
        if len(wires.queues.get(("b", "a"), ())) > LAG:
            wires.deliver("b", "a")
        last_of_b = b.getStatus()["log_len"]
        if len(acknowledged) >= 100 and last_of_b < len(acknowledged):
            break  # the log of the only other member that has them is shorter than what was promised
    promised = list(acknowledged)

    # The leader crashes here. What it still had to send is gone with it; c is reachable now.
    a.destroy()
    members["b"]._SyncObj__transport.up = {"c"}
    members["c"]._SyncObj__transport.up = {"b"}
    for link in list(wires.queues):
        wires.queues[link].clear()
    wires.ends["b"]._onNodeDisconnected(Node("a"))
    for _ in range(400):
        tick(b, c)
        while wires.deliver("b", "c") or wires.deliver("c", "b"):
            pass
    b.write(0, "", callback=None)
    for _ in range(50):
        tick(b, c)
        while wires.deliver("b", "c") or wires.deliver("c", "b"):
            pass
    kept = set(b.applied)
    lost = [n for n in promised if n not in kept]
    result = {
        "version": importlib.metadata.version("pysyncobj"),
        "acknowledged": len(promised),
        "lost": len(lost),
        "new_leader": "b" if b._isLeader() else "none",
        "first_lost": lost[:3],
    }
    print(
        f"pysyncobj: {len(promised)} writes acknowledged, leader crashed, {len(lost)} of them lost "
        f"(leader: {result['new_leader']})"
    )
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
