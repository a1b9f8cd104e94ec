"""A coordinator's public API in memory, over real gRPC on a loopback port, for tests of its clients.

It keeps proto messages and does what a client can see: defaults and validation on writes, created / updated /
unchanged, idempotency keys, pages, watches from a revision, errors with their trailers. It places nothing by rules:
replicas of an applied workload are made ready at once on the ready nodes in turn, or stay pending where `auto_ready`
is off. Faults are injected by method name: `fail` refuses the next calls, `lose_answer` does the work and then breaks.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any, Final

import grpc

from cloudless.api.v1 import control_pb2, control_pb2_grpc, convert, session_pb2, types_pb2
from cloudless.core import defaults, selectors, validation
from cloudless.core.spec import Metadata, WorkloadSpec
from cloudless.errors import CloudlessError, InvalidArgument, NotFound, PermissionDenied, Unavailable
from cloudless.identity.channel import (
    COORDINATORS_METADATA,
    COORDINATORS_NOW_TRAILER,
    ERROR_TRAILER,
    REASON_TRAILER,
    REMEDY_TRAILER,
    REQUEST_ID_METADATA,
    addresses_digest,
)
from cloudless.testing.fake_cluster import ClusterHandlers, FakeCluster

NOW_MS: Final = 1_800_000_000_000
_THREADS: Final = 32
_WRITES: Final = (
    "Create",
    "Update",
    "Apply",
    "Delete",
    "Scale",
    "Restart",
    "Put",
    "Revoke",
    "Remove",
    "Add",
    "Promote",
)


class FakeControl:
    """Start it with `with FakeControl() as control:`; `control.open_channel` then is a channel to it."""

    def __init__(self) -> None:
        self.lock = threading.Condition(threading.RLock())
        self.revision = 1
        self.workloads: dict[tuple[str, str], Any] = {}
        self.replicas: dict[str, Any] = {}
        self.nodes: dict[str, Any] = {}
        self.tokens: dict[str, Any] = {}
        self.users: dict[str, Any] = {}
        self.events: list[Any] = []
        self.logs: dict[str, bytes] = {}
        self.log_breaks: deque[int] = deque()  # the next Logs calls break after so many lines
        self.images: dict[str, list[Any]] = defaultdict(list)
        self.refused: dict[tuple[str, str], CloudlessError] = {}  # workloads that ApplyWorkloads refuses, and why
        self.cluster = FakeCluster()
        self.auto_ready = True
        self.page_size_max = 1000
        self.calls: list[tuple[str, Any, dict[str, Any]]] = []  # method, request, metadata
        self.executed: list[Any] = []  # every ExecRequest, in order
        self.program: Callable[[Any, Iterator[Any]], Iterator[Any]] = _echo
        self.sign: Callable[[bytes], tuple[str, int]] | None = None  # of a CSR: chain and its end; None: refused
        self.address = ""
        self.coordinators: tuple[str, ...] = ()  # what clients are told that know others
        self._faults: dict[str, deque[tuple[bool, CloudlessError]]] = defaultdict(deque)
        self._results: dict[tuple[str, str], Any] = {}
        self._history: list[tuple[int, str, str, Any]] = []  # revision, kind, key, message or None
        self._stopping = False
        self._epoch = 0
        self._stalled: dict[str, threading.Event] = {}
        self._server: Any = None

    # for tests

    def __enter__(self) -> FakeControl:
        self._server = grpc.server(futures.ThreadPoolExecutor(_THREADS))
        servicer = _Servicer(self)
        for service in ("Workload", "Node", "Token", "User", "Event", "Cluster", "Image"):
            getattr(control_pb2_grpc, f"add_{service}ServiceServicer_to_server")(servicer, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self._stopping = True
            self.lock.notify_all()
        self._server.stop(0).wait(5)

    def open_channel(self, _address: str = "") -> grpc.Channel:
        return grpc.insecure_channel(self.address, options=[("grpc.use_local_subchannel_pool", 1)])

    def fail(self, method: str, error: CloudlessError, *, times: int = 1) -> None:
        """The next calls of this method are refused before anything is done."""
        self._faults[method] += [(False, error)] * times

    def lose_answer(self, method: str) -> None:
        """The next call of this method is done, and its answer lost."""
        self._faults[method].append((True, Unavailable("connection reset")))

    def stall(self, method: str) -> threading.Event:
        """Calls of this method get no answer until the event is set."""
        return self._stalled.setdefault(method, threading.Event())

    def end_watches(self) -> None:
        """Ends every watch in good order, as a coordinator does that stops."""
        with self.lock:
            self._epoch += 1
            self.lock.notify_all()

    def add_node(self, name: str, *, zone: str = "", state: Any = types_pb2.NODE_STATE_READY, **fields: Any) -> Any:
        """A node of 4 CPUs and 8 GiB, ready and connected."""
        view = control_pb2.NodeView(heartbeat_age_ms=120)
        view.node.MergeFrom(
            types_pb2.Node(
                id=name,
                zone=zone,
                state=state,
                state_since_ms=NOW_MS - 60_000,
                enrolled_at_ms=NOW_MS - 3_600_000,
                certificate_expires_at_ms=NOW_MS + 86_400_000,
                **fields,
            )
        )
        device = view.node.device
        device.device_class = types_pb2.DEVICE_CLASS_SERVER
        device.arch, device.os, device.kernel, device.agent_version = "amd64", "linux", "6.18", "0.1.0"
        device.capacity.cpu_millis, device.capacity.memory_bytes = 4000, 8 * 2**30
        device.runtimes.add(name="containerd", version="1.6.20", available=True)
        device.features.add(name="seccomp", available=True)
        device.features.add(name="apparmor", available=False, detail="not in this kernel")
        view.usage.cpu_millis, view.usage.memory_bytes, view.usage.battery_percent = 500, 2**30, -1
        self.put("node", name, view)
        return view

    def put(self, kind: str, key: str, message: Any) -> None:
        """Stores a thing (None: removes it) and tells the watchers."""
        tables: dict[str, dict[Any, Any]] = {"node": self.nodes, "replica": self.replicas, "workload": self.workloads}
        table = tables[kind]
        with self.lock:
            self.revision += 1
            place: Any = tuple(key.split("/", 1)) if kind == "workload" else key
            if message is None:
                table.pop(place, None)
            else:
                table[place] = message
            copy = None
            if message is not None:
                copy = type(message)()
                copy.CopyFrom(message)
            self._history.append((self.revision, kind, key, copy))
            self.lock.notify_all()

    def emit(
        self,
        type: str,
        resource: str,
        description: str,
        *,
        namespace: str = "default",
        severity: Any = types_pb2.SEVERITY_INFO,
    ) -> None:
        """Records an event."""
        with self.lock:
            self.revision += 1
            self.events.append(
                types_pb2.Event(
                    index=self.revision,
                    type=type,
                    severity=severity,
                    time_ms=NOW_MS - 5_000,
                    actor="user/admin",
                    resource=resource,
                    namespace=namespace,
                    description=description,
                )
            )
            self.lock.notify_all()

    def refresh(self, namespace: str, name: str) -> None:
        """Counts a workload's status anew from its replicas and tells the watchers."""
        with self.lock:
            workload = self.workloads[namespace, name]
            mine = [r for r in self.replicas.values() if (r.namespace, r.workload) == (namespace, name)]
            status = workload.status
            status.desired = workload.spec.replicas
            status.ready = sum(r.status.phase == types_pb2.REPLICA_PHASE_READY for r in mine)
            status.running = status.ready
            status.pending = sum(not r.node_id for r in mine)
            status.updated = sum(r.generation == workload.generation for r in mine)
            complete = status.ready >= status.desired <= status.updated == len(mine)
            status.phase = types_pb2.WORKLOAD_PHASE_AVAILABLE if complete else types_pb2.WORKLOAD_PHASE_PROGRESSING
            self.put("workload", f"{namespace}/{name}", workload)

    # for the servicer

    def answer(self, method: str, request: Any, context: Any, function: Callable[[Any], Any]) -> Any:
        """Runs a unary call with faults, idempotency and error trailers."""
        metadata = dict(context.invocation_metadata())
        request_id = str(metadata.get(REQUEST_ID_METADATA, ""))
        if method in self._stalled:
            self._stalled[method].wait(30)
        known = metadata.get(COORDINATORS_METADATA)
        if self.coordinators and known is not None and known != addresses_digest(self.coordinators):
            context.set_trailing_metadata(((COORDINATORS_NOW_TRAILER, ",".join(self.coordinators)),))
        with self.lock:
            self.calls.append((method, request, metadata))
            fault = self._faults[method].popleft() if self._faults[method] else None
            if fault is not None and not fault[0]:
                refuse(context, fault[1])
            try:
                if method.startswith(_WRITES) and request_id and (method, request_id) in self._results:
                    result = self._results[method, request_id]
                else:
                    result = function(request)
            except CloudlessError as error:
                refuse(context, error)
            if request_id:
                self._results[method, request_id] = result
        if fault is not None:
            context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        return result

    def start_stream(self, method: str, request: Any, context: Any) -> None:
        """Records a streaming call and lets an injected fault end it."""
        with self.lock:
            self.calls.append((method, request, dict(context.invocation_metadata())))
            self.lock.notify_all()
            fault = self._faults[method].popleft() if self._faults[method] else None
        if fault is not None:
            refuse(context, fault[1])

    def changes(self, kind: str, from_revision: int, context: Any) -> Iterator[tuple[int, str, Any]]:
        """(revision, key, message or None) of each change of a kind after a revision, until the caller leaves."""
        position = 0
        open_still = self.watching(context)
        while True:
            with self.lock:
                while position >= len(self._history) and open_still():
                    self.lock.wait(0.05)
                if not open_still():
                    return
                rows, position = self._history[position:], len(self._history)
            for revision, changed, key, message in rows:
                if changed == kind and revision > from_revision:
                    yield revision, key, message

    def watching(self, context: Any) -> Callable[[], bool]:
        """Whether a watch that begins now still goes on."""
        epoch = self._epoch
        return lambda: not self._stopping and self._epoch == epoch and bool(context.is_active())

    def place(self, workload: Any) -> None:
        """Gives a workload the replicas that it wants."""
        namespace, name = workload.metadata.namespace, workload.metadata.name
        mine = sorted(key for key, r in self.replicas.items() if (r.namespace, r.workload) == (namespace, name))
        for key in mine[workload.spec.replicas :]:
            self.put("replica", key, None)
        ready = sorted(n for n, v in self.nodes.items() if v.node.state == types_pb2.NODE_STATE_READY)
        for number in range(workload.spec.replicas):
            key = f"{name}-{number:05}"
            fits = bool(ready) and self.auto_ready
            node = ready[number % len(ready)] if fits else ""
            replica = types_pb2.Replica(
                id=key,
                workload=name,
                namespace=namespace,
                generation=workload.generation,
                node_id=node,
                created_at_ms=NOW_MS - 30_000,
            )
            status = replica.status
            status.phase = types_pb2.REPLICA_PHASE_READY if fits else types_pb2.REPLICA_PHASE_PENDING
            if not fits:
                status.reason = "Unplaceable"
                replica.placement.summary = "no node fits: insufficient cpu on 3 nodes"
                replica.placement.nodes_considered = 3
                replica.placement.rejections.add(
                    filter="cpu",
                    reason="insufficient cpu: asks 500, free 3.5",
                    node_ids=["n1", "n2", "n3"],
                    node_count=3,
                )
            else:
                status.address, status.runtime = f"10.88.0.{number + 2}", "containerd"
                for container in workload.spec.containers:
                    status.containers.add(
                        name=container.name, state="running", ready=True, started_at_ms=NOW_MS - 20_000
                    )
                    for port in container.ports:
                        status.ports.add(name=port.name, container_port=port.container_port, protocol=port.protocol)
                decision = replica.placement
                decision.node_id, decision.nodes_considered, decision.decided_at_ms = node, len(ready), NOW_MS - 30_000
                decision.summary = f"{node} scored best of {len(ready)}"
                for index, candidate in enumerate([node, *(n for n in ready if n != node)]):
                    score = decision.candidates.add(node_id=candidate, total=0.7 - index / 10)
                    score.terms.add(name="locality", value=1.0, weight=0.3)
                    score.terms.add(name="reliability", value=0.9, weight=0.25)
            self.put("replica", key, replica)
        self.refresh(namespace, name)


