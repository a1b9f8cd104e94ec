"""The engines by name, and what each needs to be opened. `main` composes with this; nothing else sees it."""

from __future__ import annotations

import functools
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from cloudless.clock import Clock
from cloudless.config import CoordinatorConfig
from cloudless.coordinator.bootstrap import Identity
from cloudless.coordinator.engine import OpenEngine
from cloudless.coordinator.refusals import MemberRefusals
from cloudless.coordinator.rpc import addresses
from cloudless.coordinator.wal.single import open_single


@dataclass(frozen=True, slots=True)
class Wiring:
    """`begin`: where nothing is stored yet, this coordinator is the first of a new cluster; else it is joining one."""

    config: CoordinatorConfig
    identity: Identity
    clock: Clock
    refusals: MemberRefusals
    begin: bool


async def _nothing() -> None:
    return None


@dataclass(frozen=True, slots=True)
class Prepared:
    """`listening` is the real address of the member listener, `advertised` what the others are told (host:port); both
    empty where there is none. `cluster_id` is "" until the engine knows its cluster. `close` undoes the preparation
    where `open` was not called or failed. May be repeated."""

    open: OpenEngine
    listening: str = ""
    advertised: str = ""
    cluster_id: Callable[[], str] = lambda: ""
    close: Callable[[], Awaitable[None]] = _nothing


async def _single(wiring: Wiring) -> Prepared:
    return Prepared(open_single)


async def _etcd(wiring: Wiring) -> Prepared:
    from cloudless.coordinator.etcd.engine import open_etcd

    return Prepared(open_etcd)


async def _raft(wiring: Wiring) -> Prepared:
    from cloudless.coordinator.raft.engine import RaftEngine, open_raft
    from cloudless.coordinator.raft.options import RaftOptions
    from cloudless.coordinator.raft.transport import TlsTransport

    config, opened = wiring.config, list[RaftEngine]()

    def cluster_id() -> str:
        return opened[0].cluster_id if opened else ""

    transport = TlsTransport(
        config.id,
        listen=config.listen.member,
        identity=wiring.identity.certificate,
        trust_domain=wiring.identity.authority.trust_domain,
        cluster_id=cluster_id,
        clock=wiring.clock,
        on_refused=lambda refusal: wiring.refusals.refused(
            peer=refusal.peer, who=refusal.certificate or refusal.claimed, reason=refusal.reason, detail=refusal.detail
        ),
    )
    given = (config.listen.advertise_member,) if config.listen.advertise_member else ()
    (advertised,) = addresses.advertised(given, transport.address)
    options = RaftOptions(
        address=advertised, bootstrap=wiring.begin, cluster_id=secrets.token_hex(8) if wiring.begin else ""
    )

    return Prepared(
        functools.partial(open_raft, transport=transport, options=options, on_recovered=opened.append),
        listening=transport.address,
        advertised=advertised,
        cluster_id=cluster_id,
        close=transport.close,
    )


ENGINES: Final[Mapping[str, Callable[[Wiring], Awaitable[Prepared]]]] = {
    "single": _single,
    "raft": _raft,
    "etcd": _etcd,
}


async def prepare(wiring: Wiring) -> Prepared:
    """Makes the configured engine ready to be opened: its listener is bound. Raises FailedPrecondition (PortInUse),
    InvalidArgument (BadSetting)."""
    return await ENGINES[wiring.config.store.engine](wiring)
