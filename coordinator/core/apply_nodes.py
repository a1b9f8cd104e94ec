"""Nodes: admission, certificates, settings, transitions, removal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cloudless.coordinator.core import amounts, lifecycle, online_hours
from cloudless.coordinator.core.apply_tokens import pattern_admits, usable_token
from cloudless.coordinator.core.commands import EnrollNode, RemoveNode, RenewCertificate, ReportNode, UpdateNode
from cloudless.coordinator.core.outcome import ApplyResult
from cloudless.coordinator.core.state import State
from cloudless.coordinator.core.transition import Transition
from cloudless.core.labels import is_dns_label, is_label_key, is_label_value
from cloudless.core.model import JoinToken, Node, NodeState, Replica, Severity, Taint
from cloudless.core.replacing import replace
from cloudless.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, TokenRefused

SKEW_MS_MAX: Final = 5_000  # a device's clock that is further off is worth a warning
_USED_BY_KEPT: Final = 1000  # names kept with a token that admits many


def enroll_node(t: Transition, command: EnrollNode) -> ApplyResult:
    name = command.node_id
    token = admitting_token(t.state, command, now_ms=t.now_ms)
    before = t.state.nodes.get(name)
    used_by = (*(n for n in token.used_by if n != name), name)[-_USED_BY_KEPT:]
    t.put_token(replace(token, uses=token.uses + 1, used_by=used_by))
    node = before or Node(id=name, state=NodeState.ENROLLING, state_since_ms=t.now_ms)
    t.put_node(
        replace(
            node,
            region=token.region or node.region,
            zone=token.zone or node.zone,
            labels={**node.labels, **token.labels},
            public_key_sha256=command.public_key_sha256,
            certificate_serial=command.certificate_serial,
            certificate_expires_at_ms=command.certificate_expires_at_ms,
            enrolled_at_ms=t.now_ms,
            token_id=token.id,
        )
    )
    resource = f"node/{name}"
    t.emit(
        "security.token_used",
        f"token/{token.id}",
        f"admitted {name}, use {token.uses + 1} of {token.max_uses}",
        metadata={"node": name},
    )
    _tell_certificate(t, resource, command.certificate_serial)
    again = "" if before is None else " again"
    t.emit("node.enrolled", resource, f"enrolled{again} with join token {token.id}")
    return t.accepted("created" if before is None else "updated")


def admitting_token(state: State, command: EnrollNode, *, now_ms: int) -> JoinToken:
    """The token that admits the node. Raises what the enrolment is refused with: TokenRefused, InvalidArgument
    (BadNodeName, NodeKeyMissing), AlreadyExists (NodeKeyMismatch)."""
    name = command.node_id
    if not is_dns_label(name):
        raise InvalidArgument(
            f"{name!r} is no node name",
            reason="BadNodeName",
            remedy="use at most 63 of a-z, 0-9 and -, with a letter or digit at both ends",
        )
    if not command.public_key_sha256:
        raise InvalidArgument("a node enrols with a key", reason="NodeKeyMissing")
    token = _usable_token(state, command, now_ms=now_ms)
    before = state.nodes.get(name)
    if before is not None and before.public_key_sha256 != command.public_key_sha256:
        raise AlreadyExists(
            f"a node named {name} exists and has another key",
            reason="NodeKeyMismatch",
            remedy=f"give this device another name, or remove the old node first: cloudlessctl node remove {name}",
        )
    return token


def _usable_token(state: State, command: EnrollNode, *, now_ms: int) -> JoinToken:
    token = usable_token(state, command.token_id, now_ms=now_ms, fresh="cloudlessctl token create")
    if token.coordinator_id:
        raise TokenRefused(
            f"join token {token.id} admits the coordinator {token.coordinator_id}, and no node",
            reason="TokenForCoordinator",
            remedy="create one for nodes: cloudlessctl token create",
        )
    if not pattern_admits(token.node_pattern, command.node_id):
        raise TokenRefused(
            f"join token {token.id} admits nodes named {token.node_pattern}, not {command.node_id}",
            reason="NodeNameNotAllowed",
            remedy="use a name that matches, or a token for this name",
        )
    return token


def renew_certificate(t: Transition, command: RenewCertificate) -> ApplyResult:
    node = _node(t, command.node_id)
    if not command.public_key_sha256:
        raise InvalidArgument("a certificate is for a key", reason="NodeKeyMissing")
    t.put_node(
        replace(
            node,
            public_key_sha256=command.public_key_sha256,
            certificate_serial=command.certificate_serial,
            certificate_expires_at_ms=command.certificate_expires_at_ms,
        )
    )
    _tell_certificate(t, f"node/{node.id}", command.certificate_serial)
    return t.accepted("updated")


def update_node(t: Transition, command: UpdateNode) -> ApplyResult:
    before = _node(t, command.node_id)
    _check_labels(command.set_labels)
    for taint in command.set_taints:
        if not is_label_key(taint.key) or not is_label_value(taint.value) or taint.effect is None:
            raise InvalidArgument(
                f"{taint.key}={taint.value} is no taint",
                reason="BadTaint",
                remedy="write key=value:NoSchedule, PreferNoSchedule or NoExecute",
            )
    cordoned = before.cordoned if command.cordoned is None else command.cordoned
    draining = before.draining if command.draining is None else command.draining
    if command.draining:
        cordoned = True
    elif not cordoned:
        draining = False
    labels = {k: v for k, v in before.labels.items() if k not in command.remove_labels}
    node = replace(
        before,
        cordoned=cordoned,
        draining=draining,
        labels={**labels, **command.set_labels},
        taints=_taints(before.taints, command),
    )
    if node == before:
        return t.accepted("unchanged", revision=before.revision)
    t.put_node(node)
    resource = f"node/{node.id}"
    if node.cordoned != before.cordoned:
        word = "cordoned" if node.cordoned else "uncordoned"
        t.emit(f"node.{word}", resource, "takes no new work" if node.cordoned else "takes new work again")
    if node.draining and not before.draining:
        t.emit("node.draining", resource, "its replicas move to other nodes")
        if node.id not in t.state.replicas_by_node:
            t.emit("node.drained", resource, "no replicas are on the node")
    if node.labels != before.labels or node.taints != before.taints:
        t.emit("node.updated", resource, "labels or taints changed")
    return t.accepted("updated")


def _check_labels(labels: Mapping[str, str]) -> None:
    for key in sorted(labels):
        if not is_label_key(key) or not is_label_value(labels[key]):
            raise InvalidArgument(f"{key[:300]}={labels[key][:80]} is no label", reason="BadLabel")


def _taints(before: tuple[Taint, ...], command: UpdateNode) -> tuple[Taint, ...]:
    taints = {(taint.key, taint.effect): taint for taint in before if taint.key not in command.remove_taints}
    taints.update({(taint.key, taint.effect): taint for taint in command.set_taints})
    return tuple(sorted(taints.values(), key=lambda taint: (taint.key, taint.effect or "")))


def report_node(t: Transition, command: ReportNode) -> ApplyResult:
    before = _node(t, command.node_id)
    was = before.state or NodeState.ENROLLING
    state = command.state or was
    if not lifecycle.node_may(was, state):
        raise FailedPrecondition(f"node {before.id} cannot go from {was} to {state}", reason="IllegalTransition")
    device = command.device or before.device
    if any(getattr(device.capacity, name) < 0 for name in amounts.ACCOUNTED):
        raise InvalidArgument(f"node {before.id} reports a negative capacity", reason="BadCapacity")
    _check_labels(device.labels)
    node = _with_records(replace(before, device=device), command)
    if state is was and node == before:
        return t.accepted("unchanged", revision=before.revision)
    if state is not was:
        node = replace(node, state=state, state_reason=command.reason, state_since_ms=t.now_ms)
    t.put_node(node)
    if state is not was:
        _tell_state(t, node, was)
    _tell_clock(t, node, before.clock_skew_ms)
    _evict_what_no_longer_fits(t, node)
    return t.accepted("updated")


def _with_records(node: Node, command: ReportNode) -> Node:
    """What the proposer made of the node's past, where it knew all of it: a record that is older than the one here was
    made in ignorance of what happened between."""
    record, presence = command.reliability, command.presence
    if record is not None:
        if not 0 <= record.available_permille <= 1000 or record.losses_milli < 0 or record.failed_starts_milli < 0:
            raise InvalidArgument(f"node {node.id} has no such reliability", reason="BadReliability")
        if node.reliability is None or record.updated_at_ms >= node.reliability.updated_at_ms:
            node = replace(node, reliability=record)
    if presence is not None:
        hours = presence.online_permille
        if len(hours) not in (0, online_hours.HOURS) or not all(online_hours.UNSEEN <= hour <= 1000 for hour in hours):
            raise InvalidArgument(f"node {node.id} has no such presence", reason="BadPresence")
        if node.presence is None or presence.updated_at_ms >= node.presence.updated_at_ms:
            node = replace(node, presence=online_hours.compact(presence))
    if command.clock_skew_ms is not None:
        node = replace(node, clock_skew_ms=command.clock_skew_ms)
    return node


def _tell_clock(t: Transition, node: Node, was_ms: int) -> None:
    """Once it goes wrong by more than is harmless, and again where it jumps."""
    skew_ms = node.clock_skew_ms
    jumped = abs(was_ms) <= SKEW_MS_MAX or abs(skew_ms - was_ms) > SKEW_MS_MAX
    if abs(skew_ms) <= SKEW_MS_MAX or skew_ms == was_ms or not jumped:
        return
    t.emit(
        "node.clock_skewed",
        f"node/{node.id}",
        f"its clock is {abs(skew_ms) / 1000:.0f} s {'ahead of' if skew_ms > 0 else 'behind'} the coordinator's",
        severity=Severity.WARNING,
        metadata={"clock_skew_ms": str(skew_ms)},
    )


def _tell_state(t: Transition, node: Node, was: NodeState) -> None:
    resource, reason = f"node/{node.id}", node.state_reason
    if node.state is NodeState.READY:
        if was is not NodeState.ENROLLING:
            t.emit("node.returned", resource, f"is back after it was {was}")
        t.emit("node.ready", resource, reason or "connected")
    elif node.state is NodeState.UNREACHABLE:
        t.emit("node.unreachable", resource, reason or "not heard of", severity=Severity.WARNING)
    elif node.state is NodeState.LOST:
        t.emit("node.lost", resource, reason or "gone for longer than its lease", severity=Severity.ERROR)


def _evict_what_no_longer_fits(t: Transition, node: Node) -> None:
    """Keeps the promise that fragments fit their device when the device (its owner's limits) shrinks.

    The least important replicas go, among equals the newest. They keep their fragment until they have stopped.
    """
    held = [replica for replica in t.state.replicas_on(node.id) if not replica.stopping]
    used = amounts.total(replica.fragment for replica in held)
    if not amounts.exceeded(used, node.device.capacity):
        return

    def importance(replica: Replica) -> tuple[int, int, str]:
        record = t.state.workloads[replica.namespace, replica.workload]
        return -record.spec.priority, replica.assigned_at_ms, replica.id

    held.sort(key=importance)
    while held and amounts.exceeded(amounts.total(replica.fragment for replica in held), node.device.capacity):
        victim = held.pop()
        t.put_replica(replace(victim, stopping=True, stop_reason="CapacityReduced"))
        t.emit(
            "scheduling.reschedule",
            f"replica/{victim.id}",
            f"node {node.id} offers less than it did and cannot hold the replica",
            namespace=victim.namespace,
            severity=Severity.WARNING,
            metadata={"node": node.id, "reason": "CapacityReduced"},
        )


def remove_node(t: Transition, command: RemoveNode) -> ApplyResult:
    node = _node(t, command.node_id)
    held = t.state.replicas_on(node.id)
    assigned = [replica.id for replica in held if not replica.stopping]
    # A lost node's stopping replicas will not report; on any other node they are waited for.
    waiting = assigned or (held and node.state is not NodeState.LOST)
    if waiting and not command.force:
        raise FailedPrecondition(
            f"{len(held)} replica(s) are still on node {node.id}",
            reason="NodeNotEmpty",
            remedy=f"drain it first (cloudlessctl node drain {node.id}), or remove it with --force",
        )
    for replica in held:
        t.remove_replica(replica)
    t.remove_node(node.id)
    t.emit("node.removed", f"node/{node.id}", f"removed with {len(held)} replica(s)" if held else "removed")
    return t.accepted("deleted")


def _node(t: Transition, node_id: str) -> Node:
    node = t.state.nodes.get(node_id)
    if node is None:
        raise NotFound(f"node {node_id} does not exist", reason="NodeUnknown")
    return node


def _tell_certificate(t: Transition, resource: str, serial: str) -> None:
    t.emit("security.cert_issued", resource, f"certificate {serial}", metadata={"serial": serial})
