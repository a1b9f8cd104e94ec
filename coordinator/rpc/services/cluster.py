"""ClusterService: the coordinator, its peers and what they hold; changes of who they are; backups."""

# ruff: noqa: N802 (gRPC names the handlers)

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, Final

import structlog

from cloudless import __version__
from cloudless.api.v1 import control_pb2, control_pb2_grpc, types_pb2
from cloudless.api.v1.convert import to_proto
from cloudless.coordinator.backup import Backups
from cloudless.coordinator.core.commands import CreateToken, RecordEvent, RemoveCoordinator
from cloudless.coordinator.core.requests import coordinator_violations
from cloudless.coordinator.core.snapshot import state_hash
from cloudless.coordinator.core.state import State
from cloudless.coordinator.core.views import workload_status
from cloudless.coordinator.engine import EngineStatus, MemberStatus
from cloudless.coordinator.joining import read_identity
from cloudless.coordinator.rpc.call import current
from cloudless.coordinator.rpc.services.backend import Backend, derived_id, refuse_violations, required
from cloudless.core.model import Coordinator, JoinToken, NodeState, Severity
from cloudless.errors import CloudlessError, FailedPrecondition, NotFound
from cloudless.identity.channel import CONSISTENCY_METADATA, STALE

# Of a coordinator that is no member: it was never taken in, or the engine has no members of its own.
_NO_MEMBER: Final = frozenset({"UnknownMember", "NotReplicated"})

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Counts:
    """What takes a walk through the whole state as of `index`."""

    index: int = -1
    digest: str = ""
    replicas_ready: int = 0
    replicas_desired: int = 0


def _count(state: State, index: int) -> _Counts:
    """In a thread: the state is immutable."""
    statuses = [workload_status(state, record) for record in state.workloads.values()]
    ready, desired = sum(status.ready for status in statuses), sum(status.desired for status in statuses)
    return _Counts(index, state_hash(state), ready, desired)


