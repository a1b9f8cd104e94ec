"""Coordinators: admission, what they say of themselves, removal; and events of theirs that no command tells."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from cloudless.coordinator.core import versions
from cloudless.coordinator.core.apply_tokens import check_id_unused, usable_token
from cloudless.coordinator.core.commands import AnnounceCoordinator, EnrollCoordinator, RecordEvent, RemoveCoordinator
from cloudless.coordinator.core.outcome import ApplyResult
from cloudless.coordinator.core.state import State
from cloudless.coordinator.core.transition import Transition
from cloudless.core.labels import is_dns_label
from cloudless.core.model import Coordinator, JoinToken, Severity
from cloudless.core.replacing import replace
from cloudless.errors import FailedPrecondition, InvalidArgument, NotFound, TokenRefused
from cloudless.identity.spiffe import COORDINATOR, is_name

ADDRESSES_MAX: Final = 16
_ADDRESS_MAX: Final = 300  # characters: a DNS name and a port
_VERSION_MAX: Final = 64
_TEXT_MAX: Final = 256
_DESCRIPTION_MAX: Final = 1024
_METADATA_MAX: Final = 16  # pairs
_EVENT_TYPE: Final = re.compile(r"(?:security|cluster)\.[a-z][a-z_]{0,53}")


def enroll_coordinator(t: Transition, command: EnrollCoordinator) -> ApplyResult:
    before = enrolled(t.state, command)
    if before is not None:
        return t.accepted("unchanged", revision=before.revision)
    token = admitting_coordinator_token(t.state, command, now_ms=t.now_ms)
    name = command.coordinator_id
    t.put_token(replace(token, uses=token.uses + 1, used_by=(name,)))
    t.put_coordinator(
        Coordinator(
            id=name,
            version=command.version,
            schema=command.log_schema,
            public_key_sha256=command.public_key_sha256,
            certificate_serial=command.certificate_serial,
            joined_at_ms=t.now_ms,
        )
    )
    resource, serial = f"coordinator/{name}", command.certificate_serial
    t.emit("security.token_used", f"token/{token.id}", f"admitted coordinator {name}", metadata={"coordinator": name})
    t.emit("security.cert_issued", resource, f"certificate {serial}", metadata={"serial": serial})
    t.emit("coordinator.joined", resource, f"joined with token {token.id}", metadata={"version": command.version})
    return t.accepted("created")


def enrolled(state: State, command: EnrollCoordinator) -> Coordinator | None:
    """The coordinator, where this very admission (token, id and key) has taken place already."""
    before, token = state.coordinators.get(command.coordinator_id), state.tokens.get(command.token_id)
    if before is None or before.removed or token is None or before.id not in token.used_by:
        return None
    same = bool(command.public_key_sha256) and before.public_key_sha256 == command.public_key_sha256
    return before if same and token.coordinator_id == before.id else None


def admitting_coordinator_token(state: State, command: EnrollCoordinator, *, now_ms: int) -> JoinToken:
    """The token that admits the coordinator for the first time. Raises what the admission is refused with:
    TokenRefused, Conflict (CoordinatorIdUsed), FailedPrecondition (CoordinatorTooOld), InvalidArgument."""
    name = command.coordinator_id
    _check_about(name, command.version, command.log_schema)
    if not command.public_key_sha256:
        raise InvalidArgument("a coordinator joins with a key", reason="CoordinatorKeyMissing")
    if max(len(command.public_key_sha256), len(command.certificate_serial)) > _TEXT_MAX:
        raise InvalidArgument("key or serial number is too long", reason="BadCoordinator")
    check_id_unused(state, name)
    token = usable_token(state, command.token_id, now_ms=now_ms, fresh=f"cloudlessctl cluster add {name}")
    if not token.coordinator_id:
        raise TokenRefused(
            f"join token {token.id} is for nodes, not for coordinators",
            reason="TokenForNodes",
            remedy=f"create one for this coordinator: cloudlessctl cluster add {name}",
        )
    if token.coordinator_id != name:
        raise TokenRefused(
            f"join token {token.id} admits coordinator {token.coordinator_id}, not {name}",
            reason="CoordinatorNotAllowed",
            remedy=f"start the coordinator with --id {token.coordinator_id}, or create a token for {name}",
        )
    if (behind := versions.too_old(state, name, schema=command.log_schema)) is not None:
        raise behind
    return token


def announce_coordinator(t: Transition, command: AnnounceCoordinator) -> ApplyResult:
    name = command.coordinator_id
    _check_about(name, command.version, command.log_schema)
    _check_addresses(command.api_addresses, command.enroll_addresses, (command.member_address,))
    before = t.state.coordinators.get(name)
    if before is not None and before.removed:
        raise FailedPrecondition(
            f"coordinator {name} was removed from this fabric",
            reason="CoordinatorRemoved",
            remedy="join again under another id and with an empty data folder",
        )
    if (behind := versions.too_old(t.state, name, schema=command.log_schema)) is not None:
        raise behind
    after = replace(
        before or Coordinator(id=name, joined_at_ms=t.now_ms),
        version=command.version,
        schema=command.log_schema,
        api_addresses=command.api_addresses,
        enroll_addresses=command.enroll_addresses,
        member_address=command.member_address,
    )
    if after == before:
        return t.accepted("unchanged", revision=before.revision)
    t.put_coordinator(after)
    resource = f"coordinator/{name}"
    if before is None:
        t.emit("coordinator.announced", resource, f"runs version {after.version}", metadata={"version": after.version})
        return t.accepted("created")
    if before.version != after.version:
        description = f"runs version {after.version}, before {before.version}"
        t.emit("coordinator.updated", resource, description, metadata={"version": after.version})
    elif replace(before, schema=after.schema) != after:
        t.emit("coordinator.updated", resource, f"is at {', '.join(after.api_addresses)}")
    return t.accepted("updated")


def remove_coordinator(t: Transition, command: RemoveCoordinator) -> ApplyResult:
    before = t.state.coordinators.get(command.coordinator_id)
    if before is None:
        raise NotFound(f"coordinator {command.coordinator_id} does not exist", reason="CoordinatorUnknown")
    if before.removed:
        return t.accepted("unchanged", revision=before.revision)
    if not any(not other.removed and other.id != before.id for other in t.state.coordinators.values()):
        raise FailedPrecondition(
            f"coordinator {before.id} is the only one of this fabric",
            reason="LastCoordinator",
            remedy="add another one first: cloudlessctl cluster add",
        )
    t.put_coordinator(replace(before, removed=True))
    t.emit(
        "coordinator.removed",
        f"coordinator/{before.id}",
        "is no member any more; its certificate and its id are of no use",
        severity=Severity.WARNING,
    )
    return t.accepted("deleted")


def record_event(t: Transition, command: RecordEvent) -> ApplyResult:
    if not _EVENT_TYPE.fullmatch(command.type):
        raise InvalidArgument(
            f"{command.type[:80]!r} is no type of event that may be recorded",
            reason="BadEventType",
            remedy="use security.NAME or cluster.NAME",
        )
    if command.namespace and not is_dns_label(command.namespace):
        raise InvalidArgument(f"{command.namespace[:80]!r} is no namespace", reason="BadEvent")
    texts = [command.resource, *command.metadata.keys(), *command.metadata.values()]
    if max(map(len, texts)) > _TEXT_MAX or len(command.description) > _DESCRIPTION_MAX:
        raise InvalidArgument("a text of the event is too long", reason="BadEvent")
    if len(command.metadata) > _METADATA_MAX:
        raise InvalidArgument(f"an event has at most {_METADATA_MAX} metadata", reason="BadEvent")
    t.emit(
        command.type,
        command.resource,
        command.description,
        namespace=command.namespace,
        severity=command.severity or Severity.INFO,
        metadata=command.metadata,
    )
    return t.accepted("created")


def _check_about(name: str, version: str, log_schema: int) -> None:
    if not is_name(COORDINATOR, name):
        raise InvalidArgument(
            f"{name[:80]!r} is no id of a coordinator",
            reason="BadCoordinatorId",
            remedy="use at most 63 letters, digits, dots, dashes and underscores",
        )
    if len(version) > _VERSION_MAX:
        raise InvalidArgument("the version is too long", reason="BadCoordinator")
    if log_schema < 1:
        raise InvalidArgument("a coordinator understands at least schema 1", reason="BadCoordinator")


def _check_addresses(*lists: Sequence[str]) -> None:
    for addresses in lists:
        if len(addresses) > ADDRESSES_MAX or any(len(address) > _ADDRESS_MAX for address in addresses):
            raise InvalidArgument(
                f"a coordinator has at most {ADDRESSES_MAX} addresses of {_ADDRESS_MAX} characters",
                reason="BadAddress",
            )
