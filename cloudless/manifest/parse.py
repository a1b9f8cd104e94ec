"""Files of manifests to workloads: all of them, or every problem that any of them has."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from cloudless.core import defaults, quantity, validation
from cloudless.core.spec import Metadata, WorkloadSpec
from cloudless.manifest import schema
from cloudless.manifest.decode import Decoder, describe, suggest
from cloudless.manifest.loader import Mapping, Node, Scalar, load
from cloudless.manifest.problem import Problem

_HEADER: Final = ("apiVersion", "kind", "metadata", "spec", "status")


@dataclass(frozen=True, slots=True)
class Source:
    """A file's name, for messages, and its content."""

    name: str
    data: bytes | str


@dataclass(frozen=True, slots=True)
class Manifest:
    """One workload as written: its defaults are not filled in, except the namespace."""

    file: str
    line: int
    metadata: Metadata
    spec: WorkloadSpec

    @property
    def key(self) -> tuple[str, str]:
        return self.metadata.namespace, self.metadata.name


@dataclass(frozen=True, slots=True)
class Parsed:
    """`manifests` is complete only when there are no problems; then all are well formed and differ in name."""

    manifests: tuple[Manifest, ...]
    problems: tuple[Problem, ...]


def parse(sources: Iterable[Source], *, namespace: str = defaults.NAMESPACE) -> Parsed:
    """The workloads of all documents of all sources; `namespace` is that of manifests which state none.

    Never raises. Nothing should be applied when there are problems: they are sorted by place within a file, files
    in the order given.
    """
    manifests: list[Manifest] = []
    problems: list[Problem] = []
    seen: dict[tuple[str, str], Manifest] = {}
    for source in sources:
        documents, found = load(source.data, source.name)
        for document in documents:
            manifest, more = _document(document, source.name, namespace)
            found += more
            if manifest is None:
                continue
            manifests.append(manifest)
            first = seen.setdefault(manifest.key, manifest)
            if first is not manifest and manifest.metadata.name:
                what = f"workload/{manifest.metadata.name} is already defined in {first.file}:{first.line}"
                remedy = "rename one of the two"
                found.append(Problem(source.name, manifest.line, 1, "metadata.name", what, remedy))
        problems += sorted(found)
    return Parsed(tuple(manifests), tuple(problems))


def _document(root: Node, file: str, namespace: str) -> tuple[Manifest | None, list[Problem]]:
    decoder = Decoder(file)
    decoder.positions[""] = (root.line, root.column)
    if not isinstance(root, Mapping):
        remedy = "write apiVersion, kind, metadata and spec"
        decoder.report("", f"expected a manifest, got {describe(root)}", remedy)
        return None, decoder.problems
    decoder.positions |= root.keys
    if not _header(decoder, root):
        return None, decoder.problems
    metadata, spec = Metadata(), defaults.STARTING_SPEC
    for key, node in root.items.items():
        if key == "metadata":
            metadata = decoder.object(Metadata, node, key)
        elif key == "spec":
            spec = decoder.object(WorkloadSpec, node, key, base=spec)
        elif key not in _HEADER:
            decoder.report(key, f"unknown field {key[:60]!r}", suggest(key, list(_HEADER[:-1]), "it has "))
    if not metadata.namespace:
        metadata = replace(metadata, namespace=namespace)
    _judge(decoder, metadata, spec)
    return Manifest(file, root.line, metadata, spec), decoder.problems


def _header(decoder: Decoder, root: Mapping) -> bool:
    """Whether the document says that it is a workload; reports what else it says."""
    kind = _word(root, "kind")
    version = _word(root, "apiVersion") or _word(root, "api_version")
    if kind in schema.LATER_KINDS:
        remedy = f"it reads kind {' and '.join(schema.KINDS)}"
        decoder.report("kind", f"the kind {kind} is not supported by this version", remedy)
        return False
    if not kind and "services" in root.items:
        remedy = "write each service as a manifest of kind Workload"
        decoder.report("services", "a Compose file is not supported by this version", remedy)
        return False
    if not kind:
        decoder.report("kind", "the kind is missing", "write kind: Workload")
    elif kind not in schema.KINDS:
        decoder.report("kind", f"unknown kind {kind[:60]!r}", suggest(kind, list(schema.KINDS), "use "))
    if not version:
        decoder.report("apiVersion", "the apiVersion is missing", f"write apiVersion: {schema.API_VERSION}")
    elif version != schema.API_VERSION:
        decoder.report("apiVersion", f"unknown apiVersion {version[:60]!r}", f"write {schema.API_VERSION}")
    root.items.pop("api_version", None)
    return not kind or kind in schema.KINDS


def _word(root: Mapping, key: str) -> str:
    node = root.items.get(key)
    if not isinstance(node, Scalar):
        return describe(node) if node is not None else ""
    return "" if node.kind == "null" else node.text


def _judge(decoder: Decoder, metadata: Metadata, spec: WorkloadSpec) -> None:
    """Adds what validation finds, except where reading already found something."""
    found = [problem.path for problem in decoder.problems]
    _, filled = defaults.apply(metadata, spec)
    for attributes, path in decoder.zeros:
        value = _at(filled, attributes)
        if value:
            _zero(decoder, path, value)
    for violation in validation.validate(metadata, filled):
        covered = violation.path in decoder.suggested or any(
            _within(violation.path, path) or _within(path, violation.path) for path in found
        )
        if not covered:
            decoder.report(violation.path, violation.message, violation.remedy)


def _within(path: str, outer: str) -> bool:
    return path.startswith(outer) and path[len(outer) : len(outer) + 1] in ("", ".", "[")


def _at(value: Any, attributes: tuple[str | int, ...]) -> Any:
    for attribute in attributes:
        if isinstance(attribute, int):
            value = value[attribute] if attribute < len(value) else None
        else:
            value = getattr(value, attribute, None)
    return value


def _zero(decoder: Decoder, path: str, value: object) -> None:
    """A zero that reads as "not stated" would silently become the default: refuse it instead."""
    if path == "spec.rollout.maxSurge":
        decoder.report(path, "maxSurge and maxUnavailable cannot both be 0", "raise one of the two")
        return
    shown = str(value)
    key = path.rpartition(".")[2]
    if isinstance(value, int) and not key.endswith("Threshold"):
        writers: dict[str, Callable[[int], str]] = {
            "cpu": quantity.format_cpu, "memory": quantity.format_bytes, "pids": str, "maxSkew": str,
        }  # fmt: skip
        shown = writers.get(key, quantity.format_duration)(value)
    decoder.report(path, "0 cannot be asked for here", f"leave it out for the default of {shown}, or raise it")
