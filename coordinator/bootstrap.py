"""The first start: data folder, authority, token key, coordinator's certificate, first admin.

    DATA_DIR/            mode 0700
      lock               held by the one process that uses the folder
      ca/                root and issuing intermediate
      tokens.key         signs join tokens
      log/               write-ahead log and snapshots
      admin.yaml         the first admin's context (unless admin_context says where)
      member/            whose folder it is, and how it joins (`joining`)
      bootstrap.done     written last

Each step finds out whether it was done, so that a start that crashed at any point is completed by the next one.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import structlog

from cloudless import contexts
from cloudless.clock import Clock
from cloudless.config import CoordinatorConfig
from cloudless.contexts import Context
from cloudless.coordinator import joining
from cloudless.coordinator.core.commands import PutUser
from cloudless.coordinator.core.roles import EVERYWHERE
from cloudless.coordinator.core.state import State
from cloudless.coordinator.rpc import addresses
from cloudless.coordinator.store import Store
from cloudless.coordinator.wal.files import DirectoryLock, OsFilesystem
from cloudless.core.model import Role, RoleBinding, User
from cloudless.errors import Corrupt, FailedPrecondition, InvalidArgument
from cloudless.identity.ca import CertificateAuthority
from cloudless.identity.channel import ServerCertificate
from cloudless.identity.credentials import Credentials
from cloudless.identity.csr import make_csr
from cloudless.identity.files import PRIVATE_DIRECTORY, write_private
from cloudless.identity.keys import key_pem, new_private_key
from cloudless.identity.renewal import Renewer
from cloudless.identity.spiffe import COORDINATOR, USER, SpiffeId, server_name
from cloudless.identity.tokens import TokenSigner

ADMIN: Final = "admin"

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Identity:
    """What the coordinator signs with and presents."""

    authority: CertificateAuthority
    signer: TokenSigner
    certificate: ServerCertificate


def log_directory(config: CoordinatorConfig) -> Path:
    return config.data_dir / "log"


def take_directory(config: CoordinatorConfig) -> DirectoryLock:
    """Makes the data folder, mode 0700, and takes it for this process until the lock is released. Raises
    FailedPrecondition (DataDirUnusable, DataDirectoryInUse)."""
    directory = config.data_dir
    try:
        directory.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)
        mode = stat.S_IMODE(directory.stat().st_mode)
        if mode != PRIVATE_DIRECTORY:
            directory.chmod(PRIVATE_DIRECTORY)
            log.warning("bootstrap.data_dir_made_private", path=str(directory), mode=f"{mode:04o}")
        if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return OsFilesystem().lock(directory / "lock")
    except OSError as error:
        raise FailedPrecondition(
            f"cannot use the data folder {directory}: {error.strerror}",
            reason="DataDirUnusable",
            remedy="set data_dir to a folder that this user may write",
        ) from None


def check_addresses(config: CoordinatorConfig) -> None:
    """Before anything is made at a first start: are the addresses to listen on free? Raises FailedPrecondition
    (PortInUse), InvalidArgument (BadSetting)."""
    try:
        if any(config.data_dir.iterdir()):
            return
    except FileNotFoundError:
        pass
    except OSError:
        return  # `take_directory` says it
    listeners = {"listen.api": config.listen.api, "listen.enroll": config.listen.enroll}
    if config.store.engine == "raft":
        listeners["listen.member"] = config.listen.member
    if config.metrics.listen:
        listeners["metrics.listen"] = config.metrics.listen
    for setting, address in listeners.items():
        addresses.check_free(address, setting)


def check_log(config: CoordinatorConfig) -> None:
    """Raises Corrupt (LogMissing) where a coordinator that was a member finds no log: beginning with an empty one would
    forget what it acknowledged."""
    if config.store.engine == "etcd" or not joining.log_begun(config):  # etcd has the log
        return
    if not any(log_directory(config).glob("*/*")):
        raise Corrupt(
            f"{log_directory(config)} is gone, and with it what this coordinator has acknowledged",
            reason="LogMissing",
            remedy="where there are other coordinators: remove this one, empty the data folder, and add it under a new "
            "id with `cloudlessctl cluster add`; else restore a backup",
        )


def open_identity(config: CoordinatorConfig, clock: Clock) -> Identity:
    """Opens the authority and the token key; makes them at the first start. A certificate of the coordinator is signed
    at each start: its key is never stored.

    Raises Corrupt (CaMissing, CaDamaged, BadKey), InvalidArgument (BadTrustDomain, WrongTrustDomain).
    """
    directory = config.data_dir
    authority_directory = directory / "ca"
    if any(authority_directory.glob("*")):
        authority = CertificateAuthority.load(authority_directory, clock)
    elif _done(config).exists():
        raise Corrupt(
            f"{authority_directory} is gone, and with it the authority that all members trust",
            reason="CaMissing",
            remedy="restore it from a backup; a new authority would need every node to enrol again",
        )
    else:
        authority = CertificateAuthority.create(authority_directory, config.identity.trust_domain, clock)
        log.info("bootstrap.authority_created", trust_domain=authority.trust_domain, root_sha256=authority.root_sha256)
        log.warning(
            "bootstrap.new_fabric",
            trust_domain=authority.trust_domain,
            id=config.id,
            detail="a NEW fabric was created, because the data folder was empty and no join token was given",
        )
    if authority.trust_domain != config.identity.trust_domain:
        raise InvalidArgument(
            f"this data folder is of the trust domain {authority.trust_domain}, but identity.trust_domain is "
            f"{config.identity.trust_domain}",
            reason="WrongTrustDomain",
            remedy=f"set identity.trust_domain to {authority.trust_domain}, or use another data_dir",
        )
    signer = TokenSigner.create(directory)
    key = new_private_key()
    who = SpiffeId(authority.trust_domain, COORDINATOR, config.id)
    credentials = Credentials.from_pem(
        key_pem=key_pem(key),
        chain_pem=_sign_own(config, authority, make_csr(key, who))[0],
        bundle_pem=authority.trust_bundle_pem,
    )
    return Identity(authority, signer, ServerCertificate(credentials))


def certificate_renewer(config: CoordinatorConfig, identity: Identity, clock: Clock) -> Renewer:
    """Keeps the coordinator's own certificate fresh; new connections see the new one."""

    async def renew(csr_der: bytes) -> tuple[bytes, int]:
        return _sign_own(config, identity.authority, csr_der)

    return Renewer(
        identity.certificate.current,
        renew=renew,
        save=lambda credentials: None,
        on_renewed=identity.certificate.replace,
        clock=clock,
        jitter=lambda: 0.0,  # there is one
    )


