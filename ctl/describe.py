"""Descriptions for people: everything about a thing, and why it is so. Lines of text; nothing is printed here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from cloudless.core import quantity
from cloudless.ctl import device_words, resources, table, verdicts
from cloudless.ctl.output import field_word, plain
from cloudless.ctl.times import age, instant, span

_LABEL_WIDTH: Final = 16
_COMMAND_WIDTH: Final = 100
_CONFLICT: Final = "security.identity_conflict"
NODES_SHOWN: Final = 8


def pair(label: str, value: object, indent: int = 0) -> str:
    text = table.safe(value)
    return f"{' ' * indent}{label + ':':<{_LABEL_WIDTH - indent}} {text or '-'}".rstrip()


def block(title: str, lines: Iterable[str]) -> Iterator[str]:
    """A titled, indented block; `Title: none` when it is empty."""
    body = list(lines)
    if not body:
        yield pair(title, "none")
        return
    yield f"{title}:"
    yield from (f"  {line}" for line in body)


def rows(header: Sequence[str], cells: Sequence[Sequence[object]]) -> list[str]:
    return table.layout(header, [[table.safe(cell) or "-" for cell in row] for row in cells]) if cells else []


def amounts(message: Any) -> str:
    """`cpu 250m, memory 128Mi`; what is zero is left out."""
    parts = []
    for key, write in (
        ("cpu_millis", resources.rough_cpu),
        ("memory_bytes", resources.rough_bytes),
        ("storage_bytes", resources.rough_bytes),
        ("egress_bps", quantity.format_bitrate),
        ("pids", str),
    ):
        value = getattr(message, key)
        if value:
            parts.append(f"{key.partition('_')[0]} {write(value)}")
    return ", ".join(parts) or "none"


def command(words: Iterable[str]) -> str:
    """A command in one line, shortened where it is a whole program."""
    text = " ".join(" ".join(words).split())
    return text if len(text) <= _COMMAND_WIDTH else text[: _COMMAND_WIDTH - 3] + "..."


def labels(values: Any) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(values.items())) or "none"


# why a replica is where it is


def placement(decision: Any) -> Iterator[str]:
    """The decision in one line, each candidate's score by its terms, and what ruled the other nodes out."""
    yield pair("decision", decision.summary or (f"on {decision.node_id}" if decision.node_id else "none yet"))
    if decision.decided_at_ms:
        yield pair("decided", f"{instant(decision.decided_at_ms)}, {nodes(decision.nodes_considered)} considered")
    terms = list(dict.fromkeys(term.name for candidate in decision.candidates for term in candidate.terms))
    if decision.candidates:
        yield "scores (each term is value x weight; a penalty is subtracted):"
        cells = []
        for candidate in decision.candidates:
            by_name = {term.name: term for term in candidate.terms}
            chosen = "chosen" if candidate.node_id == decision.node_id else ""
            cells.append(
                [candidate.node_id, f"{candidate.total:.3f}", *(_term(by_name.get(name)) for name in terms), chosen]
            )
        header = ["NODE", "TOTAL", *(name.upper().replace("_", " ") for name in terms), ""]
        yield from (f"  {line}" for line in table.layout(header, cells))
    if decision.rejections:
        yield "ruled out:"
        for rejection in decision.rejections:
            shown = ", ".join(rejection.node_ids[:NODES_SHOWN])
            count = max(rejection.node_count, len(rejection.node_ids))
            more = f" and {count - NODES_SHOWN} more" if count > NODES_SHOWN else ""
            yield f"  {rejection.filter}: {_rough(rejection.reason)} ({nodes(count)}: {shown}{more})"


def _rough(text: str) -> str:
    """With quantities as the tables write them: `23.5Gi` for `24684092Ki`, `1.9` for `1900m`."""
    return re.sub(r"\b\d{4,12}(?:m|[KMG]i)\b", lambda found: _rough_quantity(found[0]), text, flags=re.ASCII)


