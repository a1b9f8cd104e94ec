"""`user`: people, their roles, and their contexts files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from cloudless.api.v1 import control_pb2, types_pb2
from cloudless.ctl import options, output
from cloudless.ctl.app import App
from cloudless.ctl.arguments import duration_ms, usage
from cloudless.ctl.cli import command, group
from cloudless.ctl.commands import delete as delete_
from cloudless.ctl.commands import get as get_
from cloudless.ctl.resources import roles
from cloudless.ctl.times import instant
from cloudless.errors import InvalidArgument

user = group("user", "Look after people and what they may do.")
_ROLES: Final = {
    "viewer": types_pb2.ROLE_VIEWER,
    "operator": types_pb2.ROLE_OPERATOR,
    "admin": types_pb2.ROLE_ADMIN,
}


def _binding(text: str) -> Any:
    """`ROLE` (everywhere) or `ROLE@NAMESPACE`."""
    role, at, namespace = text.replace(":", "@", 1).partition("@")
    if role not in _ROLES or (at and not namespace):
        raise usage(f"--role: {text!r} is no role", "write viewer, operator or admin, or as in operator@shop")
    return types_pb2.RoleBinding(role=_ROLES[role], namespace=namespace or "*")


@command("put")
@click.argument("name")
@click.option("--role", "bindings", multiple=True, required=True, metavar="ROLE[@NAMESPACE]",
              help="viewer, operator or admin; repeatable; without a namespace it holds everywhere.")  # fmt: skip
@click.option("--out", default="", metavar="FILE", help="Make a key and certificate, and write a contexts file.")
@click.option("--ttl", default="", metavar="DURATION", help="Life of the certificate.  [default: the coordinator's]")
def put(app: App, name: str, bindings: tuple[str, ...], out: str, ttl: str) -> None:
    """Add a person, or replace their roles.

    With --out a new key and certificate are made, and a file is written that the person takes in with
    `cloudlessctl config import FILE`. The file holds the key: hand it over safely.
    """
    request = control_pb2.PutUserRequest(
        name=name, bindings=[_binding(text) for text in bindings], ttl_ms=duration_ms(ttl, "--ttl") if ttl else 0
    )
    if not out:
        answer = app.client.call("User", "PutUser", request, write=True)
        app.print(f"user/{name} has {roles(answer.user.bindings)}")
        return
    path = Path(out).expanduser()
    if path.exists():
        raise InvalidArgument(f"{path} exists", remedy="name another file, or remove it first")
    _put_with_key(app, name, request, path)


def _put_with_key(app: App, name: str, request: Any, path: Path) -> None:
    from cloudless.contexts import Context, Contexts
    from cloudless.identity import csr, keys
    from cloudless.identity.spiffe import USER, SpiffeId

    mine = app.context
    key = keys.new_private_key()
    request.csr_der = csr.make_csr(key, SpiffeId(mine.trust_domain, USER, name))
    answer = app.client.call("User", "PutUser", request, write=True)
    context = Context(
        name=f"{name}@{mine.trust_domain}",
        coordinators=mine.coordinators,
        trust_domain=mine.trust_domain,
        namespace=mine.namespace,
        user=name,
        certificate=answer.certificate_chain_pem,
        key=keys.key_pem(key).decode(),
        bundle=answer.trust_bundle_pem,
    )
    Contexts().merge(context, make_current=True).save(path)
    app.print(f"user/{name} has {roles(answer.user.bindings)}")
    app.note(f"# {path} holds the key and a certificate until {instant(answer.expires_at_ms)}")


@command("list")
@options.output
@options.no_headers
def list_(app: App, format: str, no_headers: bool) -> None:
    """List people and their roles."""
    get_.show(app, ("users",), format=format, no_headers=no_headers)


@command("revoke")
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=options.names_of("user"))
def revoke(app: App, names: tuple[str, ...]) -> int:
    """Take away everything that people may do, at once."""
    return delete_.run(app, tuple(f"user/{name}" for name in names))


@command("whoami")
@click.option("-o", "--output", "format", default="table", metavar="FORMAT", help="table, json or yaml.")
def whoami(app: App, format: str) -> None:
    """Show who you are to the fabric, and what you may do."""
    answer = app.client.call("User", "WhoAmI", control_pb2.WhoAmIRequest())
    if format in ("json", "yaml"):
        value = output.plain(answer)
        app.print(output.to_json(value) if format == "json" else output.to_yaml(value).rstrip("\n"))
        return
    if format != "table":
        raise usage(f"-o: unknown format {format!r}", "use table, json or yaml")
    app.print(f"{answer.id}\nroles: {roles(answer.bindings) or 'none'}")
    app.print(f"certificate until {instant(answer.certificate_expires_at_ms)}")


for _command in (put, list_, revoke, whoami):
    user.add_command(_command)
