"""Every setting once: a dataclass field with its documentation and unit.

Flags, environment variables and the example files under `config/` derive from it. A flag wins over the
environment, which wins over the file, which wins over the default. `listen.api` is `--listen-api`,
`CLOUDLESS_LISTEN_API` and, in the YAML file, `listen: {api: ...}`. Fields that end in `_ms` take durations
(`24h`, `1m30s`), fields that end in `_bytes` sizes (`64Mi`), fields that end in `_millis` CPUs (`1500m`);
their names are written without that ending. Lists are separated by commas.
"""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from cloudless import __version__
from cloudless.core import quantity
from cloudless.errors import InvalidArgument

C = TypeVar("C")

_QUANTITIES = {
    "_ms": (quantity.parse_duration, quantity.format_duration),
    "_bytes": (quantity.parse_bytes, quantity.format_bytes),
    "_millis": (quantity.parse_cpu, quantity.format_cpu),
}


def setting(default: Any, doc: str) -> Any:
    """A setting with its default and its documentation (one sentence; it becomes the flag's help)."""
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata={"doc": doc})
    return dataclasses.field(default=default, metadata={"doc": doc})


@dataclasses.dataclass(frozen=True)
class LogConfig:
    level: str = setting("info", "Least severity that is logged: debug, info, warning or error.")
    format: str = setting("json", "json (one object a line) or text (for people).")


@dataclasses.dataclass(frozen=True)
class MetricsConfig:
    listen: str = setting(
        "127.0.0.1:9090", "Address of /metrics and /healthz, plain HTTP; loopback unless set; empty: off."
    )


@dataclasses.dataclass(frozen=True)
class TracingConfig:
    otlp_endpoint: str = setting("", "OTLP/gRPC address that spans are sent to; empty: tracing is off.")
    sample_ratio: float = setting(1.0, "Share of traces that are kept, 0 to 1.")


@dataclasses.dataclass(frozen=True)
class CoordinatorListen:
    api: str = setting("0.0.0.0:8443", "mTLS listener for people, programs and agents.")
    enroll: str = setting("0.0.0.0:8442", "Enrolment and liveness; the only listener without client certificates.")
    advertise: tuple[str, ...] = setting(
        (), "Addresses (host:port of the mTLS listener) given to agents and people; empty: this host's own."
    )
    advertise_enroll: tuple[str, ...] = setting(
        (), "Addresses of the enrolment listener put into join tokens; empty: this host's own."
    )
    names: tuple[str, ...] = setting((), "More DNS names and IP addresses for the coordinator's certificate.")


@dataclasses.dataclass(frozen=True)
class IdentityConfig:
    trust_domain: str = setting("cloudless.local", "SPIFFE trust domain; fixed at first start.")
    node_certificate_ttl_ms: int = setting(24 * 3_600_000, "Life of a node's certificate; renewed at two thirds.")
    user_certificate_ttl_ms: int = setting(30 * 24 * 3_600_000, "Life of a person's certificate.")
    token_ttl_ms: int = setting(24 * 3_600_000, "Life of a join token when none is asked for.")


@dataclasses.dataclass(frozen=True)
class StoreConfig:
    engine: str = setting("single", "Replication engine: single.")
    segment_bytes: int = setting(16 * 2**20, "A write-ahead log segment is closed at this size.")
    snapshot_entries: int = setting(20_000, "Entries after the last snapshot that cause the next one.")


@dataclasses.dataclass(frozen=True)
class SessionConfig:
    heartbeat_interval_ms: int = setting(1000, "How often an agent sends a heartbeat.")
    heartbeat_misses: int = setting(4, "Heartbeats missed in a row after which a node is unreachable.")
    node_lease_ms: int = setting(5 * 60_000, "How long a node may be unreachable before it is lost.")


@dataclasses.dataclass(frozen=True)
class SchedulerConfig:
    weight_locality: float = setting(0.30, "Weight of the locality term of the score.")
    weight_reliability: float = setting(0.25, "Weight of the reliability term.")
    weight_cost: float = setting(0.15, "Weight of the cost term.")
    weight_utilization: float = setting(0.20, "Weight of the utilization term (bin-packing).")
    weight_network: float = setting(0.10, "Weight of the network penalty, which is subtracted.")


@dataclasses.dataclass(frozen=True)
class CoordinatorConfig:
    """Settings of `cloudless-coordinator`."""

    id: str = setting("c1", "Name of this coordinator within the fabric.")
    data_dir: Path = setting(Path("/var/lib/cloudless/coordinator"), "Log, snapshots and keys; mode 0700.")
    admin_context: Path = setting(
        Path(), "Where the first admin context is written at bootstrap; empty: DATA_DIR/admin.yaml."
    )
    listen: CoordinatorListen = CoordinatorListen()
    identity: IdentityConfig = IdentityConfig()
    store: StoreConfig = StoreConfig()
    session: SessionConfig = SessionConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    log: LogConfig = LogConfig()
    metrics: MetricsConfig = MetricsConfig()
    tracing: TracingConfig = TracingConfig()


