"""`explain`: the manifest's fields, from the same dataclasses that it is read into."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from cloudless.core import defaults, quantity
from cloudless.core.spec import (
    AntiAffinity,
    Container,
    ContainerPort,
    HttpProbe,
    Metadata,
    Placement,
    Probe,
    RolloutStrategy,
    SpreadConstraint,
    Toleration,
    WorkloadSpec,
    WorkloadType,
)
from cloudless.ctl.app import App
from cloudless.ctl.arguments import usage
from cloudless.ctl.cli import command
from cloudless.errors import NotFound
from cloudless.manifest import schema
from cloudless.manifest.docs import DOCS
from cloudless.manifest.schema import Field, Type

_ROOTS: Final = (
    ("metadata", Metadata, "Names the workload."),
    ("spec", WorkloadSpec, "What to run, how many, and where."),
)
_LATER: Final = (WorkloadType.JOB, WorkloadType.CRON, RolloutStrategy.CANARY, RolloutStrategy.BLUE_GREEN)
_WORDS: Final[Mapping[str, str]] = {
    "text": "text", "number": "whole number", "switch": "true or false", "map": "map of text to text",
    "cpu": "CPUs, as in 250m, 0.5 or 2", "bytes": "size, as in 128Mi or 2Gi", "bitrate": "bit rate, as in 5Mbps",
    "duration": "duration, as in 30s or 1m30s", "port": "port number or name", "seconds": "whole number of seconds",
}  # fmt: skip
_WRITERS: Final[Mapping[str, Callable[[int], str]]] = {
    "cpu": quantity.format_cpu, "bytes": quantity.format_bytes, "duration": quantity.format_duration,
    "bitrate": quantity.format_bitrate,
}  # fmt: skip


def type_words(kind: Type) -> str:
    """A type as people say it."""
    if kind.kind == "list":
        assert kind.item is not None
        return "list of objects" if kind.item.kind == "object" else "list of texts"
    if kind.kind == "choice":
        return " | ".join(member.value for member in kind.cls if member not in _LATER)
    return "object" if kind.kind == "object" else _WORDS[kind.kind]


def _complete(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(path) for path in paths() if path.startswith(incomplete)]


@command("explain")
@click.argument("words", nargs=-1, metavar="[FIELD.PATH] | placement WORKLOAD[/REPLICA]", shell_complete=_complete)
@click.option("--recursive", is_flag=True, help="Show all fields below it.")
@click.option(
    "-o", "--output", "format", default="table", metavar="FORMAT", help="Of a placement: table, json or yaml."
)
def explain(app: App, words: tuple[str, ...], recursive: bool, format: str) -> None:
    """Explain a field of the manifest, or why a replica is where it is.

    The placement of a workload is where one more replica would go now: what ruled each node out, every term of the
    score of the best ones, and, where none fits, single changes that would make it fit.

    \b
    cloudlessctl explain workload
    cloudlessctl explain spec.containers.livenessProbe
    cloudlessctl explain placement web
    cloudlessctl explain placement web/web-x7k2p
    """
    if words and words[0] == "placement" and len(words) > 1:
        from cloudless.ctl.commands.placement import explain_placement

        explain_placement(app, words[1:], format)
        return
    if len(words) > 1:
        raise usage(f"{len(words)} fields are named", "name one: cloudlessctl explain spec.containers")
    path = words[0] if words else ""
    path = re.sub(r"\[[^\]]*\]", "", path)
    kind, _, below = path.partition(".")
    if kind.lower() in ("workload", "workloads", "wl"):
        path = below
    if not path:
        _overview(app, recursive)
        return
    cls, field = resolve(path)
    if field is None:
        app.print(f"{path}  <object>\n    {next(doc for name, _, doc in _ROOTS if name == path)}\n")
        _children(app, cls, path, 0, recursive)
        return
    app.print(_line(cls, field, path, "", path))
    inner = _inner(field.type)
    if inner is not None:
        app.print()
        _children(app, inner, path, 0, recursive)


def _overview(app: App, recursive: bool) -> None:
    app.print(f"apiVersion: {schema.API_VERSION}\nkind: Workload\n")
    for name, cls, doc in _ROOTS:
        app.print(f"{name}  <object>\n    {doc}")
        if recursive:
            _children(app, cls, name, 1, recursive)


def _children(app: App, cls: Any, path: str, depth: int, recursive: bool) -> None:
    indent = "    " * depth
    for field in schema.fields(cls):
        app.print(_line(cls, field, f"{path}.{field.key}", indent))
        inner = _inner(field.type)
        if recursive and inner is not None:
            _children(app, inner, f"{path}.{field.key}", depth + 1, recursive)
    for key in schema.UNSUPPORTED.get(cls, ()):
        app.print(f"{indent}{key}  (not supported by this version)")


def _line(cls: Any, field: Field, path: str, indent: str, shown: str = "") -> str:
    default = default_of(path, field)
    text = f"{indent}{shown or field.key}  <{type_words(field.type)}>"
    if field.attribute in schema.NOT_YET.get(cls, ()):
        return f"{text}  (not supported by this version)\n{indent}    {DOCS[cls][field.attribute]}"
    if default:
        text += f"  default: {default}"
    return f"{text}\n{indent}    {DOCS[cls][field.attribute]}"


def _inner(kind: Type) -> Any:
    if kind.kind == "object":
        return kind.cls
    if kind.kind == "list" and kind.item is not None and kind.item.kind == "object":
        return kind.item.cls
    return None


def resolve(path: str) -> tuple[Any, Field | None]:
    """The dataclass that holds a field, and the field; for `metadata` and `spec` the class itself and None.
    Raises NotFound with what was probably meant."""
    words = path.split(".")
    roots: dict[str, Any] = {name: cls for name, cls, _ in _ROOTS}
    if words[0] not in roots:
        raise _unknown(words[0], list(roots), "")
    cls, field = roots[words[0]], None
    for depth, word in enumerate(words[1:], start=1):
        if field is not None:
            cls = _inner(field.type)
            if cls is None:
                raise NotFound(f"{'.'.join(words[:depth])} has no fields")
        by_name = {name: item for item in schema.fields(cls) for name in (item.key, item.snake)}
        field = by_name.get(word)
        if field is None:
            raise _unknown(word, [item.key for item in schema.fields(cls)], ".".join(words[:depth]))
    return cls, field


def _unknown(word: str, known: list[str], parent: str) -> NotFound:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    remedy = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(known)}"
    return NotFound(f"{parent or 'a manifest'} has no field {word!r}", reason="FieldNotFound", remedy=remedy)


def default_of(path: str, field: Field) -> str:
    """The default that the coordinator fills in, as the manifest writes it; empty where there is none."""
    value = _defaults().get(path)
    if value in (None, 0, "", (), False) or field.type.kind in ("object", "list", "map"):
        return ""
    if field.type.kind == "seconds":
        return str(value // 1000)
    return _WRITERS[field.type.kind](value) if field.type.kind in _WRITERS else str(value)


def _defaults() -> dict[str, Any]:
    """The default of each path, read off workloads in which everything that can be left out is."""
    found: dict[str, Any] = {}
    probe = Probe(http=HttpProbe())
    container = Container(ports=(ContainerPort(),), startup_probe=probe, liveness_probe=probe, readiness_probe=probe)
    placement = Placement(tolerations=(Toleration(),), anti_affinity=(AntiAffinity(),), spread=(SpreadConstraint(),))
    metadata, spec = defaults.apply(
        Metadata(), replace(defaults.STARTING_SPEC, containers=(container,), placement=placement)
    )
    _collect(metadata, "metadata", found)
    _collect(spec, "spec", found)
    return found


def _collect(value: Any, path: str, found: dict[str, Any]) -> None:
    cls: Any = type(value)
    for field in schema.fields(cls):
        here = f"{path}.{field.key}"
        item = getattr(value, field.attribute)
        found[here] = item
        inner = _inner(field.type)
        if inner is not None and item:
            _collect(item[0] if isinstance(item, tuple) else item, here, found)


def paths() -> list[str]:
    """Every path that can be explained."""

    def below(cls: Any, path: str) -> list[str]:
        found = [path]
        for field in schema.fields(cls):
            here = f"{path}.{field.key}"
            inner = _inner(field.type)
            found += [here] if inner is None else below(inner, here)
        return found

    return [path for name, cls, _ in _ROOTS for path in below(cls, name)]