def _rough_quantity(text: str) -> str:
    if text.endswith("m"):
        return resources.rough_cpu(quantity.parse_cpu(text))
    return resources.rough_bytes(quantity.parse_bytes(text))


def _term(term: Any) -> str:
    return f"{term.value:.2f}x{term.weight:.2f}" if term is not None else "-"


def nodes(count: int) -> str:
    return f"{count} node" if count == 1 else f"{count} nodes"


# things


def replica(item: Any, spec: Any | None, events: Sequence[Any], now_ms: int, away: Mapping[str, str]) -> Iterator[str]:
    """`spec` is the workload's present one, or None where it cannot be had. `away`: nodes that are out of reach."""
    status = item.status
    yield pair("Name", item.id)
    yield pair("Namespace", item.namespace)
    yield pair("Workload", f"{item.workload} (generation {item.generation})")
    shown, heard = resources.replica_status(item, away), resources.replica_status(item)
    yield pair("Status", shown if shown == heard else f"{shown}; last heard: {heard}")
    if status.message:
        yield pair("Message", status.message)
    if item.stopping:
        yield pair("Stopping", item.stop_reason or "yes")
    yield pair("Node", item.node_id or "none")
    yield pair("Address", status.address)
    yield pair("Ports", ", ".join(map(resources.port, status.ports)))
    yield pair("Runtime", status.runtime)
    yield pair("Reserved", amounts(item.fragment))
    yield pair("Restarts", resources.restarts(item))
    if item.attempt:
        yield pair("Attempt", f"{item.attempt + 1} (the {item.attempt} before it failed)")
    yield pair("Created", f"{instant(item.created_at_ms)} ({age(item.created_at_ms, now_ms)} ago)")
    yield from block("Containers", _containers(status.containers, spec, now_ms))
    yield from block("Placement", placement(item.placement))
    yield from block("Events", event_lines(events, now_ms))


def _containers(statuses: Sequence[Any], spec: Any | None, now_ms: int) -> Iterator[str]:
    images = {container.name: container for container in spec.containers} if spec is not None else {}
    for status in statuses:
        yield f"{status.name}:"
        container = images.get(status.name)
        if container is not None:
            yield pair("image" if container.image else "process", container.image or command(container.process), 2)
        if status.image_digest:
            yield pair("digest", status.image_digest, 2)
        state = status.state + (f" ({status.reason})" if status.reason and status.reason != status.state else "")
        if status.state == "exited":
            state += f", exit code {status.exit_code}"
        elif status.state == "running" and status.started_at_ms:
            state += f" since {instant(status.started_at_ms)} ({age(status.started_at_ms, now_ms)})"
        yield pair("state", state, 2)
        if status.message:
            yield pair("message", status.message, 2)
        if status.retry_at_ms and status.state != "running":
            left_ms = status.retry_at_ms - now_ms
            yield pair("next start", f"in {span(left_ms)}" if left_ms > 0 else "now", 2)
        yield pair("ready", "yes" if status.ready else "no", 2)
        yield pair("restarts", status.restart_count, 2)
        if status.last_reason:
            yield pair("last ended", f"{status.last_reason}, exit code {status.last_exit_code}", 2)