def _sign_own(config: CoordinatorConfig, authority: CertificateAuthority, csr_der: bytes) -> tuple[bytes, int]:
    names, numbers = [server_name(authority.trust_domain), "localhost"], ["127.0.0.1", "::1"]
    for name in config.listen.names:
        try:
            numbers.append(str(ip_address(name)))
        except ValueError:
            names.append(name)
    issued = authority.sign_csr(
        csr_der,
        SpiffeId(authority.trust_domain, COORDINATOR, config.id),
        config.identity.node_certificate_ttl_ms,
        dns_names=names,
        ip_addresses=numbers,
    )
    return issued.chain_pem, issued.expires_at_ms


async def first_admin(
    config: CoordinatorConfig, identity: Identity, store: Store[State], *, coordinators: Sequence[str], clock: Clock
) -> Path | None:
    """Creates the first admin and writes its context, once in the life of a fabric. None when that was done before.

    Raises InvalidArgument (BadContextsFile) when `admin_context` names a file that is something else, and
    FailedPrecondition (ContextNotWritten).
    """
    done = _done(config)
    if done.exists():
        return None
    if ADMIN not in store.snapshot.state.users:
        await store.propose(
            PutUser(User(name=ADMIN, bindings=(RoleBinding(Role.ADMIN, EVERYWHERE),))), actor="system/bootstrap"
        )
    path = config.admin_context if config.admin_context != Path() else config.data_dir / "admin.yaml"
    who = SpiffeId(identity.authority.trust_domain, USER, ADMIN)
    key = new_private_key()
    issued = identity.authority.sign_csr(make_csr(key, who), who, config.identity.user_certificate_ttl_ms)
    context = Context(
        name=identity.authority.trust_domain,
        coordinators=tuple(coordinators),
        trust_domain=identity.authority.trust_domain,
        user=ADMIN,
        certificate=issued.chain_pem.decode(),
        key=key_pem(key).decode(),
        bundle=identity.authority.trust_bundle_pem.decode(),
    )
    # Into an existing file (a person's own) it is merged.
    existing = contexts.load(path)
    try:
        existing.merge(context, make_current=True).save(path)
        write_private(done, f"admin context: {path}\n".encode())
    except OSError as error:
        raise FailedPrecondition(
            f"cannot write the admin context {path}: {error.strerror}",
            reason="ContextNotWritten",
            remedy="set admin_context to a file that this user may write, and start again",
        ) from None
    log.info("bootstrap.admin_created", user=ADMIN, context_file=str(path), serial=issued.serial)
    return path


def _done(config: CoordinatorConfig) -> Path:
    return config.data_dir / joining.DONE_FILE
