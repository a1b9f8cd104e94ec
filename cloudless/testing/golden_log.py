"""The golden log: entries of every command, whose bytes and state hashes are committed and must hold for ever.

    python -m cloudless.testing.golden_log DIRECTORY

writes each log of `LOGS`: `NAME.hex` (one entry a line) and `NAME.hashes` (the state hash after each entry). It refuses
to change lines that are there already: a later version may add entries at the end and alter nothing before them.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from cloudless.coordinator.core import commands as c
from cloudless.coordinator.core import machine
from cloudless.coordinator.core.snapshot import state_hash
from cloudless.coordinator.core.state import State
from cloudless.core.model import (
    CandidateScore,
    ContainerStatus,
    Feature,
    FilterRejection,
    JobRun,
    JoinToken,
    NodePresence,
    NodeReliability,
    NodeState,
    PlacementDecision,
    PortBinding,
    ReplicaPhase,
    ReplicaStatus,
    Role,
    RoleBinding,
    RolloutAction,
    RolloutPhase,
    RolloutProgress,
    RunPhase,
    ScoreTerm,
    Severity,
    Taint,
    User,
)
from cloudless.core.spec import (
    MANUAL,
    Canary,
    CanaryStep,
    ConcurrencyPolicy,
    ContainerPort,
    Metadata,
    MissedRuns,
    Placement,
    Protocol,
    Rollout,
    RolloutStrategy,
    Schedule,
    SpreadConstraint,
    TaintEffect,
    WorkloadType,
)
from cloudless.testing.fabric_model import device, service
from cloudless.testing.job_fabric import job

TRUST_DOMAIN = "golden.local"
_START_MS = 1_750_000_000_000


def entries() -> list[bytes]:
    """The log of schema 1. Append only."""
    log = _encoded(_commands())
    log.append(log[3])  # a repeated proposal
    log.append(b"\xff\x00 not an entry")
    log.append(b"")
    return log


def coordinator_entries() -> list[bytes]:
    """The log of what schema 2 brought. Append only."""
    log = _encoded(_coordinator_commands())
    log.append(log[3])  # a repeated proposal
    log.append(b"\x08\x03" + log[0][2:])  # of a schema that does not exist yet
    log.append(b"\x08\x01" + log[1][2:])  # a command of schema 2, said to be of schema 1
    return log


def lifecycle_entries() -> list[bytes]:
    """Rollouts and moves: schema 3."""
    return _encoded(_lifecycle_commands())


def run_entries() -> list[bytes]:
    """Jobs and crons: schema 3. Append only."""
    return _encoded(_run_commands())


LOGS: Final[Mapping[str, Callable[[], list[bytes]]]] = {
    "log": entries,
    "coordinators": coordinator_entries,
    "lifecycle": lifecycle_entries,
    "runs": run_entries,
}


def _encoded(commands: Iterable[tuple[str, c.Command]]) -> list[bytes]:
    return [
        c.encode(c.Entry(c.SCHEMA, f"request-{position}", _START_MS + 1000 * position, actor, command))
        for position, (actor, command) in enumerate(commands)
    ]


def replay(log: list[bytes]) -> Iterator[State]:
    """The state after each entry."""
    state = State.empty(TRUST_DOMAIN)
    for index, data in enumerate(log, 1):
        state = machine.apply(state, data, index=index, term=1).state
        yield state


def _commands() -> Iterator[tuple[str, c.Command]]:
    alice, loop = "user/alice", "system/reconciler"
    yield "system/leader", c.NoOp()
    yield "system/bootstrap", c.PutUser(User("alice", (RoleBinding(Role.ADMIN, "*"),)))
    yield alice, c.PutUser(User("bob", (RoleBinding(Role.VIEWER, "default"), RoleBinding(Role.OPERATOR, "staging"))))
    yield (
        alice,
        c.CreateToken(
            JoinToken("t1", "node-*", "eu", "z1", {"rack": "r1"}, max_uses=3, expires_at_ms=_START_MS + 9_000_000)
        ),
    )
    yield alice, c.CreateToken(JoinToken("t2", "*", max_uses=1, expires_at_ms=_START_MS + 9_000_000))
    for name in ("node-a", "node-b", "node-c"):
        yield "node/" + name, c.EnrollNode("t1", name, f"sha-{name}", f"0{name[-1]}", _START_MS + 80_000_000)
        yield "node/" + name, c.ReportNode(name, NodeState.READY, "connected", device(cpu_millis=1000))
    yield "node/node-d", c.EnrollNode("t1", "node-d", "sha-d", "0d", 1)  # used up
    yield alice, c.RevokeToken("t2")
    yield "node/node-d", c.EnrollNode("t2", "node-d", "sha-d", "0d", 1)  # revoked
    yield alice, c.UpdateNode("node-c", set_labels={"disk": "ssd"}, set_taints=(_TAINT,))
    yield alice, c.UpdateNode("node-b", cordoned=True)
    yield "node/node-a", c.RenewCertificate("node-a", "sha-node-a2", "1a", _START_MS + 160_000_000)
    spread = Placement(spread=(SpreadConstraint("zone", 1),))
    web = service(replicas=2, cpu_millis=400, placement=spread)
    metadata = Metadata("web", "default", {"app": "web"}, {"note": "größer"})
    yield alice, c.PutWorkload(metadata, web, 0)
    yield alice, c.PutWorkload(metadata, web, 0)  # conflict
    yield alice, c.PutWorkload(metadata, web)  # unchanged
    yield alice, c.PutWorkload(Metadata("agent", "system"), service(kind=WorkloadType.SYSTEM))
    yield loop, c.ApplyPlan("default", "web", 10, (_planned("web-aaaaa", 1, "node-a"), _planned("web-bbbbb", 1)))
    yield loop, c.ApplyPlan("default", "web", 11, (_planned("web-bbbbb", 1, "node-b"),))  # cordoned
    yield alice, c.UpdateNode("node-b", cordoned=False, remove_labels=("rack",))
    yield loop, c.ApplyPlan("default", "web", 12, (_planned("web-bbbbb", 1, "node-b"),))
    for node, replica in (("node-a", "web-aaaaa"), ("node-b", "web-bbbbb")):
        for phase in (ReplicaPhase.STARTING, ReplicaPhase.READY):
            yield f"node/{node}", c.ReportReplicas(node, (c.ReportedReplica(replica, _status(phase)),))
    yield alice, c.ScaleWorkload("default", "web", 3)
    yield alice, c.RestartWorkload("default", "web")
    yield loop, c.ApplyPlan("default", "web", 20, (_planned("web-ccccc", 2, "node-a", attempt=1),))
    yield loop, c.ApplyPlan("default", "web", 20, (_planned("web-ddddd", 2, "node-a"),))  # does not fit
    yield loop, c.ApplyPlan("default", "web", 20, stops=(c.PlannedStop("web-aaaaa", "Replaced"),))
    yield "node/node-a", c.ReportReplicas("node-a", (c.ReportedReplica("web-aaaaa", gone=True),))
    failed = _status(ReplicaPhase.FAILED, reason="ImageMissing")
    yield "node/node-a", c.ReportReplicas("node-a", (c.ReportedReplica("web-ccccc", failed),))
    yield "system/sessions", c.ReportNode("node-b", NodeState.UNREACHABLE, "missed 4 heartbeats")
    yield "system/sessions", c.ReportNode("node-b", NodeState.LOST, "lease ended")
    yield loop, c.ApplyPlan("default", "web", 30, lost=("web-bbbbb",))
    yield alice, c.RemoveNode("node-b")
    yield "system/sessions", c.ReportNode("node-a", device=device(cpu_millis=100))
    yield alice, c.UpdateNode("node-a", draining=True)
    yield alice, c.RemoveNode("node-a")  # not empty
    yield alice, c.DeleteWorkload("default", "web")
    yield alice, c.PutWorkload(metadata, web)  # deleting
    yield alice, c.RemoveNode("node-a", True)
    yield alice, c.DeleteWorkload("system", "agent")
    yield alice, c.RevokeUser("bob")
    yield alice, c.PutUser(User("bob"))  # revoked


def _coordinator_commands() -> Iterator[tuple[str, c.Command]]:
    alice, first, second = "user/alice", "coordinator/c1", "coordinator/c2"
    addresses = ("192.0.2.1:8443", "[2001:db8::1]:8443"), ("192.0.2.1:8442",), "192.0.2.1:8444"
    yield "system/bootstrap", c.PutUser(User("alice", (RoleBinding(Role.ADMIN, "*"),)))
    yield first, c.AnnounceCoordinator("c1", "1.0.0", 2, *addresses)
    yield first, c.AnnounceCoordinator("c1", "1.0.0", 2, *addresses)  # unchanged
    until_ms = _START_MS + 9_000_000
    yield alice, c.CreateToken(JoinToken("jc2", coordinator_id="c2", max_uses=1, expires_at_ms=until_ms))
    yield alice, c.CreateToken(JoinToken("jc3", coordinator_id="c3", max_uses=1, expires_at_ms=until_ms))
    yield alice, c.CreateToken(JoinToken("jc1", coordinator_id="c1", max_uses=1, expires_at_ms=until_ms))  # id is used
    yield alice, c.CreateToken(JoinToken("jn", "*", max_uses=9, expires_at_ms=until_ms))
    yield "node/n1", c.EnrollNode("jc2", "n1", "sha-n1", "01", until_ms)  # a token of a coordinator
    yield second, c.EnrollCoordinator("jn", "c2", "sha-c2", "c2", "1.0.0", 2)  # a token of nodes
    yield second, c.EnrollCoordinator("jc3", "c2", "sha-c2", "c2", "1.0.0", 2)  # a token of another
    yield second, c.EnrollCoordinator("jc2", "c2", "sha-c2", "c2", "0.9.0", 1)  # too old
    yield second, c.EnrollCoordinator("jc2", "c2", "sha-c2", "c2", "1.0.0", 2)
    yield second, c.EnrollCoordinator("jc2", "c2", "sha-c2", "c2b", "1.0.0", 2)  # unchanged
    yield second, c.EnrollCoordinator("jc2", "c2", "sha-other", "c2c", "1.0.0", 2)  # another key
    yield second, c.AnnounceCoordinator("c2", "1.0.0", 2, ("192.0.2.2:8443",), (), "192.0.2.2:8444")
    yield second, c.AnnounceCoordinator("c2", "1.1.0", 3, ("192.0.2.2:8443",), (), "192.0.2.2:8444")
    yield second, c.AnnounceCoordinator("c2", "1.1.0", 3, ("192.0.2.9:8443",), (), "192.0.2.9:8444")
    yield second, c.AnnounceCoordinator("c2", "0.9.0", 1)  # too old
    refused = {"peer": "192.0.2.66", "reason": "WrongMember"}
    yield first, c.RecordEvent("security.member_refused", Severity.WARNING, "coordinator/c2", "", "größer", refused)
    yield first, c.RecordEvent("cluster.restored")
    yield first, c.RecordEvent("node.lost")  # not for this command
    yield alice, c.RemoveCoordinator("c9")  # unknown
    yield alice, c.RemoveCoordinator("c2")
    yield alice, c.RemoveCoordinator("c2")  # unchanged
    yield alice, c.RemoveCoordinator("c1")  # the last one
    yield second, c.AnnounceCoordinator("c2", "1.1.0", 3)  # removed
    yield second, c.EnrollCoordinator("jc2", "c2", "sha-c2", "c2d", "1.0.0", 2)  # its id is never used again
    yield alice, c.RevokeToken("jc3")
    yield "coordinator/c3", c.EnrollCoordinator("jc3", "c3", "sha-c3", "c3", "1.0.0", 2)  # revoked


def _lifecycle_commands() -> Iterator[tuple[str, c.Command]]:
    alice = "user/alice"
    yield alice, c.ControlRollout("default", "web", RolloutAction.PAUSE)  # unknown
    yield alice, c.StartRun("default", "web")  # unknown
    loop, node = "system/reconciler", "node/node-a"
    yield alice, c.CreateToken(JoinToken("t1", "*", max_uses=1, expires_at_ms=_START_MS + 9_000_000))
    yield node, c.EnrollNode("t1", "node-a", "sha-a", "0a", _START_MS + 80_000_000)
    yield node, c.ReportNode("node-a", NodeState.READY, "connected", device(cpu_millis=1000))
    steps = Canary((CanaryStep(50, 60_000), CanaryStep(100, MANUAL)))
    rollout = Rollout(RolloutStrategy.CANARY, 1, 0, 1, 0, 300_000, True, steps)
    metadata = Metadata("web", "default", annotations={"cloudless.dev/change-cause": "größer"})
    for image in ("web:1", "web:2"):
        yield alice, c.PutWorkload(metadata, service(replicas=2, image=image, rollout=rollout))
        if image == "web:1":
            yield alice, c.ControlRollout("default", "web", RolloutAction.UNDO)  # nothing to go back to
            begun = RolloutProgress(1, 0, RolloutPhase.PROGRESSING, _START_MS, _START_MS)
            first = _planned("web-aaaaa", 1, "node-a"), _planned("web-bbbbb", 1, "node-a")
            yield loop, c.ApplyPlan("default", "web", 0, first, rollout=begun)
            ready = tuple(c.ReportedReplica(p.replica_id, _status(ReplicaPhase.READY)) for p in first)
            yield node, c.ReportReplicas("node-a", ready)
            done = dataclasses.replace(begun, stable_generation=1, phase=RolloutPhase.COMPLETE, available=2)
            yield loop, c.ApplyPlan("default", "web", rollout=done)
            yield loop, c.ApplyPlan("default", "web", rollout=done)  # unchanged
    second = RolloutProgress(2, 1, RolloutPhase.PROGRESSING, _START_MS + 20_000, _START_MS + 20_000)
    yield loop, c.ApplyPlan("default", "web", 0, (_planned("web-ccccc", 2, "node-a"),), rollout=second)
    yield loop, c.ApplyPlan("default", "web", 0, (_planned("web-ddddd", 1, "node-a"),))  # not without the rollout
    yield loop, c.ApplyPlan("default", "web", 0, (_planned("web-ddddd", 1, "node-a"),), rollout=second)
    for action in (
        RolloutAction.RESUME,  # not paused
        RolloutAction.PAUSE,
        RolloutAction.PAUSE,  # paused already
        RolloutAction.PROMOTE,  # paused
        RolloutAction.RESUME,
        RolloutAction.PROMOTE,
    ):
        yield alice, c.ControlRollout("default", "web", action)
    late = c.ApplyPlan("default", "web", 1, stops=(c.PlannedStop("web-aaaaa", "Replaced"),))
    yield loop, late  # planned before it was promoted
    overdue = dataclasses.replace(second, step=1, message="no new replica became available for 5m")
    yield loop, c.ApplyPlan("default", "web", rollout=overdue, roll_back=True)
    yield loop, c.ApplyPlan("default", "web", rollout=overdue, roll_back=True)  # of a generation that is over
    yield alice, c.ControlRollout("default", "web", RolloutAction.UNDO, 2)
    yield alice, c.ControlRollout("default", "web", RolloutAction.UNDO, 9)  # not kept
    high = dataclasses.replace(service(), priority=90)
    yield alice, c.PutWorkload(Metadata("high", "default"), high)
    victims = c.PlannedStop("web-bbbbb", "Preempted"), c.PlannedStop("nobody", "Preempted")
    yield loop, c.ApplyPlan("default", "high", 0, (_planned("high-aaaaa", 1),), preemptions=victims)
    yield loop, c.ApplyPlan("default", "web", preemptions=(c.PlannedStop("high-aaaaa", "Preempted"),))  # no right to it
    yield from _move_commands(node)
    yield from _port_commands()


def _move_commands(node: str) -> Iterator[tuple[str, c.Command]]:
    """A replica that moves to a better node, and one whose successor fails."""
    loop, other = "system/reconciler", "node/node-b"
    yield "user/alice", c.CreateToken(JoinToken("t2", "*", max_uses=1, expires_at_ms=_START_MS + 9_000_000))
    yield other, c.EnrollNode("t2", "node-b", "sha-b", "0b", _START_MS + 80_000_000)
    yield other, c.ReportNode("node-b", NodeState.READY, "connected", device(cpu_millis=1000))
    asked = Metadata("moving", "default", annotations={"cloudless.dev/rebalance": "true"})
    yield "user/alice", c.PutWorkload(asked, service(replicas=2))
    begun = RolloutProgress(1, 1, RolloutPhase.COMPLETE, _START_MS, _START_MS, available=2)
    first = _planned("moving-aaaaa", 1, "node-a"), _planned("moving-bbbbb", 1, "node-a")
    yield loop, c.ApplyPlan("default", "moving", 0, first, rollout=begun)
    ready = tuple(c.ReportedReplica(p.replica_id, _status(ReplicaPhase.READY)) for p in first)
    yield node, c.ReportReplicas("node-a", ready)
    successor = dataclasses.replace(_planned("moving-ccccc", 1, "node-b"), replaces="moving-aaaaa")
    yield loop, c.ApplyPlan("default", "moving", replicas=(dataclasses.replace(successor, replaces="nobody"),))
    yield loop, c.ApplyPlan("default", "moving", replicas=(successor,))
    again = dataclasses.replace(successor, replica_id="moving-ddddd")
    yield loop, c.ApplyPlan("default", "moving", replicas=(again,))  # it is being replaced
    yield other, c.ReportReplicas("node-b", (c.ReportedReplica("moving-ccccc", _status(ReplicaPhase.FAILED)),))
    failed = dataclasses.replace(begun, moves_failed=1, move_failed_at_ms=_START_MS + 60_000)
    dropped = c.PlannedStop("moving-ccccc", "Failed")
    yield loop, c.ApplyPlan("default", "moving", stops=(dropped,), rollout=failed)
    yield other, c.ReportReplicas("node-b", (c.ReportedReplica("moving-ccccc", gone=True),))
    yield loop, c.ApplyPlan("default", "moving", replicas=(again,))
    yield other, c.ReportReplicas("node-b", (c.ReportedReplica("moving-ddddd", _status(ReplicaPhase.READY)),))
    moved = c.PlannedStop("moving-aaaaa", "Rebalanced")
    yield loop, c.ApplyPlan("default", "moving", stops=(moved,), rollout=begun)
    yield node, c.ReportReplicas("node-a", (c.ReportedReplica("moving-aaaaa", gone=True),))


def _port_commands() -> Iterator[tuple[str, c.Command]]:
    """Replicas of one workload that share a host port, where the entry says so and the node can."""
    loop, node = "system/reconciler", "node/node-b"
    spec = service(replicas=3)
    port = ContainerPort("http", 80, Protocol.TCP, 8080)
    spec = dataclasses.replace(spec, containers=(dataclasses.replace(spec.containers[0], ports=(port,)),))
    for name in ("front", "other"):
        yield "user/alice", c.PutWorkload(Metadata(name, "default"), spec)
    planned = [_planned(f"front-{letter * 5}", 1, "node-b") for letter in "abc"]
    shared = [dataclasses.replace(replica, shares_host_ports=True) for replica in planned]
    yield loop, c.ApplyPlan("default", "front", replicas=(planned[0], shared[1]))  # the node cannot
    able = (Feature("containerd.shared-host-ports", available=True),)
    yield node, c.ReportNode("node-b", device=dataclasses.replace(device(cpu_millis=1000), features=able))
    yield loop, c.ApplyPlan("default", "front", replicas=(shared[1], planned[2]))  # the last one does not say so
    theirs = dataclasses.replace(_planned("other-aaaaa", 1, "node-b"), shares_host_ports=True)
    yield loop, c.ApplyPlan("default", "other", replicas=(theirs,))  # of another workload


def _run_commands() -> Iterator[tuple[str, c.Command]]:
    alice, loop, node = "user/alice", "system/reconciler", "node/node-a"
    yield alice, c.CreateToken(JoinToken("t1", "*", max_uses=1, expires_at_ms=_START_MS + 9_000_000))
    yield node, c.EnrollNode("t1", "node-a", "sha-a", "0a", _START_MS + 80_000_000)
    yield node, c.ReportNode("node-a", NodeState.READY, "connected", device(cpu_millis=1000))
    yield alice, c.PutWorkload(Metadata("job", "default"), job(completions=2, parallelism=1, ttl_ms=5_000))
    begun = JobRun(1, 1, started_at_ms=_START_MS + 4_000, phase=RunPhase.RUNNING)
    first = dataclasses.replace(_planned("job-aaaaa", 1, "node-a"), run=1)
    yield loop, c.ApplyPlan("default", "job", replicas=(first,), runs=(begun,))
    yield loop, c.ApplyPlan("default", "job", runs=(dataclasses.replace(begun, number=2),))  # it has its run
    yield alice, c.ScaleWorkload("default", "job", 3)  # it has no replicas
    yield alice, c.StartRun("default", "job")  # one is not finished
    failed = dataclasses.replace(_status(ReplicaPhase.FAILED, reason="RetriesExhausted"), restart_count=1)
    yield node, c.ReportReplicas("node-a", (c.ReportedReplica("job-aaaaa", failed),))
    second = dataclasses.replace(_planned("job-bbbbb", 1, "node-a", attempt=1), run=1)
    stop = c.PlannedStop("job-aaaaa", "Failed")
    retried = dataclasses.replace(begun, failed=2)
    yield loop, c.ApplyPlan("default", "job", replicas=(second,), stops=(stop,), runs=(retried,))
    yield loop, c.ApplyPlan("default", "job", runs=(begun,))  # it has gone on
    yield node, c.ReportReplicas("node-a", (c.ReportedReplica("job-aaaaa", gone=True),))
    yield node, c.ReportReplicas("node-a", (c.ReportedReplica("job-bbbbb", _status(ReplicaPhase.SUCCEEDED)),))
    stray = dataclasses.replace(_planned("job-ccccc", 1, "node-a"), run=7)
    yield loop, c.ApplyPlan("default", "job", replicas=(stray,))  # there is no such run
    ended = dataclasses.replace(retried, phase=RunPhase.SUCCEEDED, succeeded=2, finished_at_ms=_START_MS + 15_000)
    yield loop, c.ApplyPlan("default", "job", runs=(ended,))
    yield loop, c.ApplyPlan("default", "job", expired=True)  # its time is not over
    yield alice, c.StartRun("default", "job")
    late = JobRun(2, 1, 0, _START_MS + 16_500, _START_MS + 17_000, RunPhase.FAILED, 0, 0, "DeadlineExceeded", True)
    yield loop, c.ApplyPlan("default", "job", runs=(late,))
    hourly = Schedule("0 * * * *", "Europe/Berlin", ConcurrencyPolicy.REPLACE, MissedRuns.SKIP, 2)
    yield alice, c.PutWorkload(Metadata("cron", "default"), job(schedule=hourly))
    due_ms = _START_MS + 3_600_000
    missed = JobRun(1, 1, due_ms, 0, due_ms + 9, RunPhase.SKIPPED, reason="Missed")
    started = JobRun(2, 1, 2 * 3_600_000 + _START_MS, due_ms + 9, phase=RunPhase.RUNNING)
    until_ms = started.scheduled_at_ms
    plan = c.ApplyPlan("default", "cron", runs=(missed, started), scheduled_until_ms=until_ms)
    yield loop, plan
    yield loop, dataclasses.replace(plan, planned_at_index=3)  # the same again changes nothing
    again = dataclasses.replace(started, number=3)
    yield loop, c.ApplyPlan("default", "cron", runs=(again,), scheduled_until_ms=until_ms)  # decided already
    yield alice, c.StartRun("default", "cron")
    held = dataclasses.replace(hourly, suspend=True)
    yield alice, c.PutWorkload(Metadata("cron", "default"), job(schedule=held))
    yield alice, c.PutWorkload(Metadata("cron", "default"), job(schedule=hourly, image="job:2"))
    yield loop, c.ApplyPlan("default", "job", expired=True)
    yield node, c.ReportReplicas("node-a", (c.ReportedReplica("job-bbbbb", gone=True),))
    yield from _record_commands(node)


def _record_commands(node: str) -> Iterator[tuple[str, c.Command]]:
    """How steady a node is, when it is online, how its clock goes."""
    record = NodeReliability(900, 1500, 250, _START_MS + 90_000, _START_MS)
    presence = NodePresence((-1,) * 100 + (1000,) * 67 + (250,), _START_MS + 90_000)
    yield node, c.ReportNode("node-a", reliability=record, presence=presence, clock_skew_ms=-1500)
    older = dataclasses.replace(record, losses_milli=0, updated_at_ms=_START_MS + 80_000)
    yield node, c.ReportNode("node-a", reliability=older)  # made in ignorance: left out
    yield node, c.ReportNode("node-a", reliability=dataclasses.replace(record, available_permille=1001))
    yield node, c.ReportNode("node-a", presence=NodePresence((1, 2), _START_MS + 99_000))
    yield node, c.ReportNode("node-a", clock_skew_ms=8_000)
    silent = dataclasses.replace(record, losses_milli=2500, updated_at_ms=_START_MS + 100_000)
    yield "coordinator/c1", c.ReportNode("node-a", NodeState.UNREACHABLE, "no heartbeat", reliability=silent)


_TAINT = Taint("battery", "low", TaintEffect.NO_SCHEDULE)


def _planned(replica_id: str, generation: int, node_id: str = "", *, attempt: int = 0) -> c.PlannedReplica:
    decision = PlacementDecision(
        node_id=node_id,
        candidates=(CandidateScore(node_id, 0.625, (ScoreTerm("locality", 0.5, 0.25),)),) if node_id else (),
        rejections=(FilterRejection("taints", "taint battery=low:NoSchedule is not tolerated", ("node-c",), 1),),
        nodes_considered=3,
        decided_at_ms=_START_MS,
        summary=f"placed on {node_id}" if node_id else "no node fits",
    )
    return c.PlannedReplica(replica_id, generation, decision, attempt)


def _status(phase: ReplicaPhase, *, reason: str = "") -> ReplicaStatus:
    return ReplicaStatus(
        phase=phase,
        reason=reason,
        address="10.88.0.2",
        containers=(ContainerStatus("main", "running", started_at_ms=_START_MS, ready=phase is ReplicaPhase.READY),),
        ports=(PortBinding("http", 80, 8080, Protocol.TCP),),
        runtime="fake",
        since_ms=_START_MS,
    )


def main(directory: Path) -> None:
    for name, entries_of in LOGS.items():
        log = entries_of()
        for ending, written in (
            ("hex", [data.hex() for data in log]),
            ("hashes", [state_hash(state) for state in replay(log)]),
        ):
            path = directory / f"{name}.{ending}"
            before = path.read_text().splitlines() if path.exists() else []
            if written[: len(before)] != before:
                raise SystemExit(f"{path}: what is committed would change; entries may only be added at the end")
            path.write_text("".join(f"{line}\n" for line in written))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
