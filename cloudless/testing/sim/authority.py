"""The authority of the simulated fabrics: made once for all runs of a process, for its keys decide nothing in any."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Final

from cloudless.agent.grants import Grants
from cloudless.identity.channel import ServerCertificate
from cloudless.identity.signing import Signer
from cloudless.identity.spiffe import COORDINATOR, NODE, SpiffeId
from cloudless.testing.identity import Fabric
from cloudless.testing.simloop import SimClock

TRUST_DOMAIN: Final = "sim.local"
_LIFE_MS: Final = 365 * 24 * 3_600_000


class _Beginning:
    """The time at which every run begins."""

    def now_ms(self) -> int:
        return SimClock.EPOCH_MS

    def monotonic_ms(self) -> int:
        return 0


@cache
def _fabric() -> Fabric:
    with tempfile.TemporaryDirectory(prefix="sim-ca-") as directory:
        return Fabric(Path(directory) / "ca", trust_domain=TRUST_DOMAIN, clock=_Beginning())


@cache
def _certificate(coordinator: str) -> ServerCertificate:
    return ServerCertificate(_fabric().member(COORDINATOR, coordinator, ttl_ms=_LIFE_MS))


def signer(coordinator: str) -> Signer:
    """What a coordinator signs assignments with."""
    return Signer(_certificate(coordinator))


def grants(node: str) -> Grants:
    """What a node checks them with."""
    return Grants(_fabric().ca.trust_bundle_pem, SpiffeId(TRUST_DOMAIN, NODE, node))