@dataclasses.dataclass(frozen=True)
class OwnerConfig:
    share: float = setting(1.0, "Share of the device's CPU and memory that the fabric may use, 0 to 1.")
    cpu_millis: int = setting(0, "CPUs offered; 0: the share of what the device has.")
    memory_bytes: int = setting(0, "Memory offered; 0: the share of what the device has.")


@dataclasses.dataclass(frozen=True)
class RuntimeConfig:
    names: tuple[str, ...] = setting(("containerd", "process"), "Runtimes to use where the device has them.")
    containerd_address: str = setting("/run/containerd/containerd.sock", "containerd's socket.")
    containerd_snapshotter: str = setting("overlayfs", "containerd's snapshotter: overlayfs, or native where it fails.")
    containerd_namespace: str = setting("cloudless", "containerd namespace that this agent owns.")
    cgroup_prefix: str = setting("cloudless", "Parent cgroup of this agent's containers.")
    bridge: str = setting("cloudless0", "Bridge of this node's replicas (at most 15 characters).")
    subnet: str = setting("10.88.0.0/24", "IPv4 subnet of that bridge.")
    process_address: str = setting(
        "127.0.0.1", "Address of this device that process replicas listen on (CLOUDLESS_ADDRESS) and are reported at."
    )
    log_max_bytes: int = setting(16 * 2**20, "A container's log is rotated at this size.")


@dataclasses.dataclass(frozen=True)
class AgentConfig:
    """Settings of `cloudless-agent`."""

    data_dir: Path = setting(Path("/var/lib/cloudless/agent"), "Keys, journal and logs; mode 0700.")
    node_name: str = setting("", "Name of this node; empty: the host name.")
    coordinators: tuple[str, ...] = setting((), "Addresses of coordinators; empty: those learnt at enrolment.")
    join_token_file: Path = setting(Path(), "File that holds a join token; used while the node is not enrolled.")
    device_class: str = setting("", "phone, laptop, desktop, server, gateway or vps; empty: detected.")
    labels: dict[str, str] = setting(
        {}, "Labels as a=b,c=d that this device says of itself; a label that an administrator sets wins."
    )
    owner: OwnerConfig = OwnerConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    log: LogConfig = LogConfig()
    metrics: MetricsConfig = MetricsConfig()
    tracing: TracingConfig = TracingConfig()


@dataclasses.dataclass(frozen=True)
class _Leaf:
    path: tuple[str, ...]  # as the manifest, flag and variable spell it
    attributes: tuple[str, ...]
    hint: Any
    default: Any
    doc: str

    @property
    def flag(self) -> str:
        return "--" + "-".join(self.path).replace("_", "-")

    @property
    def variable(self) -> str:
        return "CLOUDLESS_" + "_".join(self.path).upper()


def leaves(cls: type, attributes: tuple[str, ...] = (), path: tuple[str, ...] = ()) -> list[_Leaf]:
    """Every setting of a configuration class, in order."""
    hints = typing.get_type_hints(cls)
    found: list[_Leaf] = []
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            found += leaves(typing.cast(type, hint), (*attributes, field.name), (*path, field.name))
            continue
        name = field.name
        for ending in _QUANTITIES:
            name = name.removesuffix(ending)
        default = field.default if field.default is not dataclasses.MISSING else {}
        found.append(_Leaf((*path, name), (*attributes, field.name), hint, default, str(field.metadata.get("doc", ""))))
    return found


def _parse(leaf: _Leaf, value: Any, source: str) -> Any:
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    try:
        for ending, (parse, _) in _QUANTITIES.items():
            if leaf.attributes[-1].endswith(ending):
                return parse(text)
        if leaf.hint is int or leaf.hint is float:
            return leaf.hint(text)
        if leaf.hint is Path:
            return Path(text) if text else Path()
        if typing.get_origin(leaf.hint) is tuple:
            return tuple(part.strip() for part in text.split(",") if part.strip())
        if typing.get_origin(leaf.hint) is dict:
            if isinstance(value, Mapping):
                return {str(k): str(v) for k, v in value.items()}
            return _pairs(text)
    except ValueError as error:
        raise InvalidArgument(f"{source}: {error}", reason="BadSetting") from None
    return text


