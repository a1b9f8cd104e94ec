"""The manifest's fields, derived from the dataclasses: what reading, writing and explaining a manifest share.

A field's key is its name in lowerCamelCase, or the one that its `quantity` metadata gives. What the manifest
knows but this version does not honour is listed here, apart from what is unknown.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any, Final, Literal, Union

from cloudless.core.fields import KEY, KIND
from cloudless.core.spec import (
    Container,
    EnvVar,
    Metadata,
    SecurityContext,
    SecurityProfile,
    WorkloadSpec,
)

API_VERSION: Final = "cloudless.dev/v1"
KINDS: Final = ("Workload",)
LATER_KINDS: Final = frozenset(
    {"Service", "Secret", "Policy", "Namespace", "Bucket", "Node", "Deployment", "StatefulSet", "DaemonSet", "Job"}
    | {"CronJob", "ConfigMap", "Pod", "List"}
)

Kind = Literal[
    "text", "number", "switch", "choice", "object", "list", "map", "cpu", "bytes", "bitrate", "duration", "pause",
    "port", "seconds",
]  # fmt: skip


@dataclass(frozen=True)
class Type:
    """How a value is written. `cls` is the enum of a choice or the dataclass of an object; `item` a list's."""

    kind: Kind
    cls: Any = None
    item: Type | None = None


@dataclass(frozen=True)
class Field:
    """`key` as the manifest spells it, `snake` as it may be spelled too, `attribute` of the dataclass."""

    key: str
    snake: str
    attribute: str
    type: Type
    optional: bool = False  # None and an empty object differ


# Known to the manifest and refused by name; an empty value (null, false, [], {}) asks for nothing and passes.
UNSUPPORTED: Final[Mapping[type, Mapping[str, str]]] = {
    WorkloadSpec: {
        "volumes": "leave it out; containers write to their own file system",
    },
    Container: {
        "module": "give an image or a process",
        "volumeMounts": "leave it out; containers write to their own file system",
    },
    EnvVar: {"valueFrom": "give a value"},
    SecurityContext: {
        "hostPID": "leave it out",
        "hostIPC": "leave it out",
        "seLinuxOptions": "leave it out",
        "sysctls": "leave it out",
    },
    SecurityProfile: {"path": "use the type RuntimeDefault or Unconfined"},
}

# Part of the API already, and refused by validation for as long as nothing would honour them.
NOT_YET: Final[Mapping[type, frozenset[str]]] = {}

# What `get -o yaml` writes beside what was asked for; read back, it is passed over.
READ_ONLY: Final[Mapping[type, frozenset[str]]] = {
    Metadata: frozenset({"generation", "revision", "createdAt", "updatedAt", "deleting"}),
}

# Where users of Kubernetes look for it.
ELSEWHERE: Final[Mapping[str, str]] = {
    "httpGet": "http",
    "tcpSocket": "tcp",
    "initialDelaySeconds": "initialDelay",
    "periodSeconds": "period",
    "timeoutSeconds": "timeout",
    "terminationGracePeriodSeconds": "termination.gracePeriod",
    "progressDeadlineSeconds": "rollout.progressDeadline",
    "template": "spec.containers",
    "selector": "metadata.labels",
    "nodeSelector": "placement.nodeSelector",
    "tolerations": "placement.tolerations",
    "topologySpreadConstraints": "placement.spread",
    "affinity": "placement",
    "strategy": "rollout.strategy",
    "runtimeClassName": "securityContext.runtimeClassName",
    "hostNetwork": "securityContext.hostNetwork",
    "containerName": "name",
    "backoffLimit": "restartPolicy.maxRetries",
    "activeDeadlineSeconds": "completion.activeDeadline",
    "ttlSecondsAfterFinished": "completion.ttlAfterFinished",
    "concurrencyPolicy": "schedule.concurrency",
    "startingDeadlineSeconds": "schedule.missed",
    "successfulJobsHistoryLimit": "schedule.history",
    "failedJobsHistoryLimit": "schedule.history",
    "cmd": "command",
    "environment": "env",
}


def camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def snake(key: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key).lower()


@cache
def fields(cls: Any) -> tuple[Field, ...]:
    """The manifest's fields of a dataclass, in its order."""
    hints = typing.get_type_hints(cls)
    rows = []
    for field in dataclasses.fields(cls):
        hint, optional = _unwrap(hints[field.name])
        key = field.metadata.get(KEY) or camel(field.name)
        kind = field.metadata.get(KIND)
        rows.append(Field(key, snake(key), field.name, Type(kind) if kind else _type(hint), optional))
        if field.name == "min_ready_ms":
            rows[-1:] = [Field("minReadySeconds", "min_ready_seconds", field.name, Type("seconds")), rows[-1]]
    return tuple(rows)


def _unwrap(hint: Any) -> tuple[Any, bool]:
    if typing.get_origin(hint) in (Union, types.UnionType):
        return next(arg for arg in typing.get_args(hint) if arg is not type(None)), True
    return hint, False


def _type(hint: Any) -> Type:
    origin = typing.get_origin(hint)
    if origin is tuple:
        return Type("list", item=_type(typing.get_args(hint)[0]))
    if origin is not None and issubclass(origin, Mapping):
        return Type("map")
    if dataclasses.is_dataclass(hint):
        return Type("object", cls=hint)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return Type("choice", cls=hint)
    scalars: dict[Any, Kind] = {str: "text", int: "number", bool: "switch"}
    return Type(scalars[hint])