def workload(
    item: Any, replicas: Sequence[Any], events: Sequence[Any], now_ms: int, away: Mapping[str, str]
) -> Iterator[str]:
    """`events` are its own and those of its replicas. `away`: nodes that are out of reach."""
    spec, status = item.spec, item.status
    yield pair("Name", item.metadata.name)
    yield pair("Namespace", item.metadata.namespace)
    yield pair("Labels", labels(item.metadata.labels))
    if item.metadata.annotations:
        yield pair("Annotations", labels(item.metadata.annotations))
    yield pair("Type", field_word(spec, "type"))
    yield pair("Status", verdicts.status(item) + (", being deleted" if item.deleting else ""))
    if status.message:
        yield pair("Message", status.message)
    yield pair(
        "Replicas",
        f"{status.desired} desired, {status.ready} ready, {status.running} running, {status.pending} pending, "
        f"{status.updated} of the present generation",
    )
    yield pair("Priority", spec.priority)
    yield pair("Generation", item.generation)
    yield pair("Created", f"{instant(item.created_at_ms)} ({age(item.created_at_ms, now_ms)} ago)")
    yield pair("Updated", f"{instant(item.updated_at_ms)} ({age(item.updated_at_ms, now_ms)} ago)")
    if verdicts.has_runs(item):
        yield from _when(spec)
    else:
        yield pair("Strategy", _strategy(spec.rollout))
    yield from _rollout(item, now_ms)
    yield from _runs(item, now_ms)
    yield from block("Containers", _templates(spec.containers))
    cells = [
        [r.id, resources.replica_status(r, away), r.node_id, resources.restarts(r), age(r.created_at_ms, now_ms)]
        for r in replicas
    ]
    yield from block("Replicas", rows(["NAME", "STATUS", "NODE", "RESTARTS", "AGE"], cells))
    nowhere = [r for r in replicas if not r.node_id and not r.stopping]
    if nowhere:
        more = f" (and {len(nowhere) - 1} more like it)" if len(nowhere) > 1 else ""
        yield from block(f"Why {nowhere[0].id} is nowhere{more}", placement(nowhere[0].placement))
    cells = [[age(e.time_ms, now_ms), e.type, e.resource.rpartition("/")[2], e.description] for e in events]
    yield from block("Events", rows(["AGE", "TYPE", "OF", "DESCRIPTION"], cells))


def _rollout(item: Any, now_ms: int) -> Iterator[str]:
    """How far the newest generation has come."""
    progress = item.rollout
    phase = field_word(progress, "phase")
    if not phase:
        return
    text = f"{phase}, generation {progress.generation}"
    if progress.stable_generation and progress.stable_generation != progress.generation:
        text += f"; {progress.stable_generation} was the last that was complete"
    yield pair("Rollout", text)
    if progress.message:
        yield pair("", progress.message)
    if phase in ("Progressing", "Paused", "AwaitingPromotion", "Failed"):
        yield pair("Began", f"{age(progress.started_at_ms, now_ms)} ago")
        yield pair("Last progress", f"{age(progress.progressed_at_ms, now_ms)} ago")
    steps = item.spec.rollout.canary.steps
    if steps and phase != "Complete":
        yield pair("Canary step", f"{min(progress.step + 1, len(steps))} of {len(steps)}")


def _runs(item: Any, now_ms: int) -> Iterator[str]:
    """What a job or cron did and will do, newest first."""
    if item.next_run_at_ms:
        yield pair("Next run", f"{instant(item.next_run_at_ms)} (in {span(max(0, item.next_run_at_ms - now_ms))})")
    cells = [
        [
            run.number,
            field_word(run, "phase") + (f" ({run.reason})" if run.reason else ""),
            instant(run.scheduled_at_ms) if run.scheduled_at_ms else "by hand" if run.manual else "-",
            age(run.started_at_ms, now_ms),
            span(run.finished_at_ms - run.started_at_ms) if run.finished_at_ms and run.started_at_ms else "-",
            f"{run.succeeded} succeeded, {run.failed} failed",
        ]
        for run in reversed(item.runs)
    ]
    if cells:
        yield from block("Runs", rows(["RUN", "STATUS", "DUE", "STARTED", "TOOK", "REPLICAS"], cells))


def _when(spec: Any) -> Iterator[str]:
    """When a job or cron runs, and what a run is."""
    schedule, completion = spec.schedule, spec.completion
    if schedule.cron:
        zone = f" in {schedule.time_zone}" if schedule.time_zone else ""
        yield pair("Schedule", f"{schedule.cron}{zone}" + (", suspended" if schedule.suspend else ""))
        rules = field_word(schedule, "concurrency"), field_word(schedule, "missed")
        yield pair("Concurrency", f"{rules[0] or '-'}; missed runs: {rules[1] or '-'}")
    text = f"{max(1, completion.completions)} completed, {max(1, completion.parallelism)} at a time"
    if completion.active_deadline_ms:
        text += f", within {span(completion.active_deadline_ms)}"
    yield pair("A run is", text)


