"""What a command keeps by the way, after it went well: a renewed certificate, and addresses of coordinators.

A person's certificate is renewed before it ends; it keeps its key. What fails here fails silently, unless -v asks: the
command has done its work, and the next one tries again. The certificate itself is read once; then its times stand
beside it in the contexts file.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from cloudless.api.v1 import control_pb2
from cloudless.ctl.app import App
from cloudless.ctl.times import instant
from cloudless.errors import CloudlessError

if TYPE_CHECKING:
    from cloudless.contexts import Context, Contexts

TIMEOUT_MS: Final = 2_000


def renew_if_due(app: App) -> None:
    """Renews the certificate of the context in use once two thirds of its life are over, and saves it. A contexts
    file that belongs to somebody else, or cannot be written, is left alone."""
    now_ms = app.clock.now_ms()
    if now_ms < app.context.renew_at_ms() or not _is_ours(app):
        return
    try:
        fresh = _renewed(app, app.context, now_ms)
        if fresh is not None:
            _save(app, app.context, fresh)
    except (CloudlessError, OSError, ValueError) as error:
        if app.settings.verbose:
            app.note(f"# the certificate was not renewed: {error}")


def save_learnt(app: App) -> None:
    """Keeps the coordinators' addresses that the fabric told meanwhile, in the context that was used. Under the same
    conditions as a renewal; fails as silently."""
    if not app.learnt or not _is_ours(app):
        return
    from cloudless import contexts

    used, learnt = app.context, app.learnt

    def change(latest: Contexts) -> Contexts | None:
        present = latest.get(used.name)
        if present.coordinators != used.coordinators:
            return None  # another command, or a person, was faster
        return latest.merge(replace(present, coordinators=learnt))

    try:
        contexts.update(app.config_path, change)
        if app.settings.verbose:
            app.note(f"# the coordinators of context {used.name} are now {', '.join(learnt)}")
    except (CloudlessError, OSError, ValueError) as error:
        if app.settings.verbose:
            app.note(f"# the coordinators' addresses were not saved: {error}")


def _is_ours(app: App) -> bool:
    path = app.config_path
    try:
        ours = not hasattr(os, "geteuid") or path.stat().st_uid == os.geteuid()
    except OSError:
        return False
    return ours and os.access(path.parent, os.W_OK)


def _renewed(app: App, context: Context, now_ms: int) -> Context | None:
    """The context with a new certificate, or with the times of the one that it has; None when it has them already and
    is past its end: then nobody renews it."""
    from cloudless.identity import csr, keys

    if not context.expires_at_ms:
        info = csr.read_certificate(context.certificate.encode())
        context = replace(context, not_before_ms=info.not_before_ms, expires_at_ms=info.expires_at_ms)
        if now_ms < context.renew_at_ms():
            return context
    if now_ms >= context.expires_at_ms:
        return None
    present = context.credentials()
    key = keys.load_key_pem(present.key_pem)
    request = control_pb2.RenewUserCertificateRequest(csr_der=csr.make_csr(key, present.spiffe_id))
    answer = app.client.call("User", "RenewUserCertificate", request, timeout_ms=TIMEOUT_MS)
    renewed = present.renewed(answer.certificate_chain_pem.encode())
    if app.settings.verbose:
        app.note(f"# the certificate was renewed until {instant(renewed.expires_at_ms)}")
    return replace(
        context,
        certificate=answer.certificate_chain_pem,
        not_before_ms=renewed.not_before_ms,
        expires_at_ms=renewed.expires_at_ms,
    )


def _save(app: App, used: Context, fresh: Context) -> None:
    """Into the file as it is now: another command may have changed it meanwhile."""
    from cloudless import contexts

    def change(latest: Contexts) -> Contexts | None:
        present = latest.get(used.name)
        if present.certificate != used.certificate:
            return None
        return latest.merge(
            replace(
                present,
                certificate=fresh.certificate,
                not_before_ms=fresh.not_before_ms,
                expires_at_ms=fresh.expires_at_ms,
            )
        )

    contexts.update(app.config_path, change)
