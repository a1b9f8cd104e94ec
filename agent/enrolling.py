"""From a data folder, and perhaps a join token, to this node's credentials."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from cloudless.agent.journal import FACTS
from cloudless.clock import Clock
from cloudless.config import AgentConfig
from cloudless.core.labels import is_dns_label
from cloudless.errors import (
    CloudlessError,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from cloudless.identity import credentials as stored
from cloudless.identity.credentials import Credentials
from cloudless.identity.files import make_private_directory, write_private

log = structlog.get_logger(__name__)

ADDRESSES_FILE: Final = "coordinators.json"
_KEY_FILE: Final = "node.key"
_RETRY_DELAY_S_MIN: Final = 0.5
_RETRY_DELAY_S_MAX: Final = 30.0


def identity_directory(config: AgentConfig) -> Path:
    return config.data_dir / "identity"


def node_name(config: AgentConfig) -> str:
    """The configured name, or the host's made into a DNS label. Raises InvalidArgument with reason `BadSetting`."""
    name = config.node_name or re.sub(r"[^a-z0-9-]+", "-", socket.gethostname().split(".")[0].lower()).strip("-")
    if not is_dns_label(name):
        raise InvalidArgument(
            f"{name!r} cannot name a node",
            reason="BadSetting",
            remedy="set node_name to lower-case letters, digits and dashes, at most 63",
        )
    return name


async def obtain(
    config: AgentConfig, clock: Clock, *, jitter: Callable[[], float]
) -> tuple[Credentials, tuple[str, ...]]:
    """The stored credentials, or those of an enrolment with the join token; and the addresses learnt with them.

    A node that has credentials and knows no address at all repeats its enrolment while it has a token: for the same
    key the coordinator gives the same answer, at no further use of the token. While no coordinator answers it goes
    on trying. Raises TokenRefused and Unauthenticated with the coordinator's
    reason, FailedPrecondition with reason `NotEnrolled` (there is no token either), InvalidArgument, Corrupt.
    """
    directory = identity_directory(config)
    try:
        known = stored.load(directory)
    except NotFound:
        if not _has_token(config):
            raise FailedPrecondition(
                "this node is not enrolled",
                reason="NotEnrolled",
                remedy="create a token with `cloudlessctl token create` and set join_token_file",
            ) from None
        return await _enroll(config, jitter=jitter)
    if config.node_name and config.node_name != known.spiffe_id.name:
        raise InvalidArgument(
            f"{config.data_dir} belongs to node {known.spiffe_id.name}, not to {config.node_name}",
            reason="OtherNode",
            remedy="use another data_dir, or the old name",
        )
    if clock.now_ms() >= known.expires_at_ms and _has_token(config):
        # Out for longer than the certificate lived. The token may be the old one: then it stays as it was.
        try:
            return await _enroll(config, jitter=jitter)
        except Unauthenticated as error:
            log.warning("enrollment.not_renewed", reason=error.reason, cause=error.message, remedy=error.remedy or None)
    learnt = _load_addresses(directory)
    if not learnt and not config.coordinators and not (config.data_dir / "journal" / FACTS).exists():
        if not _has_token(config):
            log.error("coordinators.unknown", remedy="set coordinators to the address of one")
            return known, ()
        try:
            return await _enroll(config, jitter=jitter)
        except CloudlessError as error:
            log.error("enrollment.not_repeated", reason=error.reason, cause=error.message, remedy="set coordinators")
    return known, learnt


def _load_addresses(directory: Path) -> tuple[str, ...]:
    """The addresses that came with the credentials; none where the file is gone or damaged."""
    path = directory / ADDRESSES_FILE
    try:
        addresses = json.loads(path.read_bytes())
        if not isinstance(addresses, list) or not all(isinstance(address, str) for address in addresses):
            raise ValueError("not a list of addresses")
    except FileNotFoundError:
        return ()
    except (ValueError, RecursionError) as error:
        log.warning("coordinators.unreadable", file=str(path), cause=str(error))
        return ()
    return tuple(addresses)


def _has_token(config: AgentConfig) -> bool:
    return config.join_token_file != Path() and config.join_token_file.exists()


async def _enroll(config: AgentConfig, *, jitter: Callable[[], float]) -> tuple[Credentials, tuple[str, ...]]:
    # Needed once in a node's life, and heavy.
    from cloudless.identity.enrollment import enroll
    from cloudless.identity.keys import ensure_private_key

    try:
        token = config.join_token_file.read_text().strip()
    except OSError as error:
        raise InvalidArgument(
            f"cannot read the join token in {config.join_token_file}: {error.strerror}", reason="BadSetting"
        ) from None
    name = node_name(config)
    directory = identity_directory(config)
    make_private_directory(directory)
    # Kept before the call: an answer that was lost is given again for the same key.
    key = ensure_private_key(directory / _KEY_FILE)
    delay_s = _RETRY_DELAY_S_MIN
    while True:
        try:
            done = await enroll(token, name, key=key)
        except (Unavailable, DeadlineExceeded) as error:
            log.warning("enrollment.failed", reason=error.reason, cause=error.message, retry_in_ms=int(delay_s * 1000))
            await asyncio.sleep(delay_s * (0.5 + 0.5 * jitter()))
            delay_s = min(delay_s * 2, _RETRY_DELAY_S_MAX)
            continue
        except CloudlessError as error:
            log.error("enrollment.refused", reason=error.reason, cause=error.message)
            raise
        # First: credentials without an address would leave a node that can reach nobody, and a spent token.
        write_private(directory / ADDRESSES_FILE, json.dumps(done.coordinators).encode())
        done.credentials.save(directory)
        log.info("enrollment.done", node=name, expires_at_ms=done.credentials.expires_at_ms)
        return done.credentials, done.coordinators
