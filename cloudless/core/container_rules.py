"""Rules for the containers of a workload: what they run, their ports, resources, probes and security context."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from cloudless.core.labels import is_dns_label
from cloudless.core.quantity import format_bitrate, format_bytes, format_cpu
from cloudless.core.spec import (
    Capabilities,
    Container,
    ContainerPort,
    ExecProbe,
    HttpProbe,
    Probe,
    Protocol,
    Resources,
    SecurityContext,
)
from cloudless.core.violations import Violation, bounded, duration, printable, unsupported

CONTAINERS_MAX: Final = 32
ENV_MAX: Final = 1000
PORTS_MAX: Final = 100
TEXT_BYTES_MAX: Final = 128 * 2**10  # of one argument or variable, as Linux limits it
AMOUNT_MAX: Final = 2**60
MEMORY_LIMIT_BYTES_MIN: Final = 2**20
CPU_LIMIT_MILLIS_MIN: Final = 10  # below it the quota is under the kernel's least of 1000 us
ID_MAX: Final = 2**32 - 2

CAPABILITIES: Final = frozenset(
    """AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE DAC_READ_SEARCH
    FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD NET_ADMIN
    NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_ADMIN SYS_BOOT SYS_CHROOT
    SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG WAKE_ALARM""".split()  # noqa: SIM905
)
SECCOMP_TYPES: Final = ("RuntimeDefault", "Unconfined")
RUNTIME_CLASSES: Final = ("runc", "process")
LATER_RUNTIME_CLASSES: Final = ("crun", "gvisor", "kata", "firecracker", "wasm")

_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_PORT_NAME: Final = re.compile(r"(?=.*[a-z])[a-z0-9](?:[a-z0-9-]{0,13}[a-z0-9])?")
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_DOMAIN: Final = (
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*(?::\d{1,5})?"
)
_COMPONENT: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_IMAGE: Final = re.compile(
    rf"(?:{_DOMAIN}/)?{_COMPONENT}(?:/{_COMPONENT})*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?(?:@sha256:[0-9a-f]{{64}})?",
    re.ASCII,
)
_IMAGE_LENGTH_MAX: Final = 512


def is_image_reference(text: str) -> bool:
    """`[registry[:port]/]name[/name...][:tag][@sha256:digest]`, as the OCI distribution specification writes it."""
    return len(text) <= _IMAGE_LENGTH_MAX and _IMAGE.fullmatch(text) is not None


def containers_violations(containers: Sequence[Container], path: str) -> Iterator[Violation]:
    """Rules that hold between the containers of one workload, which share a network and a runtime."""
    if not containers:
        yield Violation(path, "a workload needs at least one container", "add one with a name and an image")
    if len(containers) > CONTAINERS_MAX:
        yield Violation(path, f"{len(containers)} containers are too many", f"use at most {CONTAINERS_MAX}")
    names: dict[str, int] = {}
    ports: dict[tuple[Protocol, int], str] = {}
    host_ports: dict[tuple[Protocol, int], str] = {}
    for index, container in enumerate(containers):
        here = f"{path}[{index}]"
        if container.name in names:
            first = f"{path}[{names[container.name]}]"
            yield Violation(f"{here}.name", f"the name {container.name!r} is already used by {first}", "rename one")
        elif container.name:
            names[container.name] = index
        if bool(container.process) is not bool(containers[0].process) and (container.process or container.image):
            yield Violation(here, "a workload cannot mix images and processes", "split it into two workloads")
        for number, port in enumerate(container.ports):
            yield from _taken(ports, port, port.container_port, f"{here}.ports[{number}].containerPort")
            if port.host_port:
                yield from _taken(host_ports, port, port.host_port, f"{here}.ports[{number}].hostPort")


def _taken(taken: dict[tuple[Protocol, int], str], port: ContainerPort, number: int, path: str) -> Iterator[Violation]:
    protocol = port.protocol or Protocol.TCP
    first = taken.setdefault((protocol, number), path)
    if first != path:
        yield Violation(path, f"port {number}/{protocol} is already used by {first}", "use another port")


def container_violations(container: Container, path: str) -> Iterator[Violation]:
    """Rules of one container by itself."""
    if not is_dns_label(container.name):
        what = f"{container.name!r} is not a valid name" if container.name else "a name is required"
        yield Violation(f"{path}.name", what, "use at most 63 of a-z, 0-9 and -, with a letter or digit at both ends")
    yield from _source(container, path)
    for field in ("process", "command", "args"):
        for index, text in enumerate(getattr(container, field)):
            yield from _text(text, f"{path}.{field}[{index}]")
    if container.working_dir and not container.working_dir.startswith("/"):
        yield Violation(f"{path}.workingDir", f"{container.working_dir!r} is not absolute", "start it with /")
    yield from _text(container.working_dir, f"{path}.workingDir")
    yield from _env(container, path)
    yield from _ports(container.ports, f"{path}.ports")
    yield from resource_violations(container.resources, f"{path}.resources")
    for key, probe in (
        ("startupProbe", container.startup_probe),
        ("livenessProbe", container.liveness_probe),
        ("readinessProbe", container.readiness_probe),
    ):
        if probe is not None:
            yield from _probe(probe, container.ports, f"{path}.{key}")
    if container.security_context is not None:
        yield from security_violations(container.security_context, f"{path}.securityContext")
        yield from _runtime_class(container, container.security_context.runtime_class_name, path)


def _source(container: Container, path: str) -> Iterator[Violation]:
    if container.image and container.process:
        yield Violation(f"{path}.process", "a container has either an image or a process", "remove one of the two")
    elif container.process:
        if not container.process[0]:
            yield Violation(f"{path}.process[0]", "the program is empty", "write the program's path or name")
        for field in ("command", "args"):
            if getattr(container, field):
                yield Violation(f"{path}.{field}", f"{field} goes with an image", "write the whole argv in process")
    elif not container.image:
        yield Violation(f"{path}.image", "an image is required", "name one, such as docker.io/library/nginx:1.27")
    if container.image and not is_image_reference(container.image):
        yield Violation(
            f"{path}.image",
            f"{container.image[:80]!r} is not an image reference",
            "write registry/name:tag or registry/name@sha256:digest, the name in lower case",
        )


def _text(text: str, path: str) -> Iterator[Violation]:
    yield from printable(text, path)
    if len(text) > TEXT_BYTES_MAX:
        yield Violation(path, "the text is too long", f"use at most {format_bytes(TEXT_BYTES_MAX)}")


def _env(container: Container, path: str) -> Iterator[Violation]:
    if len(container.env) > ENV_MAX:
        yield Violation(f"{path}.env", f"{len(container.env)} variables are too many", f"use at most {ENV_MAX}")
    seen: dict[str, int] = {}
    for index, variable in enumerate(container.env):
        here = f"{path}.env[{index}]"
        if not variable.name:
            yield Violation(f"{here}.name", "a name is required", "name the variable")
        elif _ENV_NAME.fullmatch(variable.name) is None:
            remedy = "use letters, digits, _, . and -, not starting with a digit"
            yield Violation(f"{here}.name", f"{variable.name[:80]!r} is not a variable's name", remedy)
        elif variable.name in seen:
            first = f"{path}.env[{seen[variable.name]}]"
            yield Violation(f"{here}.name", f"{variable.name!r} is already set by {first}", "remove one of the two")
        seen.setdefault(variable.name, index)
        yield from _text(variable.value, f"{here}.value")


def _ports(ports: Sequence[ContainerPort], path: str) -> Iterator[Violation]:
    if len(ports) > PORTS_MAX:
        yield Violation(path, f"{len(ports)} ports are too many", f"use at most {PORTS_MAX}")
    names: dict[str, int] = {}
    for index, port in enumerate(ports):
        here = f"{path}[{index}]"
        if port.name and _PORT_NAME.fullmatch(port.name) is None:
            remedy = "use at most 15 of a-z, 0-9 and -, with at least one letter"
            yield Violation(f"{here}.name", f"{port.name[:80]!r} is not a port's name", remedy)
        elif port.name and port.name in names:
            first = f"{path}[{names[port.name]}]"
            yield Violation(f"{here}.name", f"the name {port.name!r} is already used by {first}", "rename one")
        names.setdefault(port.name, index)
        if port.container_port == 0:
            yield Violation(f"{here}.containerPort", "a port number is required", "use a number from 1 to 65535")
        else:
            yield from bounded(port.container_port, f"{here}.containerPort", lowest=1, highest=65535)
        yield from bounded(port.host_port, f"{here}.hostPort", lowest=0, highest=65535)


_AMOUNTS: Final = (
    ("cpu", "cpu_millis", format_cpu),
    ("memory", "memory_bytes", format_bytes),
    ("storage", "storage_bytes", format_bytes),
    ("egress", "egress_bps", format_bitrate),
    ("pids", "pids", str),
)


def resource_violations(resources: Resources, path: str) -> Iterator[Violation]:
    """Nothing negative, no request above its limit, and no limit under which nothing could start."""
    for key, attribute, write in _AMOUNTS:
        request, limit = getattr(resources.requests, attribute), getattr(resources.limits, attribute)
        for side, amount in (("requests", request), ("limits", limit)):
            if amount < 0:
                yield Violation(f"{path}.{side}.{key}", "an amount cannot be negative", "leave it out or raise it")
            elif amount > AMOUNT_MAX:
                yield Violation(f"{path}.{side}.{key}", "the amount is too large", f"use at most {write(AMOUNT_MAX)}")
        if 0 < limit < request:
            what = f"the request {write(request)} is above the limit {write(limit)}"
            yield Violation(f"{path}.requests.{key}", what, "lower the request or raise the limit")
    if 0 < resources.limits.cpu_millis < CPU_LIMIT_MILLIS_MIN:
        what = f"{format_cpu(resources.limits.cpu_millis)} is too little to run on"
        yield Violation(f"{path}.limits.cpu", what, f"use at least {format_cpu(CPU_LIMIT_MILLIS_MIN)}")
    if 0 < resources.limits.memory_bytes < MEMORY_LIMIT_BYTES_MIN:
        what = f"{resources.limits.memory_bytes} bytes are too few to start in"
        yield Violation(f"{path}.limits.memory", what, "use at least 1Mi; a unit may be missing, as in 128Mi")
    if resources.limits.storage_bytes > 0:
        yield unsupported(f"{path}.limits.storage", "a storage limit", "remove it; requests.storage reserves")
    if resources.limits.egress_bps > 0:
        yield unsupported(f"{path}.limits.egress", "an egress limit", "remove it; requests.egress reserves")


def _probe(probe: Probe, ports: Sequence[ContainerPort], path: str) -> Iterator[Violation]:
    kinds = [key for key in ("http", "tcp", "exec", "grpc") if getattr(probe, key) is not None]
    if len(kinds) != 1:
        what = f"a probe has one kind, not {' and '.join(kinds)}" if kinds else "a probe needs a kind"
        yield Violation(path, what, "give exactly one of http, tcp, exec and grpc")
    if probe.http is not None:
        yield from http_violations(probe.http, ports, f"{path}.http")
    if probe.tcp is not None:
        yield from _probe_port(probe.tcp.port, ports, f"{path}.tcp.port")
    if probe.grpc is not None:
        yield from _probe_port(probe.grpc.port, ports, f"{path}.grpc.port")
    if probe.exec is not None:
        yield from command_violations(probe.exec, f"{path}.exec")
    yield from duration(probe.initial_delay_ms, f"{path}.initialDelay")
    yield from duration(probe.period_ms, f"{path}.period")
    yield from duration(probe.timeout_ms, f"{path}.timeout")
    # Zero is "not stated" here; the manifest reader refuses one that was written.
    yield from bounded(probe.success_threshold, f"{path}.successThreshold", lowest=0, highest=1000)
    yield from bounded(probe.failure_threshold, f"{path}.failureThreshold", lowest=0, highest=1000)


def http_violations(http: HttpProbe, ports: Sequence[ContainerPort], path: str) -> Iterator[Violation]:
    """Rules of a page that is asked for: of a container with these ports."""
    yield from _probe_port(http.port, ports, f"{path}.port")
    if http.path and (not http.path.startswith("/") or not http.path.isprintable() or " " in http.path):
        remedy = "start it with /" if not http.path.startswith("/") else "write a space as %20"
        yield Violation(f"{path}.path", f"{http.path[:80]!r} is not a path", remedy)
    if http.scheme not in ("", "HTTP", "HTTPS"):
        yield Violation(f"{path}.scheme", f"{http.scheme[:80]!r} is not a scheme", "use HTTP or HTTPS")
    for name, value in sorted(http.headers.items()):
        if _HEADER_NAME.fullmatch(name) is None or any(c in value for c in "\r\n\0"):
            yield Violation(f"{path}.headers.{name}", "this is not an HTTP header", "name it as in X-Probe: 1")


def command_violations(program: ExecProbe, path: str) -> Iterator[Violation]:
    """Rules of a command that is run in a container."""
    if not program.command or not program.command[0]:
        yield Violation(f"{path}.command", "a command is required", "write it as a list of words")
    for index, text in enumerate(program.command):
        yield from _text(text, f"{path}.command[{index}]")


def _probe_port(text: str, ports: Sequence[ContainerPort], path: str) -> Iterator[Violation]:
    if not text:
        yield Violation(path, "a port is required", "write a port's number or name")
    elif text.isascii() and text.isdigit():
        yield from bounded(int(text[:9]), path, lowest=1, highest=65535)
    elif not any(port.name == text for port in ports):
        names = ", ".join(port.name for port in ports if port.name) or "none"
        what = f"the container has no port named {text[:80]!r}"
        yield Violation(path, what, f"use a number or one of its named ports ({names})")


def security_violations(context: SecurityContext, path: str) -> Iterator[Violation]:
    """Rules of a security context, the workload's or a container's."""
    if context.run_as_non_root and context.run_as_user == 0:
        yield Violation(f"{path}.runAsUser", "user 0 contradicts runAsNonRoot", "use another user id")
    for key, value in (("runAsUser", context.run_as_user), ("runAsGroup", context.run_as_group)):
        if value is not None:
            yield from bounded(value, f"{path}.{key}", lowest=0, highest=ID_MAX)
    if context.capabilities is not None:
        yield from _capabilities(context.capabilities, f"{path}.capabilities")
    if context.privileged:
        yield unsupported(f"{path}.privileged", "a privileged container", "remove it; add single capabilities")
    if context.host_network:
        yield unsupported(f"{path}.hostNetwork", "the host's network", "remove it; publish ports with hostPort")
    for key, profile in (
        ("seccompProfile", context.seccomp_profile),
        ("appArmorProfile", context.app_armor_profile),
    ):
        if profile is None or profile.type in SECCOMP_TYPES:
            continue
        here = f"{path}.{key}.type"
        if profile.type in ("Strict", "Localhost"):
            yield unsupported(here, f"the profile {profile.type}", f"use {' or '.join(SECCOMP_TYPES)}")
        elif not profile.type:
            yield Violation(here, "a profile needs a type", f"use {' or '.join(SECCOMP_TYPES)}")
        else:
            what = f"{profile.type[:80]!r} is not a profile type"
            yield Violation(here, what, f"use {' or '.join(SECCOMP_TYPES)}")
    name = context.runtime_class_name
    if name in LATER_RUNTIME_CLASSES:
        yield unsupported(f"{path}.runtimeClassName", f"the runtime class {name}", "leave it out")
    elif name and name not in RUNTIME_CLASSES:
        what = f"{name[:80]!r} is not a runtime class"
        yield Violation(f"{path}.runtimeClassName", what, f"use {' or '.join(RUNTIME_CLASSES)}, or leave it out")


def runtime_class_violations(containers: Sequence[Container], name: str, path: str) -> Iterator[Violation]:
    """The workload's runtime class against what its containers are."""
    for container in containers:
        if not (container.security_context and container.security_context.runtime_class_name):
            yield from _mismatch(container, name, f"{path}.runtimeClassName")
            return


def _runtime_class(container: Container, name: str, path: str) -> Iterator[Violation]:
    yield from _mismatch(container, name, f"{path}.securityContext.runtimeClassName")


def _mismatch(container: Container, name: str, path: str) -> Iterator[Violation]:
    if (name == "process" and container.image) or (name == "runc" and container.process):
        have = "an image" if container.image else "a process"
        yield Violation(
            path, f"the runtime class {name} cannot run {have}", "leave it out; it follows from the container"
        )


def _capabilities(capabilities: Capabilities, path: str) -> Iterator[Violation]:
    for key, names in (("drop", capabilities.drop), ("add", capabilities.add)):
        for index, name in enumerate(names):
            here = f"{path}.{key}[{index}]"
            if name in CAPABILITIES or (name == "ALL" and key == "drop"):
                continue
            bare = name.upper().removeprefix("CAP_")
            if name == "ALL":
                yield Violation(here, "ALL cannot be added", "add the capabilities by name")
            elif bare in CAPABILITIES:
                yield Violation(here, f"{name!r} is not spelled as expected", f"write {bare}")
            else:
                remedy = "use a name of capabilities(7) without CAP_, such as NET_BIND_SERVICE"
                yield Violation(here, f"{name[:80]!r} is not a capability", remedy)
