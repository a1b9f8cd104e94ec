"""Domain objects to manifests: what `get -o yaml` prints, and what reads back as the same workload."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import yaml

from cloudless.core import quantity
from cloudless.core.spec import Metadata, WorkloadSpec
from cloudless.manifest import schema
from cloudless.manifest.loader import plain_kind
from cloudless.manifest.schema import Field

_ALWAYS: Final = frozenset({"replicas", "priority"})  # leaving them out would not mean zero
_WRITERS: Final[Mapping[str, Callable[[int], str]]] = {
    "cpu": quantity.format_cpu,
    "bytes": quantity.format_bytes,
    "bitrate": quantity.format_bitrate,
    "duration": quantity.format_duration,
    "pause": quantity.format_pause,
}


def manifest(metadata: Metadata, spec: WorkloadSpec) -> dict[str, Any]:
    """The manifest of a workload, without what is not stated. Decoding it gives the same workload."""
    return {
        "apiVersion": schema.API_VERSION,
        "kind": "Workload",
        "metadata": encode(metadata),
        "spec": encode(spec),
    }


def encode(value: Any) -> dict[str, Any]:
    """A dataclass as a mapping of manifest keys, without empty fields."""
    written: dict[str, Any] = {}
    done: set[str] = set()
    cls: Any = type(value)
    for field in schema.fields(cls):
        item = getattr(value, field.attribute)
        if field.attribute in done or (field.type.kind == "seconds" and item % 1000):
            continue
        encoded = _value(field, item)
        if encoded is None or (encoded in (0, "", [], {}) and not _kept(field, item)):
            continue
        written[field.key] = encoded
        done.add(field.attribute)
    return written


def _kept(field: Field, item: Any) -> bool:
    return field.attribute in _ALWAYS or (field.optional and item is not None)


def _value(field: Field, item: Any) -> Any:
    kind = field.type
    if item is None:
        return None
    if kind.kind == "object":
        return encode(item)
    if kind.kind == "list":
        objects = kind.item is not None and kind.item.kind == "object"
        return [encode(element) if objects else str(element) for element in item]
    if kind.kind == "map":
        return dict(item)
    if kind.kind in _WRITERS:
        return _WRITERS[kind.kind](item) if item else None
    if kind.kind == "seconds":
        return item // 1000
    if kind.kind == "port":
        return int(item) if item.isascii() and item.isdigit() else item
    return str(item) if kind.kind == "choice" else item


class _Dumper(yaml.SafeDumper):
    """Quotes each text that either YAML 1.1 or 1.2 would read as something else; indents lists."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None
    if plain_kind(text) != "str" or not all(c == "\n" or c.isprintable() for c in text):
        style = '"'  # with escapes: YAML 1.1 takes U+0085, U+2028 and U+2029 for line breaks
    elif "\n" in text:
        style = "|"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(value: Any) -> str:
    """Block-style YAML that this package reads back as the same value."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