def refuse(context: Any, error: CloudlessError) -> None:
    """Ends a call as the coordinator does."""
    trailers: list[tuple[str, str | bytes]] = [(ERROR_TRAILER, error.code), (REASON_TRAILER, error.reason)]
    if error.remedy:
        trailers.append((REMEDY_TRAILER, error.remedy.encode()))
    context.set_trailing_metadata(tuple(trailers))
    context.abort(grpc.StatusCode[error.grpc_status], error.message)


def _echo(start: Any, requests: Iterator[Any]) -> Iterator[Any]:
    """The program that `exec` runs unless a test sets another: `cat` echoes stdin, `exit N` ends with N, anything
    else prints its words."""
    words = list(start.command)
    if words[:1] == ["exit"]:
        yield control_pb2.ExecResponse(exit_code=int(words[1]))
        return
    if words[:1] == ["cat"]:
        for request in requests:
            if request.WhichOneof("message") == "stdin":
                yield control_pb2.ExecResponse(stdout=request.stdin)
            elif request.WhichOneof("message") == "stdin_closed":
                break
    else:
        yield control_pb2.ExecResponse(stdout=" ".join(words).encode() + b"\n")
        yield control_pb2.ExecResponse(stderr=b"done\n")
    yield control_pb2.ExecResponse(exit_code=0)