def _pairs(text: str) -> dict[str, str]:
    pairs = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, separator, value = part.partition("=")
        if not separator:
            raise ValueError(f"{part!r} is not KEY=VALUE")
        pairs[key] = value
    return pairs


def _show(leaf: _Leaf) -> str:
    for ending, (_, write) in _QUANTITIES.items():
        if leaf.attributes[-1].endswith(ending):
            return write(leaf.default)
    if leaf.default == Path():
        return ""
    if isinstance(leaf.default, tuple):
        return ",".join(leaf.default)
    if isinstance(leaf.default, dict):
        return ",".join(f"{k}={v}" for k, v in leaf.default.items())
    return str(leaf.default)


def _from_file(path: Path, known: dict[tuple[str, ...], _Leaf]) -> dict[tuple[str, ...], Any]:
    import yaml

    try:
        document = yaml.safe_load(path.read_text("utf-8")) or {}
    except OSError as error:
        raise InvalidArgument(f"cannot read {path}: {error.strerror}", reason="BadSetting") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8, or a date of no calendar
        raise InvalidArgument(f"{path}: {error}", reason="BadSetting") from None
    except RecursionError:
        raise InvalidArgument(f"{path}: values are nested too deeply", reason="BadSetting") from None
    values: dict[tuple[str, ...], Any] = {}

    def walk(node: Any, prefix: tuple[str, ...]) -> None:
        if not isinstance(node, Mapping):
            raise InvalidArgument(f"{path}: {'.'.join(prefix) or 'the file'} must be a mapping", reason="BadSetting")
        for key, value in node.items():
            here = (*prefix, str(key))
            if here in known:
                values[here] = value
            elif any(k[: len(here)] == here for k in known):
                walk(value, here)
            else:
                raise InvalidArgument(f"{path}: unknown setting {'.'.join(here)}", reason="BadSetting")

    walk(document, ())
    return values


def build(cls: type[C], values: Mapping[tuple[str, ...], Any], prefix: tuple[str, ...] = ()) -> C:
    """A configuration object from parsed values, keyed by attribute path."""
    hints = typing.get_type_hints(cls)
    arguments: dict[str, Any] = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        here = (*prefix, field.name)
        if dataclasses.is_dataclass(hints[field.name]):
            arguments[field.name] = build(hints[field.name], values, here)
        elif here in values:
            arguments[field.name] = values[here]
    return cls(**arguments)


def load(cls: type[C], program: str, argv: Sequence[str], environment: Mapping[str, str]) -> C:
    """The configuration from flags, environment and `--config FILE`. Exits with 2 on a bad flag, as argparse
    does; raises InvalidArgument for a bad value, naming where it stands."""
    parser = argparse.ArgumentParser(program, description=cls.__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"{program} {__version__}")
    parser.add_argument("--config", metavar="FILE", default=environment.get("CLOUDLESS_CONFIG_FILE", ""))
    every = leaves(typing.cast(type, cls))
    for leaf in every:
        shown = _show(leaf)
        default = f" [default: {shown}]" if shown else ""
        parser.add_argument(leaf.flag, dest=leaf.flag, metavar="V", help=(leaf.doc + default).replace("%", "%%"))
    flags = vars(parser.parse_args(list(argv)))
    known = {leaf.path: leaf for leaf in every}
    from_file = _from_file(Path(flags["config"]), known) if flags["config"] else {}
    values: dict[tuple[str, ...], Any] = {}
    for leaf in every:
        if flags[leaf.flag] is not None:
            values[leaf.attributes] = _parse(leaf, flags[leaf.flag], leaf.flag)
        elif leaf.variable in environment:
            values[leaf.attributes] = _parse(leaf, environment[leaf.variable], leaf.variable)
        elif leaf.path in from_file:
            values[leaf.attributes] = _parse(leaf, from_file[leaf.path], ".".join(leaf.path))
    return build(cls, values)


def example(cls: type) -> str:
    """The commented example file: every setting with its documentation and default."""
    lines = [f"# {(cls.__doc__ or '').strip()} Every line shows the default.", ""]
    open_section: tuple[str, ...] = ()
    for leaf in leaves(cls):
        section = leaf.path[:-1]
        if section != open_section and section:
            lines += ["", f"{section[0]}:"]
        open_section = section
        indent = "  " * len(section)
        shown = _show(leaf)
        if typing.get_origin(leaf.hint) is tuple:
            shown = f"[{shown}]"
        elif typing.get_origin(leaf.hint) is dict:
            shown = "{}"
        elif shown == "" or ":" in shown:
            shown = f'"{shown}"'
        lines += [f"{indent}# {leaf.doc}", f"{indent}{leaf.path[-1]}: {shown}"]
    return "\n".join(lines) + "\n"
