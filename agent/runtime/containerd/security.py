"""What a container may do: its merged security context, capabilities and seccomp filter. Pure."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cloudless.core.spec import Capabilities, SecurityContext, SecurityProfile
from cloudless.errors import InvalidArgument

# What servers need to give up root and to bind a low port. Docker's list without device nodes, raw sockets,
# chroot, audit and the setting of other programs' capabilities.
DEFAULT_CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_NET_BIND_SERVICE",
)
# in the order of linux/capability.h: the position is the number
_NAMES = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT
SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL
SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""
ALL_CAPABILITIES = tuple(f"CAP_{name}" for name in _NAMES.split())


@dataclasses.dataclass(frozen=True, slots=True)
class CapabilitySet:
    granted: tuple[str, ...]
    added: tuple[str, ...]  # those asked for by name; a program that is not root keeps them as well


def merge(workload: SecurityContext | None, container: SecurityContext | None) -> SecurityContext:
    """The container's context over the workload's, field by field."""
    base, over = workload or SecurityContext(), container or SecurityContext()
    merged: dict[str, Any] = {}
    for field in dataclasses.fields(SecurityContext):
        value = getattr(over, field.name)
        merged[field.name] = value if value not in (None, "") else getattr(base, field.name)
    return SecurityContext(**merged)


def effective_capabilities(wanted: Capabilities | None, *, host: Iterable[str], privileged: bool) -> CapabilitySet:
    """Default list, minus `drop`, plus `add`; ALL is understood in both. Raises InvalidArgument for a name that
    does not exist, or that this host cannot grant (the OCI runtimes ignore both in silence)."""
    available = frozenset(host)
    if privileged:
        return CapabilitySet(tuple(name for name in ALL_CAPABILITIES if name in available), ())
    wanted = wanted or Capabilities()
    drop = {_canonical(name) for name in wanted.drop}
    add = {_canonical(name) for name in wanted.add}
    granted = set() if "ALL" in drop else set(DEFAULT_CAPABILITIES) - drop
    added = set(ALL_CAPABILITIES) & available if "ALL" in add else add
    if refused := sorted(added - available):
        raise InvalidArgument(f"this node cannot grant {', '.join(refused)}", reason="CapabilityUnavailable")
    granted = (granted & available) | added
    return CapabilitySet(
        tuple(name for name in ALL_CAPABILITIES if name in granted),
        tuple(name for name in ALL_CAPABILITIES if name in added),
    )


def host_capabilities(mask: int) -> tuple[str, ...]:
    """The names in a capability mask, as /proc/PID/status shows it."""
    return tuple(name for number, name in enumerate(ALL_CAPABILITIES) if mask >> number & 1)


def _canonical(name: str) -> str:
    upper = name.upper()
    full = upper if upper in ("ALL",) or upper.startswith("CAP_") else f"CAP_{upper}"
    if full != "ALL" and full not in ALL_CAPABILITIES:
        raise InvalidArgument(f"there is no capability {name!r}", reason="UnknownCapability")
    return full


def seccomp_filter(
    profile: Mapping[str, Any], *, architecture: str, capabilities: Sequence[str], strict: bool = False
) -> dict[str, Any]:
    """A profile in Docker's format as the OCI runtime spec wants it: only the rules that hold on this architecture
    and with these capabilities."""
    removed = frozenset(profile.get("strict", ())) if strict else frozenset()
    architectures: list[str] = []
    for entry in profile["archMap"]:
        if entry["name"] == architecture:
            architectures = [entry["architecture"], *entry["subArchitectures"]]
    rules = []
    for rule in profile["syscalls"]:
        if not _holds(rule, architecture, capabilities):
            continue
        names = [name for name in rule["names"] if name not in removed]
        if names:
            kept = {key: rule[key] for key in ("action", "errnoRet", "args") if key in rule}
            rules.append({"names": names, **kept})
    return {
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": architectures,
        "syscalls": rules,
    }


def seccomp_for(
    wanted: SecurityProfile | None, *, profile: Mapping[str, Any], architecture: str, capabilities: Sequence[str]
) -> dict[str, Any] | None:
    """The filter that a security context asks for; None: unconfined. Not stated means RuntimeDefault."""
    kind = (wanted.type if wanted else "") or "RuntimeDefault"
    if kind == "Unconfined":
        return None
    if kind not in ("RuntimeDefault", "Strict"):
        raise InvalidArgument(
            f"the seccomp profile {kind!r} is not known",
            reason="UnknownProfile",
            remedy="use RuntimeDefault, Strict or Unconfined",
        )
    return seccomp_filter(profile, architecture=architecture, capabilities=capabilities, strict=kind == "Strict")


def load_profile(text: str) -> Mapping[str, Any]:
    profile: Mapping[str, Any] = json.loads(text)
    return profile


def _holds(rule: Mapping[str, Any], architecture: str, capabilities: Sequence[str]) -> bool:
    includes, excludes = rule.get("includes", {}), rule.get("excludes", {})
    if "arches" in includes and architecture not in includes["arches"]:
        return False
    if "caps" in includes and not set(includes["caps"]) & set(capabilities):
        return False
    if architecture in excludes.get("arches", ()):
        return False
    return not set(excludes.get("caps", ())) & set(capabilities)