class _Servicer(ClusterHandlers):
    """All services in one object; gRPC asks for each method by its name."""

    def __init__(self, control: FakeControl) -> None:
        self._c = control

    def __getattr__(self, method: str) -> Any:
        handler = getattr(type(self), f"_{method}", None)
        if handler is None:  # registered, never called
            return lambda request, context: context.abort(grpc.StatusCode.UNIMPLEMENTED, method)
        return lambda request, context: self._c.answer(method, request, context, lambda asked: handler(self, asked))

    # workloads

    def _ApplyWorkloads(self, request: Any) -> Any:  # noqa: N802
        pairs = []
        for manifest in request.workloads:
            metadata, spec = defaults.apply(
                convert.from_proto(manifest.metadata, Metadata), convert.from_proto(manifest.spec, WorkloadSpec)
            )
            violations = validation.validate(metadata, spec)
            if violations:
                raise InvalidArgument("; ".join(map(str, violations)), reason="BadWorkload")
            pairs.append((metadata, spec))
        if len(pairs) > 500:
            raise InvalidArgument("too many workloads in one call", reason="BatchTooLarge")
        outcomes = [self._put(metadata, spec, dry_run=request.dry_run) for metadata, spec in pairs]
        return control_pb2.ApplyWorkloadsResponse(outcomes=outcomes)

    def _put(self, metadata: Metadata, spec: WorkloadSpec, *, dry_run: bool) -> Any:
        control, key = self._c, (metadata.namespace, metadata.name)
        if error := control.refused.get(key):
            return control_pb2.ApplyOutcome(
                namespace=key[0],
                name=key[1],
                error_code=error.code,
                error_message=error.message,
                error_reason=error.reason,
                error_remedy=error.remedy,
            )
        old = control.workloads.get(key)
        fresh = types_pb2.Workload(created_at_ms=NOW_MS - 60_000, updated_at_ms=NOW_MS - 60_000, generation=1)
        convert.fill(metadata, fresh.metadata)
        convert.fill(spec, fresh.spec)
        changed = "created"
        if old is not None:
            same = old.spec == fresh.spec and old.metadata == fresh.metadata
            changed = "unchanged" if same else "updated"
            fresh.generation = old.generation + (0 if same else 1)
        if not dry_run and changed != "unchanged":
            fresh.revision = control.revision + 1
            control.put("workload", f"{key[0]}/{key[1]}", fresh)
            control.emit(f"workload.{changed}", f"workload/{key[0]}/{key[1]}", changed, namespace=key[0])
            control.place(fresh)
        return control_pb2.ApplyOutcome(namespace=key[0], name=key[1], changed=changed, revision=control.revision)

    def _workload(self, namespace: str, name: str) -> Any:
        found = self._c.workloads.get((namespace or "default", name))
        if found is None:
            message = f"workload {name!r} was not found in namespace {namespace or 'default'}"
            raise NotFound(message, reason="WorkloadNotFound")
        return found

    def _GetWorkload(self, request: Any) -> Any:  # noqa: N802
        return control_pb2.GetWorkloadResponse(workload=self._workload(request.namespace, request.name))

    def _ListWorkloads(self, request: Any) -> Any:  # noqa: N802
        rows = [
            item
            for (namespace, _), item in sorted(self._c.workloads.items())
            if _visible(request.options, namespace, item.metadata.labels)
        ]
        page, token = self._page(rows, request.options)
        return control_pb2.ListWorkloadsResponse(workloads=page, next_page_token=token, revision=self._c.revision)

    def _DeleteWorkload(self, request: Any) -> Any:  # noqa: N802
        self._workload(request.namespace, request.name)
        for key, replica in list(self._c.replicas.items()):
            if (replica.namespace, replica.workload) == (request.namespace, request.name):
                self._c.put("replica", key, None)
        self._c.put("workload", f"{request.namespace}/{request.name}", None)
        return control_pb2.DeleteWorkloadResponse()

    def _ScaleWorkload(self, request: Any) -> Any:  # noqa: N802
        workload = self._workload(request.namespace, request.name)
        workload.spec.replicas = request.replicas
        self._c.place(workload)
        return control_pb2.ScaleWorkloadResponse(workload=workload)

    def _RestartWorkload(self, request: Any) -> Any:  # noqa: N802
        workload = self._workload(request.namespace, request.name)
        workload.generation += 1
        self._c.place(workload)
        return control_pb2.RestartWorkloadResponse(workload=workload)

    def WatchWorkloads(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        control = self._c
        control.start_stream("WatchWorkloads", request, context)

        def shown(namespace: str, name: str, labels: Any) -> bool:
            return request.name in ("", name) and _visible(request.options, namespace, labels)

        start = request.from_revision
        if not start:
            with control.lock:
                start = control.revision
                rows = [_copy(item) for _, item in sorted(control.workloads.items())]
            for item in rows:
                if shown(item.metadata.namespace, item.metadata.name, item.metadata.labels):
                    yield control_pb2.WatchWorkloadsResponse(workload=item, revision=start)
            yield control_pb2.WatchWorkloadsResponse(synced=True, revision=start)
        for revision, key, item in control.changes("workload", start, context):
            namespace, name = key.split("/", 1)
            if item is None and shown(namespace, name, {}):
                yield control_pb2.WatchWorkloadsResponse(
                    deleted_namespace=namespace, deleted_name=name, revision=revision
                )
            elif item is not None and shown(namespace, name, item.metadata.labels):
                yield control_pb2.WatchWorkloadsResponse(workload=item, revision=revision)

    # replicas

    def _replicas(self, request: Any) -> list[Any]:
        return [item for _, item in sorted(self._c.replicas.items()) if self._replica_shown(request, item)]

    def _replica_shown(self, request: Any, item: Any) -> bool:
        workload = self._c.workloads.get((item.namespace, item.workload))
        labels = workload.metadata.labels if workload is not None else {}
        return (
            request.workload in ("", item.workload)
            and request.node_id in ("", item.node_id)
            and _visible(request.options, item.namespace, labels)
        )

    def _ListReplicas(self, request: Any) -> Any:  # noqa: N802
        page, token = self._page(self._replicas(request), request.options)
        return control_pb2.ListReplicasResponse(replicas=page, next_page_token=token, revision=self._c.revision)

    def _GetReplica(self, request: Any) -> Any:  # noqa: N802
        return control_pb2.GetReplicaResponse(replica=self._replica(request.id))

    def _replica(self, text: str) -> Any:
        return _by_prefix(self._c.replicas, text, "replica")

    def WatchReplicas(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        control = self._c
        control.start_stream("WatchReplicas", request, context)
        start = request.from_revision
        if not start:
            with control.lock:
                start = control.revision
                rows = [_copy(item) for item in self._replicas(request)]
            for item in rows:
                yield control_pb2.WatchReplicasResponse(replica=item, revision=start)
            yield control_pb2.WatchReplicasResponse(synced=True, revision=start)
        for revision, key, item in control.changes("replica", start, context):
            if item is None:
                yield control_pb2.WatchReplicasResponse(deleted_id=key, revision=revision)
            elif self._replica_shown(request, item):
                yield control_pb2.WatchReplicasResponse(replica=item, revision=revision)

    def Logs(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        control = self._c
        control.start_stream("Logs", request, context)
        data = control.logs.get(request.replica_id)
        if data is None:
            refuse(context, Unavailable(f"node of {request.replica_id} is not connected", reason="NodeUnreachable"))
            return
        lines = data.splitlines(keepends=True)
        if request.tail_lines >= 0:
            lines = lines[len(lines) - min(request.tail_lines, len(lines)) :]
        if control.log_breaks:
            for line in lines[: control.log_breaks.popleft()]:
                yield control_pb2.LogsResponse(data=line)
            refuse(context, Unavailable("the coordinator stops", reason="ShuttingDown"))
            return
        for line in lines:  # split where it hurts: in the middle of a line
            yield control_pb2.LogsResponse(data=line[:3])
            yield control_pb2.LogsResponse(data=line[3:])

    def Exec(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:  # noqa: N802
        first = next(requests)
        self._c.start_stream("Exec", first, context)
        self._c.executed.append(first)

        def recorded() -> Iterator[Any]:
            for request in requests:
                self._c.executed.append(request)
                yield request

        yield from self._c.program(first.start, recorded())

    # nodes

    def _GetNode(self, request: Any) -> Any:  # noqa: N802
        return control_pb2.GetNodeResponse(node=_by_prefix(self._c.nodes, request.id, "node"))

    def _ListNodes(self, request: Any) -> Any:  # noqa: N802
        selector = selectors.parse(request.options.label_selector)
        rows = [view for _, view in sorted(self._c.nodes.items()) if selector.matches(dict(view.node.labels))]
        page, token = self._page(rows, request.options)
        return control_pb2.ListNodesResponse(nodes=page, next_page_token=token, revision=self._c.revision)

    def _UpdateNode(self, request: Any) -> Any:  # noqa: N802
        view = _by_prefix(self._c.nodes, request.id, "node")
        node = view.node
        if request.HasField("cordoned"):
            node.cordoned = request.cordoned
        if request.HasField("draining"):
            node.draining = request.draining
        node.labels.update(request.set_labels)
        for key in request.remove_labels:
            node.labels.pop(key, None)
        gone = {*request.remove_taints, *(taint.key for taint in request.set_taints)}
        kept = [taint for taint in node.taints if taint.key not in gone]
        del node.taints[:]
        node.taints.extend([*kept, *request.set_taints])
        self._c.put("node", node.id, view)
        return control_pb2.UpdateNodeResponse(node=view)

    def _RemoveNode(self, request: Any) -> Any:  # noqa: N802
        self._c.put("node", _by_prefix(self._c.nodes, request.id, "node").node.id, None)
        return control_pb2.RemoveNodeResponse()

    def WatchNodes(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        control = self._c
        control.start_stream("WatchNodes", request, context)
        start = request.from_revision
        if not start:
            with control.lock:
                start = control.revision
                rows = [_copy(view) for _, view in sorted(control.nodes.items())]
            for view in rows:
                yield control_pb2.WatchNodesResponse(node=view, revision=start)
            yield control_pb2.WatchNodesResponse(synced=True, revision=start)
        for revision, key, view in control.changes("node", start, context):
            gone = {"deleted_id": key} if view is None else {"node": view}
            yield control_pb2.WatchNodesResponse(revision=revision, **gone)

    # tokens, people, events, images, cluster

    def _CreateToken(self, request: Any) -> Any:  # noqa: N802
        token = types_pb2.JoinToken(
            id=f"jt-{len(self._c.tokens):04}",
            node_pattern=request.node_pattern or "*",
            region=request.region,
            zone=request.zone,
            labels=request.labels,
            max_uses=request.max_uses or 1,
            created_at_ms=NOW_MS,
            expires_at_ms=NOW_MS + (request.ttl_ms or 86_400_000),
            created_by="user/admin",
        )
        self._c.tokens[token.id] = token
        return control_pb2.CreateTokenResponse(token=token, jwt=f"jwt-of-{token.id}")

    def _ListTokens(self, request: Any) -> Any:  # noqa: N802
        page, token = self._page([item for _, item in sorted(self._c.tokens.items())], request)
        return control_pb2.ListTokensResponse(tokens=page, next_page_token=token)

    def _RevokeToken(self, request: Any) -> Any:  # noqa: N802
        _by_prefix(self._c.tokens, request.id, "token").revoked = True
        return control_pb2.RevokeTokenResponse()

    def _PutUser(self, request: Any) -> Any:  # noqa: N802
        user = types_pb2.User(name=request.name, bindings=request.bindings, created_at_ms=NOW_MS)
        self._c.users[request.name] = user
        chain = "-----BEGIN CERTIFICATE-----\nfake\n" if request.csr_der else ""
        return control_pb2.PutUserResponse(
            user=user,
            certificate_chain_pem=chain,
            trust_bundle_pem="-----BEGIN CERTIFICATE-----\nroot\n",
            expires_at_ms=NOW_MS + 86_400_000,
        )

    def _RenewUserCertificate(self, request: Any) -> Any:  # noqa: N802
        if self._c.sign is None:
            raise PermissionDenied("nobody is renewed here", reason="RoleRequired")
        chain, expires_at_ms = self._c.sign(request.csr_der)
        return control_pb2.RenewUserCertificateResponse(certificate_chain_pem=chain, expires_at_ms=expires_at_ms)

    def _ListUsers(self, _request: Any) -> Any:  # noqa: N802
        return control_pb2.ListUsersResponse(users=[item for _, item in sorted(self._c.users.items())])

    def _RevokeUser(self, request: Any) -> Any:  # noqa: N802
        _by_prefix(self._c.users, request.name, "user").revoked = True
        return control_pb2.RevokeUserResponse()

    def _WhoAmI(self, _request: Any) -> Any:  # noqa: N802
        binding = types_pb2.RoleBinding(role=types_pb2.ROLE_ADMIN, namespace="*")
        return control_pb2.WhoAmIResponse(
            id="spiffe://test/user/admin", bindings=[binding], certificate_expires_at_ms=NOW_MS + 86_400_000
        )

    def _event_shown(self, request: Any, event: Any) -> bool:
        if not request.all_namespaces and event.namespace != (request.namespace or "default"):
            return False
        resource = request.resource
        named = resource in ("", event.resource) or (resource.endswith("/") and event.resource.startswith(resource))
        return bool(named and event.type.startswith(request.type_prefix))

    def _ListEvents(self, request: Any) -> Any:  # noqa: N802
        rows = [event for event in self._c.events if self._event_shown(request, event)]
        return control_pb2.ListEventsResponse(events=rows[-(request.limit or 500) :], revision=self._c.revision)

    def WatchEvents(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        control = self._c
        control.start_stream("WatchEvents", request, context)
        position = 0
        watching = control.watching(context)
        while True:
            with control.lock:
                while position >= len(control.events) and watching():
                    control.lock.wait(0.05)
                if not watching():
                    return
                rows, position = control.events[position:], len(control.events)
            for event in rows:
                within = request.HasField("from_sequence") and event.index == request.from_index
                newer = event.index > request.from_index or (within and event.sequence > request.from_sequence)
                if newer and self._event_shown(request, event):
                    yield control_pb2.WatchEventsResponse(event=event)

    def ImportImage(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:  # noqa: N802
        start = next(requests).start
        self._c.start_stream("ImportImage", start, context)
        received = 0
        for request in requests:
            received += len(request.data)
            if request.end:
                break
            yield control_pb2.ImportImageResponse(received_bytes=received)
        found = session_pb2.ImageInfo(
            reference=start.reference or "cloudless.local/web:demo", digest="sha256:" + "ab" * 32, size_bytes=received
        )
        self._c.images[start.node_id].append(found)
        yield control_pb2.ImportImageResponse(received_bytes=received, images=[found])

    def _ListImages(self, request: Any) -> Any:  # noqa: N802
        return control_pb2.ListImagesResponse(images=self._c.images[request.node_id])

    def _GetStatus(self, _request: Any) -> Any:  # noqa: N802
        answer = control_pb2.GetStatusResponse(
            version="0.1.0",
            trust_domain="test",
            commit_index=self._c.revision,
            nodes_ready=len(self._c.nodes),
            nodes_total=len(self._c.nodes),
            workloads=len(self._c.workloads),
            replicas_ready=len(self._c.replicas),
            replicas_desired=len(self._c.replicas),
            score_weights={"locality": 0.3},
            wall_clock_ms=NOW_MS,
        )
        self._c.cluster.fill(answer, self._c.revision)
        return answer

    def Backup(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        self._c.start_stream("Backup", request, context)
        try:
            yield from self.backup_stream()
        except CloudlessError as error:
            refuse(context, error)

    def _page(self, rows: list[Any], options: Any) -> tuple[list[Any], str]:
        start = int(options.page_token or 0)
        end = start + min(options.page_size or 500, self._c.page_size_max)
        return rows[start:end], str(end) if end < len(rows) else ""


def _visible(options: Any, namespace: str, labels: Any) -> bool:
    if not options.all_namespaces and namespace != (options.namespace or "default"):
        return False
    return selectors.parse(options.label_selector).matches(dict(labels))


def _by_prefix(table: dict[str, Any], text: str, kind: str) -> Any:
    found = [key for key in table if key == text] or [key for key in table if key.startswith(text)]
    if not found:
        raise NotFound(f"{kind} {text!r} was not found", reason=f"{kind.capitalize()}NotFound")
    if len(found) > 1:
        raise InvalidArgument(f"{text!r} is a prefix of {len(found)} {kind}s", reason="AmbiguousPrefix")
    return table[found[0]]


def _copy(message: Any) -> Any:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy
