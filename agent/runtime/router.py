"""Several runtimes behind one protocol: containers from images go to one, plain processes to another.

Which runtime holds a replica is read from the runtimes themselves (`list`), never guessed, so that a restarted agent
finds everything again. While one runtime does not answer, `list` fails as a whole: a partial answer would read as
"gone".
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from cloudless.agent.runtime.base import (
    ContainerStats,
    ContainerView,
    ExecRequest,
    ExecSession,
    Image,
    Runtime,
    RuntimeEvent,
    Sandbox,
    SandboxView,
)
from cloudless.core.model import Feature, RuntimeInfo
from cloudless.core.spec import Container, WorkloadSpec
from cloudless.errors import CloudlessError, FailedPrecondition, InvalidArgument, NotFound

_PROCESS = "process"
_EVENTS_MAX = 1024


class RouterRuntime:
    """`runtimes` by preference. One named `process` takes processes, the first other one takes images."""

    name = "router"

    def __init__(self, runtimes: Sequence[Runtime]) -> None:
        self._runtimes = tuple(runtimes)
        self._holders: dict[str, Runtime] = {}
        self._listeners: set[asyncio.Queue[RuntimeEvent | Exception | None]] = set()

    def add(self, runtime: Runtime) -> None:
        """One more, started already. Whoever listens to events is made to listen, and look, again."""
        self._runtimes = (*self._runtimes, runtime)
        for queue in self._listeners:
            queue.put_nowait(None)

    async def start(self) -> None:
        for runtime in self._runtimes:
            await runtime.start()

    async def close(self) -> None:
        for runtime in self._runtimes:
            await runtime.close()

    async def describe(self) -> tuple[RuntimeInfo, tuple[Feature, ...]]:
        """The router's own line; `describe_all` has those of the runtimes."""
        infos, features = await self.describe_all()
        available = any(info.available for info in infos)
        return RuntimeInfo(self.name, "", available, ", ".join(info.name for info in infos if info.available)), features

    async def describe_all(self) -> tuple[tuple[RuntimeInfo, ...], tuple[Feature, ...]]:
        """Every runtime, and the features of all: one that any of them enforces is available."""
        described = [await runtime.describe() for runtime in self._runtimes]
        features: dict[str, Feature] = {}
        for _, found in described:
            for feature in found:
                known = features.get(feature.name)
                if known is None or (feature.available and not known.available):
                    features[feature.name] = feature
        return tuple(info for info, _ in described), tuple(features[name] for name in sorted(features))

    def runtime_name(self, spec: WorkloadSpec) -> str:
        """The name of the runtime that runs this; empty when this node has none for it."""
        try:
            return self._for(spec).name
        except CloudlessError:
            return ""

    def _for(self, spec: WorkloadSpec) -> Runtime:
        processes = [bool(container.process) for container in spec.containers]
        if any(processes) and not all(processes):
            raise InvalidArgument("one replica cannot have both images and processes", reason="MixedRuntimes")
        wants_process = all(processes) and bool(processes)
        for runtime in self._runtimes:
            if (runtime.name == _PROCESS) == wants_process:
                return runtime
        wanted = "processes" if wants_process else "container images"
        raise FailedPrecondition(f"this node has no runtime for {wanted}", reason="RuntimeUnavailable")

    def _holding(self, replica_id: str) -> Runtime:
        runtime = self._holders.get(replica_id)
        if runtime is None:
            raise NotFound(f"replica {replica_id} has no sandbox on this node", reason="ReplicaNotFound")
        return runtime

    async def list(self) -> Sequence[SandboxView]:
        views: list[SandboxView] = []
        for runtime in self._runtimes:
            for view in await runtime.list():
                self._holders[view.replica_id] = runtime
                views.append(view)
        return views

    async def ensure_sandbox(self, sandbox: Sandbox) -> SandboxView:
        runtime = self._for(sandbox.spec)
        view = await runtime.ensure_sandbox(sandbox)
        self._holders[sandbox.replica_id] = runtime
        return view

    async def start_container(self, sandbox: Sandbox, container: Container, *, attempt: int) -> ContainerView:
        return await self._for(sandbox.spec).start_container(sandbox, container, attempt=attempt)

    async def stop_container(self, replica_id: str, container: str, *, grace_ms: int) -> None:
        await self._holding(replica_id).stop_container(replica_id, container, grace_ms=grace_ms)

    async def remove_sandbox(self, replica_id: str) -> None:
        runtime = self._holders.get(replica_id)
        for each in (runtime,) if runtime is not None else self._runtimes:
            await each.remove_sandbox(replica_id)
        self._holders.pop(replica_id, None)

    async def set_serving(self, replica_ids: frozenset[str]) -> None:
        for runtime in self._runtimes:
            await runtime.set_serving(replica_ids)

    def log_path(self, replica_id: str, container: str) -> Path:
        return self._holding(replica_id).log_path(replica_id, container)

    async def exec(self, request: ExecRequest) -> ExecSession:
        return await self._holding(request.replica_id).exec(request)

    async def stats(self, replica_id: str, container: str) -> ContainerStats:
        return await self._holding(replica_id).stats(replica_id, container)

    async def events(self) -> AsyncIterator[RuntimeEvent]:
        """The events of all, until the first runtime's stream ends or fails."""
        queue: asyncio.Queue[RuntimeEvent | Exception | None] = asyncio.Queue()

        async def pump(runtime: Runtime) -> None:
            end: Exception | None = None
            try:
                async for event in runtime.events():
                    if queue.qsize() >= _EVENTS_MAX:
                        break  # the listener is too slow: it looks at everything instead
                    queue.put_nowait(event)
            except CloudlessError as error:
                end = error
            queue.put_nowait(end)

        self._listeners.add(queue)
        pumps = [asyncio.ensure_future(pump(runtime)) for runtime in self._runtimes]
        try:
            while True:
                item = await queue.get()
                if isinstance(item, Exception):
                    raise item
                if item is None:
                    return
                yield item
        finally:
            self._listeners.discard(queue)
            for task in pumps:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*pumps, return_exceptions=True)

    async def import_image(self, archive: Path, *, reference: str = "") -> Sequence[Image]:
        runtime = next((r for r in self._runtimes if r.name != _PROCESS), None)
        if runtime is None:
            raise FailedPrecondition("this node has no runtime that keeps images", reason="RuntimeUnavailable")
        return await runtime.import_image(archive, reference=reference)

    async def images(self) -> Sequence[Image]:
        found: list[Image] = []
        for runtime in self._runtimes:
            if runtime.name != _PROCESS:
                found += await runtime.images()
        return found
