"""Every setting once: a dataclass field with its documentation and unit.

Flags, environment variables and the example files under `config/` derive from it. A flag wins over the
environment, which wins over the file, which wins over the default. `listen.api` is `--listen-api`,
`CLOUDLESS_LISTEN_API` and, in the YAML file, `listen: {api: ...}`. Fields that end in `_ms` take durations
(`24h`, `1m30s`), fields that end in `_bytes` sizes (`64Mi`), fields that end in `_millis` CPUs (`1500m`);
their names are written without that ending. Lists are separated by commas. Relative paths count from the folder that
the program is started in. Every value is checked before `load` returns (`cloudless.kinds`).
"""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from cloudless import __version__, kinds
from cloudless.core import quantity
from cloudless.errors import InvalidArgument
from cloudless.kinds import Kind

C = TypeVar("C")

_PRECEDENCE = (
    "A flag wins over the environment, which wins over the file, which wins over the default. "
    "Each setting is a flag, a variable and a line of the file: --listen-api, CLOUDLESS_LISTEN_API, listen: {api: ...}."
)
_QUANTITIES = {
    "_ms": (quantity.parse_duration, quantity.format_duration),
    "_bytes": (quantity.parse_bytes, quantity.format_bytes),
    "_millis": (quantity.parse_cpu, quantity.format_cpu),
}


def setting(default: Any, doc: str, kind: Kind | None = None) -> Any:
    """A setting with its default, its documentation (one sentence; it becomes the flag's help) and what its values may
    be (None: what follows from its type and name)."""
    metadata = {"doc": doc, "kind": kind}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class LogConfig:
    level: str = setting(
        "info",
        "Least severity that is logged: debug, info, warning or error.",
        kinds.one_of("debug", "info", "warning", "error"),
    )
    format: str = setting("json", "json (one object a line) or text (for people).", kinds.one_of("json", "text"))


@dataclasses.dataclass(frozen=True)
class MetricsConfig:
    listen: str = setting(
        "127.0.0.1:9090",
        "Address of /metrics and /healthz, plain HTTP; loopback unless set; empty: off.",
        kinds.OPTIONAL_LISTENER,
    )


@dataclasses.dataclass(frozen=True)
class AgentMetricsConfig(MetricsConfig):
    # Another port than the coordinator's: the two share a machine.
    listen: str = setting(
        "127.0.0.1:9092",
        "Address of /metrics and /healthz, plain HTTP; loopback unless set; empty: off.",
        kinds.OPTIONAL_LISTENER,
    )


@dataclasses.dataclass(frozen=True)
class TracingConfig:
    otlp_endpoint: str = setting("", "OTLP/gRPC address that spans are sent to; empty: tracing is off.")
    sample_ratio: float = setting(1.0, "Share of traces that are kept, 0 to 1.", kinds.SHARE)


@dataclasses.dataclass(frozen=True)
class CoordinatorListen:
    api: str = setting("0.0.0.0:8443", "mTLS listener for people, programs and agents.", kinds.LISTENER)
    enroll: str = setting(
        "0.0.0.0:8442", "Enrolment and liveness; the only listener without client certificates.", kinds.LISTENER
    )
    advertise: tuple[str, ...] = setting(
        (),
        "Addresses (host:port of the mTLS listener) given to agents and people; empty: this host's own.",
        kinds.ADVERTISED,
    )
    advertise_enroll: tuple[str, ...] = setting(
        (), "Addresses of the enrolment listener put into join tokens; empty: this host's own.", kinds.ADVERTISED
    )
    member: str = setting("0.0.0.0:8444", "mTLS listener for the other coordinators of a raft engine.", kinds.LISTENER)
    advertise_member: str = setting(
        "", "Address (host:port) at which the other coordinators reach that listener; empty: this host's own."
    )
    names: tuple[str, ...] = setting(
        (), "More DNS names and IP addresses for the coordinator's certificate.", kinds.CERTIFICATE_NAMES
    )


@dataclasses.dataclass(frozen=True)
class IdentityConfig:
    trust_domain: str = setting("cloudless.local", "SPIFFE trust domain; fixed at first start.", kinds.TRUST_DOMAIN)
    node_certificate_ttl_ms: int = setting(24 * 3_600_000, "Life of a node's certificate; renewed at two thirds.")
    user_certificate_ttl_ms: int = setting(30 * 24 * 3_600_000, "Life of a person's certificate.")
    token_ttl_ms: int = setting(24 * 3_600_000, "Life of a join token when none is asked for.")