def _strategy(rollout: Any) -> str:
    text = field_word(rollout, "strategy")
    if text == "RollingUpdate":
        text += f", {rollout.max_surge} more and {rollout.max_unavailable} fewer at a time"
    if rollout.min_available:
        text += f", at least {rollout.min_available} available"
    return text


def _templates(containers: Sequence[Any]) -> Iterator[str]:
    for container in containers:
        yield f"{container.name}:"
        yield pair("image" if container.image else "process", container.image or command(container.process), 2)
        if container.command or container.args:
            yield pair("command", command([*container.command, *container.args]), 2)
        ports = [f"{p.name or p.container_port}={p.container_port}" for p in container.ports]
        if ports:
            yield pair("ports", ", ".join(ports), 2)
        yield pair("requests", amounts(container.resources.requests), 2)
        yield pair("limits", amounts(container.resources.limits), 2)
        for kind in ("startup", "liveness", "readiness"):
            if container.HasField(f"{kind}_probe"):
                yield pair(kind, probe(getattr(container, f"{kind}_probe")), 2)
        if container.env:
            yield pair("env", ", ".join(f"{variable.name}={variable.value}" for variable in container.env), 2)


def probe(message: Any) -> str:
    """`http :http/ every 1s, timeout 1s, 3 failures`."""
    what = "none"
    if message.HasField("http"):
        what = f"{message.http.scheme.lower() or 'http'} :{message.http.port}{message.http.path}"
    elif message.HasField("tcp"):
        what = f"tcp :{message.tcp.port}"
    elif message.HasField("exec"):
        what = f"exec {command(message.exec.command)}"
    elif message.HasField("grpc"):
        what = f"grpc :{message.grpc.port}"
    every, limit = quantity.format_duration(message.period_ms), quantity.format_duration(message.timeout_ms)
    return f"{what} every {every}, timeout {limit}, {message.failure_threshold} failures"


def node(view: Any, replicas: Sequence[Any], events: Sequence[Any], now_ms: int) -> Iterator[str]:
    item, device = view.node, view.node.device
    yield pair("Name", item.id)
    yield pair("Status", resources.node_status(item) + (f" ({item.state_reason})" if item.state_reason else ""))
    yield pair("Since", f"{instant(item.state_since_ms)} ({age(item.state_since_ms, now_ms)} ago)")
    connected = f"heartbeat {view.heartbeat_age_ms} ms ago" if view.heartbeat_age_ms >= 0 else "no"
    yield pair("Connected", connected)
    skew_ms = view.clock_skew_ms if view.heartbeat_age_ms >= 0 else item.clock_skew_ms  # as last recorded
    if abs(skew_ms) >= 1000:
        yield pair("Clock skew", f"{'-' if skew_ms < 0 else ''}{span(abs(skew_ms))}")
    conflict = next((event for event in reversed(events) if event.type == _CONFLICT), None)
    if conflict is not None:
        yield pair("Identity", f"{conflict.description} ({age(conflict.time_ms, now_ms)} ago)")
    yield pair("Reliability", device_words.reliability(item, now_ms))
    yield pair("Usually online", device_words.presence(item))
    yield pair("Region, zone", f"{item.region or '-'}, {item.zone or '-'}")
    yield pair("Labels", labels(item.labels))
    taints = [f"{t.key}={t.value}:{field_word(t, 'effect')}" for t in item.taints]
    yield pair("Taints", ", ".join(taints) or "none")
    yield pair(
        "Device", f"{field_word(device, 'device_class') or 'unknown'}, {device.os}/{device.arch}, {device.kernel}"
    )
    yield pair("Host name", device.hostname)
    yield pair("Addresses", ", ".join(device.addresses))
    yield pair("Agent", device.agent_version)
    yield pair("Power", _power(view))
    if view.HasField("usage"):
        yield pair("Pressure", ", ".join(view.usage.pressure) or "none")
    yield pair("Disk", f"measured IOPS class {device.iops_class}" if device.iops_class else "not measured")
    yield pair("Enrolled", f"{instant(item.enrolled_at_ms)} with token {item.token_id or '-'}")
    yield pair("Certificate", f"{item.certificate_serial or '-'}, until {instant(item.certificate_expires_at_ms)}")
    yield from block("Owner", (pair(label, words) for label, words in device_words.owner(device)))
    yield from block("Resources", _resources(view))
    yield from block("Runtimes", _runtimes(device.runtimes))
    yield from block("Features", _features(device.features))
    state = field_word(item, "state")
    away = {} if state == "Ready" else {item.id: state}
    cells = [[r.namespace, r.id, r.workload, resources.replica_status(r, away), amounts(r.fragment)] for r in replicas]
    yield from block("Replicas", rows(["NAMESPACE", "NAME", "WORKLOAD", "STATUS", "RESERVED"], cells))
    yield from block("Events", event_lines(events, now_ms))


