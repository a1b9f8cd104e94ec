"""A new coordinator's way into a fabric: from an empty data folder and a join token to all that a member holds.

    DATA_DIR/
      member/              mode 0700
        id                 whose folder this is; never changes
        log-begun          there is a log; without one, a later start refuses
        key.pem            made first, so that every later step can be repeated with the same key
        credentials.json   what the token was given for: a certificate for that key
        joining.json       where the others are; there until they have taken this coordinator in as a learner
        coordinators.json  where they are since: a start knows no committed state before it has heard of a leader
      ca/, tokens.key      fetched from another coordinator, with that certificate
      bootstrap.done       written last: the folder holds an identity, whole

Each step finds out whether it was done, so that a join that was cut off at any point is completed by the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import grpc.aio
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cloudless import __version__
from cloudless.api.v1 import control_pb2, member_pb2, member_pb2_grpc
from cloudless.clock import Clock
from cloudless.config import CoordinatorConfig
from cloudless.coordinator.core.commands import SCHEMA
from cloudless.errors import CloudlessError, Corrupt, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from cloudless.identity import credentials as stored
from cloudless.identity.ca import CertificateAuthority
from cloudless.identity.channel import error_from_rpc, open_channel
from cloudless.identity.credentials import Credentials
from cloudless.identity.csr import make_csr
from cloudless.identity.enrollment import accept_certificate, ask_endpoints
from cloudless.identity.files import PRIVATE_DIRECTORY, make_private_directory, sync_directory, write_private
from cloudless.identity.keys import ensure_private_key
from cloudless.identity.spiffe import COORDINATOR, SpiffeId
from cloudless.identity.tokens import KEY_FILE as TOKEN_KEY_FILE
from cloudless.identity.tokens import TokenClaims, TokenSigner, peek

DONE_FILE: Final = "bootstrap.done"
AUTHORITY: Final = "ca"
IDENTITY_FILES: Final = (
    f"{AUTHORITY}/root.key",  # may have been taken offline
    f"{AUTHORITY}/root.pem",
    f"{AUTHORITY}/issuing.key",
    f"{AUTHORITY}/issuing.pem",
    TOKEN_KEY_FILE,
)

_ID_FILE: Final = "id"
_KEY_FILE: Final = "key.pem"
_PLAN_FILE: Final = "joining.json"
_OTHERS_FILE: Final = "coordinators.json"
_LOG_FILE: Final = "log-begun"
_JOINED: Final = "joined"
_CALL_TIMEOUT_S: Final = 15.0
_RETRY_DELAY_S_MIN: Final = 0.1
_RETRY_DELAY_S_MAX: Final = 10.0
T = TypeVar("T")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Joining:
    """A join under way: `coordinators` are the mTLS listeners (host:port) of the fabric, `root_sha256` is its root."""

    coordinators: tuple[str, ...]
    root_sha256: str


def directory(config: CoordinatorConfig) -> Path:
    return config.data_dir / "member"


def check_id(config: CoordinatorConfig) -> None:
    """Raises InvalidArgument (WrongCoordinatorId) for a data folder of another coordinator."""
    try:
        owner = (directory(config) / _ID_FILE).read_text().strip()
    except FileNotFoundError:
        return
    if owner != config.id:
        raise InvalidArgument(
            f"this data folder is of the coordinator {owner}, but id is {config.id}",
            reason="WrongCoordinatorId",
            remedy=f"set id to {owner}, or use another data_dir: a coordinator keeps its id for life",
        )


def claim_id(config: CoordinatorConfig) -> None:
    """Writes down whose data folder this is; one from before ids were kept becomes that of the configured id. May be
    repeated."""
    path = directory(config) / _ID_FILE
    if not path.exists():
        make_private_directory(path.parent)
        write_private(path, f"{config.id}\n".encode())


def joined(config: CoordinatorConfig) -> bool:
    """Whether this folder's identity was fetched from another coordinator: then its log is never begun anew."""
    try:
        return (config.data_dir / DONE_FILE).read_text().startswith(_JOINED)
    except FileNotFoundError:
        return False