@dataclasses.dataclass(frozen=True)
class RaftConfig:
    heartbeat_ms: int = setting(50, "How often a leader is heard by the other coordinators.")
    election_ms: int = setting(
        250, "Silence after which a coordinator stands for election: this to twice this; grows on slow links and disks."
    )


@dataclasses.dataclass(frozen=True)
class EtcdConfig:
    endpoints: tuple[str, ...] = setting(("127.0.0.1:2379",), "Members of the etcd cluster (host:port).", kinds.DIALLED)
    prefix: str = setting("/cloudless/", "Every key of this fabric begins with it.")
    ca_file: Path = setting(Path(), "Authority of etcd's certificates (PEM); empty: no TLS.", kinds.FILE)
    cert_file: Path = setting(Path(), "Client certificate for etcd (PEM).", kinds.FILE)
    key_file: Path = setting(Path(), "Key of that certificate (PEM).", kinds.FILE)
    lease_ttl_ms: int = setting(3_000, "Life of the leader's lease in etcd; a dead leader is replaced after it.")
    compact: bool = setting(
        True, "Whether etcd is told to forget old revisions after a snapshot; false where others need its history."
    )


@dataclasses.dataclass(frozen=True)
class StoreConfig:
    engine: str = setting(
        "raft",
        "Replication engine: raft (1, 3 or 5 coordinators), single (this one only), or etcd (an etcd of yours).",
        kinds.one_of("raft", "single", "etcd"),
    )
    segment_bytes: int = setting(16 * 2**20, "A write-ahead log segment is closed at this size.")
    snapshot_entries: int = setting(
        20_000, "Entries after the last snapshot that cause the next one.", kinds.at_least(1)
    )
    raft: RaftConfig = RaftConfig()
    etcd: EtcdConfig = EtcdConfig()


@dataclasses.dataclass(frozen=True)
class SessionConfig:
    heartbeat_interval_ms: int = setting(1000, "How often an agent sends a heartbeat.")
    heartbeat_misses: int = setting(
        4, "Heartbeats missed in a row after which a node's last word counts as old.", kinds.at_least(1)
    )
    silence_misses_min: int = setting(
        2, "Heartbeats that a node on a steady link may miss before it is unreachable.", kinds.at_least(1)
    )
    silence_misses_max: int = setting(
        30, "Heartbeats that a node on any link may miss before it is unreachable.", kinds.at_least(1)
    )
    node_lease_ms: int = setting(5 * 60_000, "How long a node may be unreachable before it is lost.")


@dataclasses.dataclass(frozen=True)
class SchedulerConfig:
    weight_locality: float = setting(0.30, "Weight of the locality term of the score.", kinds.WEIGHT)
    weight_reliability: float = setting(0.25, "Weight of the reliability term.", kinds.WEIGHT)
    weight_cost: float = setting(0.15, "Weight of the cost term.", kinds.WEIGHT)
    weight_utilization: float = setting(0.20, "Weight of the utilization term (bin-packing).", kinds.WEIGHT)
    weight_network: float = setting(0.10, "Weight of the network penalty, which is subtracted.", kinds.WEIGHT)