class Cluster(control_pb2_grpc.ClusterServiceServicer):
    """Changes of the coordinators are refused with FailedPrecondition: NotReplicated, LastVoter, ChangeUnderWay,
    UnknownMember, NotCaughtUp; with Conflict (CoordinatorIdUsed) and NotFound (CoordinatorUnknown)."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._counted = _Counts()
        self._counting = asyncio.Lock()
        self._backups = Backups(backend.store, lambda: read_identity(backend.config.data_dir), backend.clock)

    async def GetStatus(self, request: Any, context: Any) -> Any:
        backend = self._backend
        # One at a time, and once for each state: everybody may ask, and it walks all that there is.
        async with self._counting:
            snapshot = backend.store.snapshot
            engine = backend.store.status()
            if self._counted.index != snapshot.index:
                self._counted = await asyncio.to_thread(_count, snapshot.state, snapshot.index)
        state, counts = snapshot.state, self._counted
        weights = backend.config.scheduler
        return control_pb2.GetStatusResponse(
            version=__version__,
            coordinator_id=backend.config.id,
            trust_domain=backend.trust_domain,
            commit_index=max(engine.commit_index, snapshot.index),
            applied_index=snapshot.index,
            term=engine.term,
            state_hash=counts.digest,
            nodes_ready=sum(node.state is NodeState.READY for node in state.nodes.values()),
            nodes_total=len(state.nodes),
            workloads=len(state.workloads),
            replicas_ready=counts.replicas_ready,
            replicas_desired=counts.replicas_desired,
            score_weights={
                "locality": weights.weight_locality,
                "reliability": weights.weight_reliability,
                "cost": weights.weight_cost,
                "utilization": weights.weight_utilization,
                "network_penalty": weights.weight_network,
            },
            store_engine=engine.engine,
            wall_clock_ms=backend.clock.now_ms(),
            role=engine.role,
            leader_id=engine.leader,
            coordinators=_views(state, engine, asked=backend.config.id),
            first_index=engine.first_index,
            last_index=engine.last_index,
        )

    async def ListCoordinators(self, request: Any, context: Any) -> Any:
        """From what this coordinator has applied: whoever looks for a leader must get an answer without one."""
        known = self._backend.state.coordinators
        return control_pb2.ListCoordinatorsResponse(
            coordinators=[
                to_proto(known[name], types_pb2.Coordinator) for name in sorted(known) if not known[name].removed
            ],
            api_addresses=self._backend.api_addresses,
        )

    async def AddCoordinator(self, request: Any, context: Any) -> Any:
        """A token with which one coordinator of this id joins, once."""
        backend = self._backend
        refuse_violations(coordinator_violations(request.id, ttl_ms=request.ttl_ms))
        if backend.store.status().engine == "single":
            raise FailedPrecondition(
                "this fabric keeps its log on one coordinator (store.engine is single)",
                reason="NotReplicated",
                remedy="restart the coordinator with store.engine raft, then add others",
            )
        now_ms = backend.clock.now_ms()
        token = JoinToken(
            id=derived_id("jc"),
            coordinator_id=request.id,
            max_uses=1,
            created_at_ms=now_ms,
            expires_at_ms=now_ms + (request.ttl_ms or backend.config.identity.token_ttl_ms),
            created_by=current().caller.actor,
        )
        await backend.write(CreateToken(token=token))
        # A repeat under the same request id finds the token of the first time, and signs the same claims.
        stored = backend.state.tokens.get(token.id, token)
        jwt = backend.signer.sign(
            stored,
            trust_domain=backend.trust_domain,
            root_sha256=backend.authority.root_sha256,
            endpoints=backend.enroll_addresses,
        )
        return control_pb2.AddCoordinatorResponse(token=to_proto(stored, types_pb2.JoinToken), jwt=jwt)

    async def RemoveCoordinator(self, request: Any, context: Any) -> Any:
        """Takes it out of the members, then marks it as removed. May be repeated from wherever it was cut off."""
        backend, name = self._backend, required(request.id, "id")
        await backend.store.read_barrier()  # another coordinator may have admitted it just now
        record = backend.state.coordinators.get(name)
        members = {member.id for member in backend.store.status().members}
        if record is None and name not in members:
            raise NotFound(
                f"coordinator {name} does not exist",
                reason="CoordinatorUnknown",
                remedy="see the coordinators with `cloudlessctl cluster status`",
            )
        await self._hand_over(name)
        if name == backend.config.id:
            # In the other order: one that is no member any more writes nothing. Hence the engine's refusal comes first.
            _check_not_last(backend.store.status(), name)
            if record is not None:
                await backend.write(RemoveCoordinator(name))
            await self._take_out(name)
        else:
            await self._take_out(name)
            if record is not None:
                await backend.write(RemoveCoordinator(name))
        log.warning("coordinator.removed", coordinator=name, by=current().caller.actor)
        return control_pb2.RemoveCoordinatorResponse()

    async def PromoteCoordinator(self, request: Any, context: Any) -> Any:
        name = required(request.id, "id")
        await self._backend.store.membership.promote(name)
        log.info("coordinator.promoted", coordinator=name, by=current().caller.actor)
        return control_pb2.PromoteCoordinatorResponse()

    async def TransferLeadership(self, request: Any, context: Any) -> Any:
        leader = await self._backend.store.membership.transfer(request.id)
        log.info("leadership.transferred", leader=leader, by=current().caller.actor)
        return control_pb2.TransferLeadershipResponse(leader_id=leader)

    async def Backup(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """Recorded before it is given out; that entry is also what makes sure that everything which was acknowledged
        before the call is in it. Asked for a stale answer, it is what this coordinator has, also without a leader, and
        only its own log tells of it."""
        call = current()
        log.warning("security.backup_taken", by=call.caller.actor, peer=context.peer())
        if call.metadata.get(CONSISTENCY_METADATA) != STALE:
            await self._backend.write(
                RecordEvent(
                    type="security.backup_taken",
                    severity=Severity.WARNING,
                    resource=f"coordinator/{self._backend.config.id}",
                    description=f"{call.caller.actor} takes a backup, with the fabric's authority and keys in it",
                    metadata={"peer": context.peer()[:200]},
                )
            )
        async with self._backups.take() as made:
            async for piece in made.pieces:
                yield control_pb2.BackupResponse(data=piece, total_bytes=made.total_bytes)

    async def _hand_over(self, name: str) -> None:
        """So that writes need not wait for an election where the leader is to go. What fails here fails no removal."""
        store = self._backend.store
        status = store.status()
        if status.leader != name or not any(member.voter and member.id != name for member in status.members):
            return
        try:
            leader = await store.membership.transfer()
        except CloudlessError as error:
            log.info("coordinator.not_handed_over", coordinator=name, reason=error.reason, cause=error.message)
        else:
            log.info("leadership.transferred", leader=leader, by=current().caller.actor)

    async def _take_out(self, name: str) -> None:
        try:
            await self._backend.store.membership.remove(name)
        except FailedPrecondition as refusal:
            if refusal.reason not in _NO_MEMBER:
                raise


def _check_not_last(status: EngineStatus, name: str) -> None:
    voters = [member.id for member in status.members if member.voter]
    if voters == [name]:
        raise FailedPrecondition(
            f"{name!r} is the last coordinator that votes",
            reason="LastVoter",
            remedy="add another coordinator first: cloudlessctl cluster add",
        )


def _views(state: State, status: EngineStatus, *, asked: str) -> Iterator[Any]:
    """Every coordinator that the fabric knows or the engine has as a member, by id."""
    members = {member.id: member for member in status.members}
    known = {name: record for name, record in state.coordinators.items() if not record.removed or name in members}
    for name in sorted({*known, *members}):
        member = members.get(name)
        record = known.get(name) or Coordinator(id=name, member_address=member.address if member is not None else "")
        yield control_pb2.CoordinatorView(
            coordinator=to_proto(record, types_pb2.Coordinator),
            role=_role(member),
            match_index=-1 if member is None else member.match_index,
            contact_age_ms=-1 if member is None else member.contact_age_ms,
            asked=name == asked,
        )


def _role(member: MemberStatus | None) -> str:
    if member is None:
        return ""
    if member.leader:
        return "leader"
    return "voter" if member.voter else "learner"