def log_begun(config: CoordinatorConfig) -> bool:
    """Whether this coordinator has had a log: then it may have acknowledged something."""
    return (directory(config) / _LOG_FILE).exists() or (
        (config.data_dir / DONE_FILE).exists() and under_way(config) is None
    )


def mark_log_begun(config: CoordinatorConfig) -> None:
    """May be repeated."""
    path = directory(config) / _LOG_FILE
    if not path.exists():
        write_private(path, b"")


def under_way(config: CoordinatorConfig) -> Joining | None:
    """The join that the other coordinators have not completed yet. Raises Corrupt (JoiningDamaged)."""
    path = directory(config) / _PLAN_FILE
    try:
        document = json.loads(path.read_bytes())
        return Joining(tuple(map(str, document["coordinators"])), str(document["root_sha256"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(
            f"{path} cannot be read: {error}",
            reason="JoiningDamaged",
            remedy="empty the data folder and add this coordinator under a new id with `cloudlessctl cluster add`",
        ) from None


def completed(config: CoordinatorConfig) -> None:
    """Forgets what only the join needed. May be repeated."""
    for name in (_PLAN_FILE, stored.FILE_NAME, _KEY_FILE):
        (directory(config) / name).unlink(missing_ok=True)


def remember_others(config: CoordinatorConfig, addresses: Sequence[str]) -> None:
    """Keeps the addresses (host:port) of the others' mTLS listeners for the next start. Blocks. Raises OSError."""
    write_private(directory(config) / _OTHERS_FILE, json.dumps(list(addresses)).encode())


def remembered_others(config: CoordinatorConfig) -> tuple[str, ...]:
    """What was kept last; what cannot be read says nothing."""
    try:
        return tuple(map(str, json.loads((directory(config) / _OTHERS_FILE).read_bytes())))
    except (OSError, ValueError, TypeError):
        return ()


async def join_if_asked(config: CoordinatorConfig, clock: Clock, *, jitter: Callable[[], float]) -> bool:
    """Obtains the fabric's identity with the join token, where the data folder has none; False: there is nothing to
    join, because the folder is somebody already or no token is given. Goes on trying while no coordinator answers.

    Raises what the other coordinators refuse with (TokenRefused, PermissionDenied), InvalidArgument (BadSetting,
    WrongTrustDomain, WrongEngine), FailedPrecondition (DataDirNotEmpty, JoinNotCompleted, MemberLostDisk), Corrupt.
    """
    if (config.data_dir / DONE_FILE).exists():
        return False
    began = (directory(config) / _KEY_FILE).exists()
    if config.join_token_file == Path():
        if began and under_way(config) is None:
            raise FailedPrecondition(
                f"{config.data_dir} was made for joining a fabric, and has not joined it yet",
                reason="JoinNotCompleted",
                remedy="start again with join_token_file; for a new fabric, use an empty data_dir",
            )
        if not began:
            return False
    if not began and any((config.data_dir / AUTHORITY).glob("*")):
        raise FailedPrecondition(
            f"{config.data_dir} holds the beginning of a fabric of its own",
            reason="DataDirNotEmpty",
            remedy="join with an empty data_dir, or leave join_token_file out",
        )
    await _join(config, clock, _Retries(jitter))
    return True


async def _join(config: CoordinatorConfig, clock: Clock, retries: _Retries) -> None:
    plan, credentials = await _admission(config, clock, retries)
    files = await retries.run(
        "join.identity_not_fetched", lambda: _fetch_identity(plan.coordinators, credentials), of=config.id
    )
    await asyncio.to_thread(_store_identity, config, plan, files, clock)
    log.info("join.identity_fetched", id=config.id, trust_domain=credentials.trust_domain)


async def _admission(config: CoordinatorConfig, clock: Clock, retries: _Retries) -> tuple[Joining, Credentials]:
    """What the token was given for, now or before."""
    folder = directory(config)
    known_plan, known_credentials = under_way(config), _stored_credentials(folder, clock)
    if known_plan is not None and known_credentials is not None:
        return known_plan, known_credentials
    token, claims = _token(config)
    make_private_directory(folder)
    credentials, plan = await retries.run(
        "join.not_admitted_yet", lambda: _ask_to_join(config, token, claims), of=config.id
    )
    claim_id(config)  # not before: who started with a wrong id may start again
    credentials.save(folder)
    document = {"coordinators": plan.coordinators, "root_sha256": plan.root_sha256}
    write_private(folder / _PLAN_FILE, json.dumps(document).encode())
    log.info("join.admitted", id=config.id, trust_domain=claims.trust_domain, token=claims.id)
    return plan, credentials


def _token(config: CoordinatorConfig) -> tuple[str, TokenClaims]:
    path = config.join_token_file
    try:
        token = path.read_text("ascii").strip()
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) else "it is no text"
        raise InvalidArgument(
            f"cannot read join_token_file {path}: {cause}",
            reason="BadSetting",
            remedy="write the token of `cloudlessctl cluster add` into it",
        ) from None
    claims = peek(token)
    if claims.trust_domain != config.identity.trust_domain:
        raise InvalidArgument(
            f"the token is of the trust domain {claims.trust_domain}, but identity.trust_domain is "
            f"{config.identity.trust_domain}",
            reason="WrongTrustDomain",
            remedy=f"set identity.trust_domain to {claims.trust_domain}",
        )
    return token, claims


async def _ask_to_join(config: CoordinatorConfig, token: str, claims: TokenClaims) -> tuple[Credentials, Joining]:
    key = ensure_private_key(directory(config) / _KEY_FILE)
    who = SpiffeId(claims.trust_domain, COORDINATOR, config.id)
    request = control_pb2.JoinCoordinatorRequest(
        token=token,
        coordinator_id=config.id,
        csr_der=make_csr(key, who),
        version=__version__,
        log_schema=SCHEMA,
    )
    answer, root_pem = await ask_endpoints(claims, lambda stub, options: stub.JoinCoordinator(request, **options))
    if answer.store_engine != config.store.engine:
        raise InvalidArgument(
            f"the fabric's engine is {answer.store_engine}, but store.engine is {config.store.engine}",
            reason="WrongEngine",
            remedy=f"set store.engine to {answer.store_engine} and start again with the same data_dir",
        )
    credentials = accept_certificate(
        key,
        who,
        chain_pem=answer.certificate_chain_pem.encode(),
        bundle_pem=answer.trust_bundle_pem.encode() or root_pem,
    )
    return credentials, Joining(tuple(answer.coordinators), claims.root_sha256.lower())


def _stored_credentials(folder: Path, clock: Clock) -> Credentials | None:
    try:
        credentials = stored.load(folder)
    except NotFound:
        return None
    return credentials if credentials.expires_at_ms > clock.now_ms() else None


async def _fetch_identity(addresses: Sequence[str], credentials: Credentials) -> dict[str, bytes]:
    answer = await first_answer(
        addresses, credentials, lambda stub, options: stub.FetchIdentity(member_pb2.FetchIdentityRequest(), **options)
    )
    return {file.path: file.content for file in answer.files}


async def first_answer(
    addresses: Iterable[str],
    credentials: Credentials,
    ask: Callable[[Any, dict[str, Any]], Awaitable[T]],
    *,
    stub: Callable[[grpc.aio.Channel], Any] = member_pb2_grpc.MemberServiceStub,
) -> T:
    """Makes one call of MemberService (or of another `stub`) at the first coordinator that answers, in order. Raises
    its refusal, or Unavailable when none answers: repeat."""
    failure: CloudlessError = Unavailable(
        "no other coordinator is known", reason="NoCoordinators", remedy="start one of those that the fabric has"
    )
    for address in addresses:
        async with open_channel(address, credentials) as channel:
            try:
                return await ask(stub(channel), {"timeout": _CALL_TIMEOUT_S, "wait_for_ready": False})
            except grpc.aio.AioRpcError as error:
                failure = error_from_rpc(error)
        if not failure.retryable:
            raise failure
        log.info("join.coordinator_failed", address=address, reason=failure.reason, cause=failure.message)
    raise failure


def read_identity(data_dir: Path) -> dict[str, bytes]:
    """What every coordinator of a fabric holds, by path below the data folder. Blocks. Raises OSError."""
    found: dict[str, bytes] = {}
    for name in IDENTITY_FILES:
        with contextlib.suppress(FileNotFoundError):
            found[name] = (data_dir / name).read_bytes()
    return found


def _store_identity(config: CoordinatorConfig, plan: Joining, files: dict[str, bytes], clock: Clock) -> None:
    """All of the authority appears in one step, and the mark that the folder is whole comes last."""
    data = config.data_dir
    draft = data / f".{AUTHORITY}.fetched"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=PRIVATE_DIRECTORY)
    for name in IDENTITY_FILES:
        if name.startswith(AUTHORITY) and name in files:
            write_private(draft / Path(name).name, files[name])
    authority = CertificateAuthority.load(draft, clock)
    if authority.root_sha256 != plan.root_sha256:
        raise Corrupt("the authority that was fetched is not the one that the join token names", reason="CaDamaged")
    shutil.rmtree(data / AUTHORITY, ignore_errors=True)  # of a try that was cut off
    draft.rename(data / AUTHORITY)
    sync_directory(data)
    if TOKEN_KEY_FILE not in files:
        raise Corrupt("the other coordinator has no key of join tokens", reason="TokenKeyMissing")
    write_private(data / TOKEN_KEY_FILE, files[TOKEN_KEY_FILE])
    TokenSigner.load(data)
    write_private(data / DONE_FILE, f"{_JOINED}\n".encode())


async def become_learner(
    addresses: Callable[[], Sequence[str]],
    credentials: Callable[[], Credentials],
    *,
    member_address: str,
    jitter: Callable[[], float],
) -> None:
    """Asks the other coordinators to take this one in, until one of them says that it is.

    Raises what they refuse for good: Unauthenticated (CoordinatorRemoved), PermissionDenied, FailedPrecondition.
    """
    await _Retries(jitter).run(
        "join.not_added_yet",
        lambda: _add(addresses(), credentials(), member_address),
        of=member_address,
        also=("ChangeUnderWay",),
    )
    log.info("join.added", member_address=member_address)


async def find_others(addresses: Sequence[str], credentials: Credentials, *, member_address: str) -> None:
    """For a member that hears of no leader: perhaps it moved, and the others look for it where it was. Tells them,
    once; that nobody answers, or takes it now, says nothing. `member_address` "": the engine has no members of its own.

    Raises FailedPrecondition (MemberRemoved) when another coordinator says that this one was removed."""
    try:
        if member_address:
            await _add(addresses, credentials, member_address)
        else:
            await first_answer(addresses, credentials, _check_health, stub=health_pb2_grpc.HealthStub)
    except CloudlessError as error:
        if error.reason == "CoordinatorRemoved":
            raise FailedPrecondition(
                f"this coordinator was removed from the fabric: {error.message}",
                reason="MemberRemoved",
                remedy="empty the data folder; to use this machine again, add it under a new id with "
                "`cloudlessctl cluster add`",
            ) from error
        log.info("member.others_not_found", reason=error.reason, cause=error.message)


async def _add(addresses: Iterable[str], credentials: Credentials, member_address: str) -> Any:
    request = member_pb2.AddLearnerRequest(member_address=member_address)
    return await first_answer(addresses, credentials, lambda stub, options: stub.AddLearner(request, **options))


async def _check_health(stub: Any, options: dict[str, Any]) -> Any:
    return await stub.Check(health_pb2.HealthCheckRequest(), **options)


class _Retries:
    """Repeats what another coordinator may do later, with growing delays."""

    def __init__(self, jitter: Callable[[], float]) -> None:
        self._jitter = jitter

    async def run(self, event: str, work: Callable[[], Awaitable[T]], *, of: str, also: tuple[str, ...] = ()) -> T:
        """`also`: reasons of refusals that a repeat may overcome."""
        delay_s = _RETRY_DELAY_S_MIN
        while True:
            try:
                return await work()
            except CloudlessError as error:
                if not error.retryable and error.reason not in also:
                    raise
                log.warning(event, of=of, reason=error.reason, cause=error.message, again_in_s=round(delay_s, 1))
            await asyncio.sleep(delay_s * (0.5 + self._jitter()))
            delay_s = min(delay_s * 2, _RETRY_DELAY_S_MAX)