def _power(view: Any) -> str:
    usage, device = view.usage, view.node.device
    text = usage.power_source or device.power_source or "unknown"
    if view.HasField("usage") and usage.power_source == "battery" and usage.battery_percent >= 0:
        text += f", battery at {usage.battery_percent} %"
    return text + (", metered link" if usage.metered or device.metered else "")


def _resources(view: Any) -> list[str]:
    capacity, reserved, used = view.node.device.capacity, view.reserved, view.usage
    live = view.HasField("usage")
    cells = []
    for name, key, write in (
        ("cpu", "cpu_millis", resources.rough_cpu),
        ("memory", "memory_bytes", resources.rough_bytes),
        ("storage", "storage_bytes", resources.rough_bytes),
        ("egress", "egress_bps", quantity.format_bitrate),
        ("pids", "pids", str),
    ):
        total = getattr(capacity, key)
        if not total:
            continue
        usage = write(getattr(used, key)) if live and hasattr(used, key) else "-"
        cells.append([name, write(total), write(getattr(reserved, key)), usage])
    if view.node.device.gpus:
        cells.append(["gpus", str(view.node.device.gpus), "-", "-"])
    return rows(["", "CAPACITY", "RESERVED", "DEVICE IN USE"], cells)


def _runtimes(items: Sequence[Any]) -> list[str]:
    cells = []
    for item in items:
        lacking = item.detail.removeprefix("without ")
        detail = f"lacks {lacking}" if item.available and lacking != item.detail else item.detail
        cells.append([item.name, "yes" if item.available else "no", item.version, detail])
    return rows(["NAME", "AVAILABLE", "VERSION", "DETAIL"], cells)


def _features(items: Sequence[Any]) -> list[str]:
    cells = [[item.name, "yes" if item.available else "no", item.detail] for item in items]
    return rows(["NAME", "AVAILABLE", "DETAIL"], cells)


def event_lines(events: Sequence[Any], now_ms: int) -> list[str]:
    cells = [[age(e.time_ms, now_ms), e.type, e.description] for e in events]
    return rows(["AGE", "TYPE", "DESCRIPTION"], cells)


def token(item: Any, now_ms: int) -> Iterator[str]:
    yield pair("Id", item.id)
    yield pair("Status", resources.token_status(item, now_ms))
    yield pair("Nodes", item.node_pattern)
    yield pair("Region, zone", f"{item.region or '-'}, {item.zone or '-'}")
    yield pair("Labels", labels(item.labels))
    yield pair("Uses", f"{item.uses} of {item.max_uses}")
    yield pair("Used by", ", ".join(item.used_by) or "nobody")
    yield pair("Created", f"{instant(item.created_at_ms)} by {item.created_by or '-'}")
    yield pair("Expires", instant(item.expires_at_ms))


def fields(item: Any) -> Iterator[str]:
    """Any other thing: its fields, one a line."""
    for key, value in plain(item).items():
        yield pair(key, ", ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else value)