@dataclasses.dataclass(frozen=True)
class CoordinatorConfig:
    """Settings of `cloudless-coordinator`."""

    id: str = setting("c1", "Name of this coordinator within the fabric.", kinds.COORDINATOR_ID)
    data_dir: Path = setting(
        Path("/var/lib/cloudless/coordinator"), "Log, snapshots and keys; mode 0700.", kinds.FOLDER
    )
    admin_context: Path = setting(
        Path(), "Where the first admin context is written at bootstrap; empty: DATA_DIR/admin.yaml."
    )
    join_token_file: Path = setting(
        Path(),
        "File with a token of `cloudlessctl cluster add`: join that fabric; used while data_dir is empty.",
        kinds.FILE,
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
class OwnerTermsConfig:
    """What the owner of a device lets the fabric do with it. Can be changed while the agent runs (`owner.file`)."""

    share: float = setting(1.0, "Share of the device's CPU and memory that the fabric may use, 0 to 1.", kinds.SHARE)
    cpu_millis: int = setting(0, "CPUs offered; 0: the share of what the device has.")
    memory_bytes: int = setting(0, "Memory offered; 0: the share of what the device has.", kinds.SIZE_OR_NONE)
    hours: tuple[str, ...] = setting(
        (),
        "When the fabric may use the device, local time: 22:00-06:00, Mon-Fri 18:00-23:00; empty: always.",
        kinds.HOURS,
    )
    battery_floor_percent: int = setting(0, "On battery, nothing runs below this level; 0: no floor.", kinds.PERCENT)
    battery_resume_percent: int = setting(
        0, "Level from which work is taken again, and on mains always; 0: 10 above the floor.", kinds.PERCENT
    )
    allow_metered: bool = setting(False, "Whether new work is taken while the link to the outside is metered.")
    namespaces: tuple[str, ...] = setting((), "Namespaces whose workloads may run here; empty: all.", kinds.NAMESPACES)


@dataclasses.dataclass(frozen=True)
class OwnerConfig(OwnerTermsConfig):
    file: Path = setting(
        Path(),
        "File of `cloudless-agent owner`, which wins over the settings above and is read when it changes;"
        " empty: DATA_DIR/owner.yaml.",
        kinds.FILE,
    )
    time_zone: str = setting("", "Time zone of the hours, for example Europe/Berlin; empty: the device's own.")


@dataclasses.dataclass(frozen=True)
class PressureConfig:
    memory_bytes: int = setting(
        0,
        "Available memory below which the lowest priority is evicted; 0: a twentieth of all, at most 100Mi.",
        kinds.SIZE_OR_NONE,
    )
    memory_stall_percent: int = setting(
        30,
        "Share of time in which all tasks wait for memory (PSI, 10 s) that counts as short of it as well, while less"
        " than three times that memory is available; 100: never.",
        kinds.PERCENT,
    )
    disk_bytes: int = setting(
        0,
        "Free disk space below which the lowest priority is evicted; 0: a twentieth of all, at most 1Gi.",
        kinds.SIZE_OR_NONE,
    )
    inodes_percent: int = setting(3, "Free inodes below which the same happens.", kinds.PERCENT)
    battery_percent: int = setting(
        10, "How far above the owner's floor a battery takes no new work any more.", kinds.PERCENT
    )
    folders: tuple[str, ...] = setting(
        ("/var/lib/containerd",),
        "Folders whose file systems must not fill up, besides that of data_dir; ignored where they do not exist.",
    )


@dataclasses.dataclass(frozen=True)
class RuntimeConfig:
    names: tuple[str, ...] = setting(
        ("containerd", "process"), "Runtimes to use where the device has them.", kinds.RUNTIMES
    )
    containerd_address: str = setting("/run/containerd/containerd.sock", "containerd's socket.", kinds.FILE)
    containerd_snapshotter: str = setting("overlayfs", "containerd's snapshotter: overlayfs, or native where it fails.")
    containerd_namespace: str = setting(
        "cloudless", "containerd namespace that this agent owns.", kinds.CONTAINERD_NAMESPACE
    )
    cgroup_prefix: str = setting("cloudless", "Parent cgroup of this agent's containers.", kinds.CGROUP)
    bridge: str = setting("cloudless0", "Bridge of this node's replicas (at most 15 characters).", kinds.LINK_NAME)
    subnet: str = setting("10.88.0.0/24", "IPv4 subnet of that bridge.", kinds.SUBNET)
    process_address: str = setting(
        "127.0.0.1",
        "Address of this device that process replicas listen on (CLOUDLESS_ADDRESS) and are reported at.",
        kinds.IP_ADDRESS,
    )
    log_max_bytes: int = setting(16 * 2**20, "A container's log is rotated at this size.")


@dataclasses.dataclass(frozen=True)
class AgentConfig:
    """Settings of `cloudless-agent`."""

    data_dir: Path = setting(Path("/var/lib/cloudless/agent"), "Keys, journal and logs; mode 0700.", kinds.FOLDER)
    node_name: str = setting("", "Name of this node; empty: the host name.", kinds.OPTIONAL_NODE_NAME)
    coordinators: tuple[str, ...] = setting(
        (), "Addresses of coordinators; empty: those learnt at enrolment.", kinds.DIALLED
    )
    join_token_file: Path = setting(Path(), "File that holds a join token; used while the node is not enrolled.")
    device_class: str = setting(
        "", "phone, laptop, desktop, server, gateway or vps; empty: detected.", kinds.DEVICE_CLASS
    )
    labels: dict[str, str] = setting(
        {}, "Labels as a=b,c=d that this device says of itself; a label that an administrator sets wins.", kinds.LABELS
    )
    power_supply_dir: Path = setting(
        Path("/sys/class/power_supply"),
        "Where Linux shows batteries and mains; elsewhere in a container.",
        kinds.FOLDER,
    )
    owner: OwnerConfig = OwnerConfig()
    pressure: PressureConfig = PressureConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    log: LogConfig = LogConfig()
    metrics: AgentMetricsConfig = AgentMetricsConfig()
    tracing: TracingConfig = TracingConfig()


@dataclasses.dataclass(frozen=True)
class _Leaf:
    path: tuple[str, ...]  # as the manifest, flag and variable spell it
    attributes: tuple[str, ...]
    hint: Any
    default: Any
    doc: str
    kind: Kind

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
        kind = field.metadata.get("kind") or _kind_of(field.name, hint)
        doc = str(field.metadata.get("doc", ""))
        found.append(_Leaf((*path, name), (*attributes, field.name), hint, default, doc, kind))
    return found


def _kind_of(name: str, hint: Any) -> Kind:
    for ending, kind in (("_ms", kinds.DURATION), ("_bytes", kinds.SIZE), ("_millis", kinds.CPUS)):
        if name.endswith(ending):
            return kind
    if typing.get_origin(hint) in (tuple, dict):
        return kinds.TEXTS
    return {Path: kinds.FILE, int: kinds.NUMBER, float: kinds.NUMBER, bool: kinds.SWITCH}.get(hint, kinds.ANYTHING)


def _parse(leaf: _Leaf, value: Any, source: str) -> Any:
    try:
        parsed = _parsed(leaf, value)
        leaf.kind.check(parsed)
    except ValueError as error:
        raise InvalidArgument(f"{source}: {error}", reason="BadSetting") from None
    return parsed


def _parsed(leaf: _Leaf, value: Any) -> Any:
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    for ending, (parse, _) in _QUANTITIES.items():
        if leaf.attributes[-1].endswith(ending):
            return parse(text)
    if leaf.hint is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{text!r} is not true or false")
        return text.lower() == "true"
    if leaf.hint is int or leaf.hint is float:
        return leaf.hint(text)
    if leaf.hint is Path:
        # Absolute, because helper processes are started in other folders.
        return Path(text).absolute() if text else Path()
    if typing.get_origin(leaf.hint) is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if typing.get_origin(leaf.hint) is dict:
        if isinstance(value, Mapping):
            return {str(k): str(v) for k, v in value.items()}
        return _pairs(text)
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
    return str(leaf.default).lower() if leaf.hint is bool else str(leaf.default)


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


def load(cls: type[C], program: str, argv: Sequence[str], environment: Mapping[str, str], *, about: str = "") -> C:
    """The configuration from flags, environment and `--config FILE`; `about` says in the help what the program is.
    Exits with 2 on a bad flag, as argparse does; raises InvalidArgument (BadSetting) for a bad value, naming where it
    stands."""
    parser = argparse.ArgumentParser(
        program,
        usage="%(prog)s [--config FILE] [SETTING ...]",
        description=about or cls.__doc__,
        epilog=_PRECEDENCE,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{program} {__version__}")
    parser.add_argument(
        "--config",
        metavar="FILE",
        default=environment.get("CLOUDLESS_CONFIG_FILE", ""),
        help="YAML file of settings, as config/*.example.yaml show it (or CLOUDLESS_CONFIG_FILE).",
    )
    every = leaves(typing.cast(type, cls))
    for leaf in every:
        shown = _show(leaf)
        default = f" [default: {shown}]" if shown else ""
        parser.add_argument(
            leaf.flag, dest=leaf.flag, metavar=leaf.kind.metavar, help=(leaf.doc + default).replace("%", "%%")
        )
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


def overlaid(cls: type[C], path: Path, *, under: Mapping[str, Any]) -> C:
    """A flat configuration object from the YAML file `path`, and where that says nothing from `under` (by attribute).
    Raises InvalidArgument (BadSetting) that names the file and what is wrong with it."""
    known = {leaf.path: leaf for leaf in leaves(typing.cast(type, cls))}
    values: dict[tuple[str, ...], Any] = {(name,): value for name, value in under.items()}
    for key, value in _from_file(path, known).items():
        values[known[key].attributes] = _parse(known[key], value, f"{path}: {'.'.join(key)}")
    return build(cls, values)


def example(cls: type) -> str:
    """The commented example file: every setting with its documentation and default."""
    lines = [f"# {(cls.__doc__ or '').strip()} Every line shows the default.", ""]
    open_section: tuple[str, ...] = ()
    for leaf in leaves(cls):
        section = leaf.path[:-1]
        for depth, name in enumerate(section):
            if section[: depth + 1] != open_section[: depth + 1]:
                lines += ["", f"{'  ' * depth}{name}:"]
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
