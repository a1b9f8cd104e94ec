"""From a workload's container to the plan of one start. Pure, apart from looking for the runtime's program."""

from __future__ import annotations

from pathlib import Path

from cloudless.agent.runtime.base import Sandbox
from cloudless.agent.runtime.containerd import host as device
from cloudless.agent.runtime.containerd import labels, security, spec, users
from cloudless.agent.runtime.containerd.folders import Folders, hostname
from cloudless.agent.runtime.containerd.images import ResolvedImage
from cloudless.agent.runtime.containerd.tasks import Plan
from cloudless.core.spec import Container
from cloudless.errors import FailedPrecondition

_SIGNALS = {"HUP": 1, "INT": 2, "QUIT": 3, "KILL": 9, "USR1": 10, "USR2": 12, "TERM": 15, "WINCH": 28}
_SIGTERM = 15


def make_plan(
    sandbox: Sandbox,
    container: Container,
    *,
    image: ResolvedImage,
    accounts: tuple[str, str],
    host: spec.Host,
    network_namespace: Path | None,
    folders: Folders,
    node_name: str,
    attempt: int,
    now_ms: int,
) -> Plan:
    """`accounts`: the image's passwd and group. Raises InvalidArgument where the container can never start,
    FailedPrecondition where another node could start it."""
    context = security.merge(sandbox.spec.security_context, container.security_context)
    passwd, group = accounts
    user = users.resolve(
        str(image.config.get("User") or ""),
        run_as_user=context.run_as_user,
        run_as_group=context.run_as_group,
        non_root=bool(context.run_as_non_root),
        passwd=passwd,
        group=group,
    )
    container_id = labels.container_id(sandbox.replica_id, container.name)
    environment = {
        "CLOUDLESS_REPLICA": sandbox.replica_id,
        "CLOUDLESS_WORKLOAD": sandbox.workload,
        "CLOUDLESS_NAMESPACE": sandbox.namespace,
    } | ({"CLOUDLESS_NODE": node_name} if node_name else {})
    document = spec.build(
        sandbox,
        container,
        image_config=image.config,
        user=user,
        container_id=container_id,
        host=host,
        surroundings=spec.Surroundings(
            network_namespace=network_namespace,
            hostname=hostname(sandbox.replica_id),
            files=folders.mounted_files(sandbox.replica_id),
            environment=environment,
        ),
    )
    written = labels.container_labels(
        sandbox.replica_id,
        container.name,
        attempt=attempt,
        image_digest=image.digest,
        started_at_ms=now_ms,
        stop_signal=str(image.config.get("StopSignal") or ""),
    )
    return Plan(
        container_id=container_id,
        labels=written,
        image=image.name,
        chain_id=image.chain_id,
        spec=document,
        log=folders.log(sandbox.replica_id, container.name),
        binary=_binary(context.runtime_class_name),
        attempt=attempt,
    )


def signal_number(name: str) -> int:
    """Of an image's STOPSIGNAL: a name with or without SIG, or a number. Unknown ones are SIGTERM."""
    if name.isdecimal():
        number = int(name[:4])
        return number if 0 < number <= 64 else _SIGTERM
    return _SIGNALS.get(name.upper().removeprefix("SIG"), _SIGTERM)


def _binary(runtime_class: str) -> str:
    """The OCI runtime of a class; empty: the default. Raises FailedPrecondition(reason="FeatureMissing")."""
    if runtime_class in ("", "runc"):
        return ""
    if runtime_class == "crun" and (path := device.find_program("crun")):
        return path
    raise FailedPrecondition(f"this node has no runtime class {runtime_class}", reason="FeatureMissing")
