"""SPIFFE ids of the fabric's members (https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md). Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cloudless.errors import InvalidArgument

NODE = "node"
USER = "user"
COORDINATOR = "coordinator"
KINDS = (NODE, USER, COORDINATOR)

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
# The trust domain is also the suffix of a DNS name in the coordinators' certificates.
_TRUST_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_TRUST_DOMAIN_MAX = 200
_NODE_NAME = re.compile(_LABEL)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def is_trust_domain(text: str) -> bool:
    """Whether the text is a trust domain: lower-case DNS labels, at most 200 characters."""
    return len(text) <= _TRUST_DOMAIN_MAX and _TRUST_DOMAIN.fullmatch(text) is not None


def is_name(kind: str, name: str) -> bool:
    """Whether a member of this kind may have this name. Nodes have DNS labels; people and coordinators up to
    63 letters, digits, dots, dashes and underscores, the first a letter or digit."""
    return (_NODE_NAME if kind == NODE else _NAME).fullmatch(name) is not None


def server_name(trust_domain: str) -> str:
    """The DNS name that only coordinators' certificates carry, whatever address they are dialled at."""
    return f"coordinator.{trust_domain}"


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """`spiffe://<trust_domain>/<kind>/<name>`. Making one that breaks the rules raises InvalidArgument with reason
    `BadSpiffeId`."""

    trust_domain: str
    kind: str
    name: str

    def __post_init__(self) -> None:
        if not is_trust_domain(self.trust_domain):
            raise InvalidArgument(
                f"{self.trust_domain[:80]!r} is no trust domain",
                reason="BadSpiffeId",
                remedy="use lower-case DNS labels such as fabric.example",
            )
        if self.kind not in KINDS:
            raise InvalidArgument(f"{self.kind[:80]!r} is not one of {', '.join(KINDS)}", reason="BadSpiffeId")
        if not is_name(self.kind, self.name):
            rule = "a lower-case DNS label" if self.kind == NODE else "letters, digits, dots, dashes, underscores"
            raise InvalidArgument(
                f"{self.name[:80]!r} is no name for a {self.kind}",
                reason="BadSpiffeId",
                remedy=f"use {rule}, at most 63",
            )

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}/{self.kind}/{self.name}"


def parse(uri: str) -> SpiffeId:
    """The id that a URI spells. Raises InvalidArgument with reason `BadSpiffeId` for anything else."""
    scheme, separator, rest = uri.partition("://")
    parts = rest.split("/")
    if scheme != "spiffe" or not separator or len(parts) != 3:
        raise InvalidArgument(
            f"{uri[:200]!r} is no id of a fabric's member",
            reason="BadSpiffeId",
            remedy="expected spiffe://<trust-domain>/<node|user|coordinator>/<name>",
        )
    return SpiffeId(parts[0], parts[1], parts[2])
