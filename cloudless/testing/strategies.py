"""Hypothesis strategies for domain objects.

`instances(cls)` makes any instance that the wire can carry, valid or not; `workloads()` makes workloads that
validate, as a user could write them.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Union

from hypothesis import strategies as st

from cloudless.core.replacing import replace
from cloudless.core.spec import (
    Affinity,
    AntiAffinity,
    Backoff,
    Capabilities,
    Completion,
    ConcurrencyPolicy,
    Container,
    ContainerPort,
    Disruption,
    EnvVar,
    ExecProbe,
    GrpcProbe,
    HttpProbe,
    Metadata,
    MissedRuns,
    Placement,
    Probe,
    Protocol,
    ReconnectRule,
    ResourceAmounts,
    Resources,
    RestartPolicy,
    RestartPolicyKind,
    Rollout,
    RolloutStrategy,
    Schedule,
    SecurityContext,
    SecurityProfile,
    SpreadConstraint,
    TaintEffect,
    TcpProbe,
    Termination,
    Toleration,
    WorkloadSpec,
    WorkloadType,
)

INT32 = st.integers(-(2**31), 2**31 - 1)
UINT32 = st.integers(0, 2**32 - 1)
_UNSIGNED = frozenset({"log_schema", "schema"})  # fields that the wire has as uint32
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)


def instances(cls: type) -> st.SearchStrategy[Any]:
    """Any instance of a domain dataclass: every field independently of every other."""
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    values = {name: UINT32 if name in _UNSIGNED else _values(hints[name]) for name in names}
    return st.builds(cls, **values)


def _values(hint: Any) -> st.SearchStrategy[Any]:
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        inner = next(arg for arg in typing.get_args(hint) if arg is not type(None))
        return st.none() | _values(inner)
    if origin is tuple:
        return st.lists(_values(typing.get_args(hint)[0]), max_size=2).map(tuple)
    if origin is not None and issubclass(origin, Mapping):
        return st.dictionaries(TEXT, TEXT, max_size=2)
    if dataclasses.is_dataclass(hint):
        # Not deferred: the domain's types do not contain themselves.
        return instances(typing.cast(type, hint))
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return st.sampled_from(list(hint))
    scalars: dict[Any, st.SearchStrategy[Any]] = {
        str: TEXT,
        bytes: st.binary(max_size=20),
        int: INT32,
        bool: st.booleans(),
        float: st.floats(allow_nan=False),
    }
    return scalars[hint]


NAMES = st.from_regex(r"\A[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?\Z")
LABEL_KEYS = st.from_regex(r"\A([a-z0-9]{1,8}(\.[a-z]{1,4})?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,10}[A-Za-z0-9])?\Z")
LABEL_VALUES = st.from_regex(r"\A([A-Za-z0-9]([A-Za-z0-9_.-]{0,10}[A-Za-z0-9])?)?\Z")
LABELS = st.dictionaries(LABEL_KEYS, LABEL_VALUES, max_size=3)
_ARGUMENTS = st.lists(TEXT.filter(lambda text: "\0" not in text), max_size=3).map(tuple)
_COMMANDS = st.tuples(st.sampled_from(["/bin/sh", "python3", "true"]), _ARGUMENTS).map(lambda t: (t[0], *t[1]))
_IMAGES = st.sampled_from(
    ["nginx", "cloudless.local/web:demo", "docker.io/library/nginx:1.27", "localhost:5000/a/b@sha256:" + "0" * 64]
)
_DURATIONS = st.integers(0, 3_600_000)
_PORTS = st.integers(1, 65535)
_ENVIRONMENT = st.dictionaries(
    st.from_regex(r"\A[A-Za-z_][A-Za-z0-9_]{0,10}\Z"), TEXT.filter(lambda text: "\0" not in text), max_size=3
).map(lambda table: tuple(EnvVar(name, value) for name, value in table.items()))


@st.composite
def _resources(draw: st.DrawFn) -> Resources:
    def pair(lowest: int, highest: int) -> tuple[int, int]:
        request = draw(st.just(0) | st.integers(lowest, highest))
        return request, draw(st.just(0) | st.integers(max(lowest, request), highest))

    cpu, memory, pids = pair(10, 64_000), pair(2**20, 2**40), pair(1, 10_000)
    storage, egress = draw(st.integers(0, 2**44)), draw(st.integers(0, 10**11))
    return Resources(
        ResourceAmounts(cpu[0], memory[0], storage, egress, pids[0]), ResourceAmounts(cpu[1], memory[1], 0, 0, pids[1])
    )


@st.composite
def _probes(draw: st.DrawFn, ports: tuple[ContainerPort, ...]) -> Probe:
    port = st.sampled_from([port.name for port in ports if port.name] + ["8080", "1"])
    headers = st.dictionaries(st.from_regex(r"\AX-[A-Za-z]{1,5}\Z"), LABEL_VALUES, max_size=2)
    paths = st.sampled_from(["", "/", "/healthz?full=1"])
    kind: dict[str, Any] = draw(
        st.fixed_dictionaries(
            {"http": st.builds(HttpProbe, paths, port, st.sampled_from(["", "HTTP", "HTTPS"]), headers)}
        )
        | st.fixed_dictionaries({"tcp": st.builds(TcpProbe, port)})
        | st.fixed_dictionaries({"exec": st.builds(ExecProbe, _COMMANDS)})
        | st.fixed_dictionaries({"grpc": st.builds(GrpcProbe, port, LABEL_VALUES)})
    )
    return Probe(
        **kind,
        initial_delay_ms=draw(_DURATIONS),
        period_ms=draw(_DURATIONS),
        timeout_ms=draw(_DURATIONS),
        success_threshold=draw(st.integers(0, 5)),
        failure_threshold=draw(st.integers(0, 5)),
    )


_CAPABILITIES = st.builds(
    Capabilities,
    drop=st.sampled_from([(), ("ALL",), ("NET_RAW", "CHOWN")]),
    add=st.sampled_from([(), ("NET_BIND_SERVICE",), ("SYS_TIME", "KILL")]),
)
_PROFILES = st.builds(SecurityProfile, st.sampled_from(["RuntimeDefault", "Unconfined"]))
_CONTEXTS = st.builds(
    SecurityContext,
    run_as_non_root=st.none() | st.booleans(),
    run_as_user=st.none() | st.integers(1, 2**31),
    run_as_group=st.none() | st.integers(0, 2**31),
    read_only_root_filesystem=st.none() | st.booleans(),
    capabilities=st.none() | _CAPABILITIES,
    privileged=st.sampled_from([None, False]),
    host_network=st.sampled_from([None, False]),
    seccomp_profile=st.none() | _PROFILES,
    app_armor_profile=st.none() | _PROFILES,
)


@st.composite
def _container(draw: st.DrawFn, name: str, *, process: bool, numbers: list[int]) -> Container:
    ports = tuple(
        ContainerPort(f"p{number}" if draw(st.booleans()) else "", number, draw(st.sampled_from([None, *Protocol])))
        for number in numbers
    )
    probe = st.none() | _probes(ports)
    return Container(
        name=name,
        image="" if process else draw(_IMAGES),
        process=draw(_COMMANDS) if process else (),
        command=() if process else draw(_ARGUMENTS),
        args=() if process else draw(_ARGUMENTS),
        working_dir=draw(st.sampled_from(["", "/srv"])),
        env=draw(_ENVIRONMENT),
        ports=ports,
        resources=draw(_resources()),
        startup_probe=draw(probe),
        liveness_probe=draw(probe),
        readiness_probe=draw(probe),
        security_context=draw(st.none() | _CONTEXTS),
    )


@st.composite
def _placements(draw: st.DrawFn) -> Placement:
    names = st.lists(LABEL_VALUES.filter(bool), max_size=2, unique=True).map(tuple)
    topology = st.sampled_from(["node", "zone", "region", "rack"])
    toleration = st.builds(
        Toleration,
        key=LABEL_KEYS,
        operator=st.sampled_from(["", "Equal"]),
        value=LABEL_VALUES,
        effect=st.none() | st.sampled_from(TaintEffect),
    ) | st.just(Toleration(operator="Exists"))
    wish = st.builds(Affinity, workload=st.just("") | NAMES, topology_key=topology, weight=st.integers(0, 100))
    labelled = st.builds(Affinity, match_labels=LABELS, topology_key=topology)
    return Placement(
        regions=draw(names),
        zones=draw(names),
        required=draw(st.booleans()),
        node_selector=draw(LABELS),
        tolerations=draw(st.lists(toleration, max_size=2).map(tuple)),
        anti_affinity=draw(
            st.lists(st.builds(AntiAffinity, st.just("") | NAMES, topology, st.booleans()), max_size=2).map(tuple)
        ),
        affinity=draw(st.lists(wish | labelled, max_size=2).map(tuple)),
        spread=tuple(
            SpreadConstraint(key, draw(st.integers(0, 5)), draw(st.booleans()))
            for key in draw(st.lists(topology, max_size=2, unique=True))
        ),
    )


@st.composite
def workloads(draw: st.DrawFn) -> tuple[Metadata, WorkloadSpec]:
    """A workload that validates, with a namespace, before its defaults are filled in."""
    metadata = Metadata(draw(NAMES), draw(NAMES), draw(LABELS), draw(st.dictionaries(LABEL_KEYS, TEXT, max_size=2)))
    process = draw(st.booleans())
    names = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    numbers = draw(st.lists(_PORTS, max_size=3, unique=True))
    replicas = draw(st.integers(0, 100))
    initial = draw(_DURATIONS)
    recreate = draw(st.booleans())
    spec = WorkloadSpec(
        type=draw(st.sampled_from([None, WorkloadType.SERVICE, WorkloadType.SYSTEM])),
        replicas=replicas,
        priority=draw(st.integers(0, 100)),
        containers=tuple(
            draw(_container(name, process=process, numbers=numbers[index :: len(names)]))
            for index, name in enumerate(names)
        ),
        placement=draw(_placements()),
        restart_policy=RestartPolicy(
            draw(st.none() | st.sampled_from(RestartPolicyKind)),
            draw(st.integers(0, 10)),
            Backoff(initial, draw(st.just(0) | st.integers(initial, 7_200_000)), draw(_DURATIONS)),
        ),
        rollout=Rollout(
            RolloutStrategy.RECREATE if recreate else draw(st.sampled_from([None, RolloutStrategy.ROLLING_UPDATE])),
            draw(st.integers(0, 5)),
            draw(st.integers(0, 5)),
            0 if recreate else draw(st.integers(0, replicas)),
            draw(_DURATIONS),
        ),
        disruption=Disruption(draw(_DURATIONS), draw(st.none() | st.sampled_from(ReconnectRule))),
        termination=Termination(draw(_DURATIONS)),
        security_context=draw(st.none() | _CONTEXTS),
    )
    return metadata, draw(_of_runs(spec)) if draw(st.integers(0, 3)) == 3 else spec


@st.composite
def _of_runs(draw: st.DrawFn, spec: WorkloadSpec) -> WorkloadSpec:
    """The same containers as a job or a cron."""
    cron = draw(st.booleans())
    missed = draw(st.none() | st.sampled_from(MissedRuns))
    concurrency = [None, ConcurrencyPolicy.ALLOW, ConcurrencyPolicy.FORBID]
    schedule = Schedule(
        draw(st.sampled_from(["*/5 * * * *", "30 2 * * MON-FRI", "0 0 29 2 *", "@daily"])),
        draw(st.sampled_from(["", "UTC", "Europe/Berlin", "Australia/Lord_Howe"])),
        draw(
            st.sampled_from(concurrency if missed is MissedRuns.RUN_ALL else [*concurrency, ConcurrencyPolicy.REPLACE])
        ),
        missed,
        draw(st.integers(0, 50)),
        draw(st.booleans()),
    )
    ttl_ms = 0 if cron else draw(_DURATIONS)
    completion = Completion(draw(st.integers(0, 9)), draw(st.integers(0, 99)), ttl_ms, draw(_DURATIONS))
    policy = draw(st.sampled_from([None, RestartPolicyKind.ON_FAILURE, RestartPolicyKind.NEVER]))
    return replace(
        spec,
        type=WorkloadType.CRON if cron else WorkloadType.JOB,
        replicas=draw(st.integers(0, 1)),
        rollout=Rollout(),
        restart_policy=replace(spec.restart_policy, policy=policy),
        schedule=schedule if cron else None,
        completion=draw(st.none() | st.just(completion)),
    )
