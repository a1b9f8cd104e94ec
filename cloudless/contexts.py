"""The contexts file: which fabrics a person uses, and as whom. Its shape is that of a kubeconfig.

    current-context: home
    contexts:
      - name: home
        coordinators: [192.0.2.10:8443]
        trust-domain: cloudless.local
        namespace: default
        user: admin
        certificate: |        # PEM: the person's certificate and its intermediate
        key: |                # PEM
        bundle: |             # PEM: the root
        not-before: 1767225600000   # of the certificate, wall clock ms; written by programs that have read it
        expires-at: 1769817600000

It stands at `$CLOUDLESS_CONFIG`, else `~/.config/cloudless/config.yaml`, with mode 0600, for it holds private keys.
Values are immutable: `merge`, `use` and `delete` give a new object, `save` writes it in one step; `update` does both on
what the file holds at that moment, for programs that keep something by the way.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cloudless.errors import InvalidArgument, NotFound
from cloudless.identity.credentials import Credentials, renew_at_ms
from cloudless.identity.files import make_private_directory, write_private
from cloudless.identity.spiffe import USER, SpiffeId

MAX_BYTES = 4 * 2**20
_DEPTH_MAX = 16
_LOCK_ATTEMPTS = 50
_LOCK_PAUSE_S = 0.02
_TEXTS = ("name", "trust-domain", "namespace", "user", "certificate", "key", "bundle")
_TIMES = ("not-before", "expires-at")
_TIME_MAX_MS = 253_402_300_799_999  # the end of the year 9999


@dataclass(frozen=True, slots=True)
class Context:
    """One fabric as one person. `coordinators` are addresses (host:port) of the mTLS listener, tried in order;
    `certificate`, `key` and `bundle` are PEM texts. `not_before_ms` and `expires_at_ms` are the certificate's times,
    wall clock ms; both 0 when nobody has read it yet."""

    name: str
    coordinators: tuple[str, ...] = ()
    trust_domain: str = ""
    namespace: str = "default"
    user: str = ""
    certificate: str = dataclasses.field(default="", repr=False)
    key: str = dataclasses.field(default="", repr=False)
    bundle: str = dataclasses.field(default="", repr=False)
    not_before_ms: int = 0
    expires_at_ms: int = 0

    def credentials(self) -> Credentials:
        """What a channel needs; no certificate is parsed. Raises InvalidArgument with reason `BadContext`."""
        for what, value in (("certificate", self.certificate), ("key", self.key), ("bundle", self.bundle)):
            if not value.startswith("-----BEGIN ") or not value.isascii():
                raise _bad(f"context {self.name!r}: its {what} is no PEM text")
        return Credentials(
            trust_domain=self.trust_domain,
            spiffe_id=SpiffeId(self.trust_domain, USER, self.user),
            key_pem=self.key.encode(),
            chain_pem=self.certificate.encode(),
            bundle_pem=self.bundle.encode(),
            expires_at_ms=self.expires_at_ms,
            not_before_ms=self.not_before_ms,
        )

    def renew_at_ms(self) -> int:
        """Wall clock ms at which two thirds of the certificate's life are over; 0 when its times are not known."""
        return renew_at_ms(not_before_ms=self.not_before_ms, expires_at_ms=self.expires_at_ms)


@dataclass(frozen=True, slots=True)
class Contexts:
    """The file's content. `current` is "" or the name of one of `contexts`, whose names are unique. `warning` is a text
    for the person: the file is readable by others; empty when all is well."""

    current: str = ""
    contexts: tuple[Context, ...] = ()
    warning: str = ""

    def get(self, name: str = "") -> Context:
        """The context of this name, or the current one. Raises NotFound with reason `NoContext` or
        `ContextNotFound`."""
        wanted = name or self.current
        if not self.contexts:
            raise NotFound(
                f"there is no context {name!r}: none was taken in yet" if name else "there is no context yet",
                reason="ContextNotFound" if name else "NoContext",
                remedy="take one in with `cloudlessctl config import FILE`: admin.yaml of the coordinator's data "
                "directory, or a file that an administrator made with `cloudlessctl user put`",
            )
        if not wanted:
            raise NotFound(
                "no context is chosen",
                reason="NoContext",
                remedy="choose one with `cloudlessctl config use-context NAME`, or name one with --context",
            )
        for context in self.contexts:
            if context.name == wanted:
                return context
        known = ", ".join(context.name for context in self.contexts) or "none"
        raise NotFound(f"there is no context {wanted!r}", reason="ContextNotFound", remedy=f"known: {known}")

    def merge(self, context: Context, *, make_current: bool = False) -> Contexts:
        """With this context added, or in place of the one of its name. It becomes current when asked for or when
        there is no other."""
        if any(known.name == context.name for known in self.contexts):
            every = tuple(context if known.name == context.name else known for known in self.contexts)
        else:
            every = (*self.contexts, context)
        current = context.name if make_current or not self.current else self.current
        return dataclasses.replace(self, current=current, contexts=every)

    def use(self, name: str) -> Contexts:
        """With this context as the current one. Raises NotFound with reason `ContextNotFound`."""
        return dataclasses.replace(self, current=self.get(name).name)

    def delete(self, name: str) -> Contexts:
        """Without this context; when it was the current one, none is. Raises NotFound."""
        gone = self.get(name).name
        left = tuple(context for context in self.contexts if context.name != gone)
        return dataclasses.replace(self, current="" if self.current == gone else self.current, contexts=left)

    def save(self, path: Path) -> None:
        """Writes the file, mode 0600, in one step; makes its directory. Raises OSError."""
        if not path.parent.exists():
            make_private_directory(path.parent)
        write_private(path, encode(self))


def default_path(environment: Mapping[str, str]) -> Path:
    """`$CLOUDLESS_CONFIG`, else `$XDG_CONFIG_HOME/cloudless/config.yaml`, else `~/.config/cloudless/config.yaml`."""
    if named := environment.get("CLOUDLESS_CONFIG", ""):
        return Path(named).expanduser()
    base = environment.get("XDG_CONFIG_HOME", "")
    return (Path(base) if base else Path("~/.config").expanduser()) / "cloudless" / "config.yaml"


def load(path: Path) -> Contexts:
    """The file's content; no file reads as no contexts. Raises InvalidArgument with reason `BadContextsFile`, naming
    the file and what is wrong with it."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return Contexts()
    except OSError as error:
        raise _bad(f"cannot read {path}: {error.strerror}") from None
    contexts = decode(data, source=str(path))
    if mode & 0o077:
        warning = f"{path} holds private keys and has mode {mode:04o}: run `chmod 600 {path}`"
        contexts = dataclasses.replace(contexts, warning=warning)
    return contexts


def update(path: Path, change: Callable[[Contexts], Contexts | None]) -> None:
    """Changes the file as it is now, in one step, while no other `update` does: `change` gets what it holds and
    returns what it shall hold, or None to leave it. Raises what `load` and `save` raise, and BlockingIOError where
    another update goes on for more than a second."""
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        _lock(descriptor)
        changed = change(load(path))
        if changed is not None:
            changed.save(path)
    finally:
        os.close(descriptor)  # and with it the lock


def _lock(descriptor: int) -> None:
    for attempt in range(_LOCK_ATTEMPTS, 0, -1):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if attempt == 1:
                raise
            time.sleep(_LOCK_PAUSE_S)


def encode(contexts: Contexts) -> bytes:
    """The YAML text of the file."""
    document = {
        "current-context": contexts.current,
        "contexts": [
            {
                "name": context.name,
                "coordinators": list(context.coordinators),
                "trust-domain": context.trust_domain,
                "namespace": context.namespace,
                "user": context.user,
                "certificate": context.certificate,
                "key": context.key,
                "bundle": context.bundle,
                **({"not-before": context.not_before_ms} if context.not_before_ms else {}),
                **({"expires-at": context.expires_at_ms} if context.expires_at_ms else {}),
            }
            for context in contexts.contexts
        ],
    }
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True).encode("utf-8", "surrogatepass")


def decode(data: bytes, *, source: str) -> Contexts:
    """The contexts in a file's bytes. Raises InvalidArgument with reason `BadContextsFile`."""
    if len(data) > MAX_BYTES:
        raise _bad(f"{source} is longer than {MAX_BYTES} bytes")
    try:
        text = data.decode("utf-8")
        _check_depth(text, source)
        document = yaml.load(text, Loader=_LOADER)  # noqa: S506 (a safe loader in C)
    except yaml.YAMLError as error:
        raise _bad(f"{source} is no valid YAML: {_one_line(error)}") from None
    except (ValueError, TypeError, OverflowError, AttributeError) as error:
        # Bytes that are no text; scalars that look like dates of no calendar; keys that cannot be keys.
        raise _bad(f"{source} cannot be read: {_one_line(error)}") from None
    if document is None:
        return Contexts()
    _check_fields(document, ("current-context", "contexts"), source)
    entries = document.get("contexts") or []
    if not isinstance(entries, list):
        raise _bad(f"{source}: contexts must be a list")
    contexts = tuple(_context(entry, f"{source}: contexts[{at}]") for at, entry in enumerate(entries))
    names = [context.name for context in contexts]
    for name in names:
        if names.count(name) > 1:
            raise _bad(f"{source}: there are two contexts of the name {name!r}")
    current = document.get("current-context") or ""
    if not isinstance(current, str):
        raise _bad(f"{source}: current-context must be a text")
    if current and current not in names:
        raise _bad(f"{source}: current-context {current!r} is not among the contexts")
    return Contexts(current, contexts)


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Writes certificates as blocks that people can read."""


def _write_text(dumper: Any, value: str) -> Any:
    style = "|" if value.startswith("-----BEGIN ") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _write_text)
# The C parser is several times faster, where PyYAML was built with it.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _context(entry: Any, place: str) -> Context:
    _check_fields(entry, (*_TEXTS, *_TIMES, "coordinators"), place)
    texts: dict[str, str] = {}
    for field in _TEXTS:
        value = entry.get(field)
        if value is not None and not isinstance(value, str):
            raise _bad(f"{place}.{field} must be a text")
        texts[field] = value or ""
    if not texts["name"]:
        raise _bad(f"{place} has no name")
    times = {field: entry.get(field) or 0 for field in _TIMES}
    for field, value in times.items():
        if type(value) is not int or not 0 <= value <= _TIME_MAX_MS:
            raise _bad(f"{place}.{field} must be wall clock ms")
    coordinators = entry.get("coordinators") or []
    if not isinstance(coordinators, list) or not all(isinstance(address, str) for address in coordinators):
        raise _bad(f"{place}.coordinators must be a list of addresses")
    return Context(
        name=texts["name"],
        coordinators=tuple(coordinators),
        trust_domain=texts["trust-domain"],
        namespace=texts["namespace"] or "default",
        user=texts["user"],
        certificate=texts["certificate"],
        key=texts["key"],
        bundle=texts["bundle"],
        not_before_ms=times["not-before"],
        expires_at_ms=times["expires-at"],
    )


def _check_fields(node: Any, known: tuple[str, ...], place: str) -> None:
    if not isinstance(node, dict):
        raise _bad(f"{place} must be a mapping")
    for key in node:
        if key not in known:
            raise _bad(f"{place}: unknown field {key!r}")


def _check_depth(text: str, source: str) -> None:
    """The C parser recurses without a limit and would end the process on deep nesting; its events do not."""
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _DEPTH_MAX:
                raise _bad(f"{source} is nested too deeply")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _bad(message: str) -> InvalidArgument:
    reason = "BadContext" if message.startswith("context ") else "BadContextsFile"
    return InvalidArgument(message, reason=reason, remedy="correct the file, or write it anew with an admin's help")
