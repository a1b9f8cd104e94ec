"""The Runtime protocol on plain processes. All that runs is found again from the folders of `state.py`."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import platform
import signal
import sys
import weakref
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from opentelemetry import trace

from cloudless import __version__
from cloudless.agent.runtime.base import (
    ContainerStats,
    ContainerView,
    ExecRequest,
    Image,
    RuntimeEvent,
    Sandbox,
    SandboxView,
)
from cloudless.agent.runtime.process import confine, exec, findings, processes, records, state
from cloudless.agent.runtime.process.cgroups import Cgroups
from cloudless.agent.runtime.process.events import EventHub
from cloudless.agent.runtime.process.failures import refused
from cloudless.clock import Clock
from cloudless.core.model import Feature, RuntimeInfo
from cloudless.core.spec import Container
from cloudless.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable

log = structlog.get_logger(__name__)
tracer = trace.get_tracer("cloudless.agent")

SHIM = Path(__file__).with_name("shim.py")
_GUARD_INTERVAL_S = 0.5
_KILL_TIMEOUT_S = 15.0
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "armv6l": "arm", "armv8l": "arm"}

Key = tuple[str, str]  # replica id, container


@dataclass(slots=True)
class _Watch:
    attempt: int
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class ProcessRuntime:
    """`directory`: where everything is kept (mode 0700). `cgroup_prefix`: parent cgroup of this agent's containers;
    two agents on one device need different ones. `root`: where /proc and /sys are looked for (tests)."""

    name = "process"

    def __init__(
        self,
        directory: Path,
        *,
        clock: Clock,
        cgroup_prefix: str = "cloudless",
        address: str = state.ADDRESS,
        root: Path = Path("/"),
    ) -> None:
        """`address` is what replicas are told to listen on (`CLOUDLESS_ADDRESS`) and what is reported for them."""
        self._directory = directory
        self._clock = clock
        self._cgroup_prefix = cgroup_prefix
        self._address = address
        self._root = root
        self._abilities: confine.Abilities | None = None
        self._hub = EventHub()
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._watches: dict[Key, _Watch] = {}
        self._sessions: dict[Key, set[exec.ProcessExec]] = {}
        self._guard: asyncio.Task[None] | None = None

    # --- the runtime itself ---

    async def start(self) -> None:
        if sys.platform != "linux":
            raise FailedPrecondition("the process runtime needs Linux", reason="FeatureMissing")
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        await asyncio.to_thread(state.empty_trash, self._directory)
        abilities = self._abilities = await self._detect()
        for folder in state.replicas(self._directory):
            for container in folder.containers():
                attempt = folder.attempt(container)
                if attempt and attempt.exit is None:
                    self._watch((folder.replica_id, container), attempt)
        if self._guard is None and "memory" in abilities.cgroups.missing:
            self._guard = asyncio.create_task(self._guard_memory())

    async def _detect(self) -> confine.Abilities:
        probes = await asyncio.to_thread(findings.run)
        cgroups = Cgroups.prepare(self._cgroup_prefix, root=self._root)
        arch = _ARCHITECTURES.get(platform.machine(), platform.machine())
        return confine.Abilities(os.geteuid() == 0, arch, probes, cgroups)

    async def close(self) -> None:
        self._hub.close()
        tasks = [watch.task for watch in self._watches.values() if watch.task]
        if self._guard:
            tasks.append(self._guard)
        self._guard = None
        self._watches.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for sessions in list(self._sessions.values()):
            for session in list(sessions):
                await session.close()
        self._sessions.clear()

    async def purge(self) -> None:
        """Removes every sandbox, the cgroups and the folder: for a device that the agent leaves for good. Starts the
        runtime where it was not; it is closed afterwards. Repeatable."""
        await self.start()
        for folder in list(state.replicas(self._directory)):
            await self.remove_sandbox(folder.replica_id)
        await self.close()
        self._ready().cgroups.remove_parents()
        await asyncio.to_thread(state.delete, self._directory)

    async def describe(self) -> tuple[RuntimeInfo, tuple[Feature, ...]]:
        if sys.platform != "linux":
            return RuntimeInfo(self.name, __version__, False, f"needs Linux, this is {sys.platform}"), ()
        abilities = self._abilities or await self._detect()
        features = abilities.features()
        missing = [f.name for f in features if not f.available]
        detail = f"without {', '.join(missing)}" if missing else ""
        return RuntimeInfo(self.name, __version__, True, detail), features

    def _ready(self) -> confine.Abilities:
        if self._abilities is None:
            raise Unavailable("the process runtime was not started", reason="RuntimeUnavailable")
        return self._abilities

    # --- sandboxes ---

    def _lock(self, replica_id: str) -> asyncio.Lock:
        lock = self._locks.get(replica_id)
        if lock is None:
            lock = self._locks[replica_id] = asyncio.Lock()
        return lock

    def _folder(self, replica_id: str) -> state.ReplicaFolder:
        folder = state.ReplicaFolder(self._directory, replica_id)
        if not folder.exists():
            raise NotFound(f"replica {replica_id} has no sandbox here")
        return folder

    def _attempt(self, replica_id: str, container: str) -> state.Attempt:
        attempt = self._settled(self._folder(replica_id), container)
        if attempt is None:
            raise NotFound(f"replica {replica_id} has no container {container} here")
        return attempt

    def _running(self, replica_id: str, container: str) -> state.Attempt:
        attempt = self._attempt(replica_id, container)
        if attempt.exit is not None:
            raise FailedPrecondition(f"{container} of {replica_id} does not run", reason="ContainerNotRunning")
        return attempt

    def _settled(self, folder: state.ReplicaFolder, container: str) -> state.Attempt | None:
        """The latest attempt. One whose shim is gone without a word (killed, or the device was restarted) cannot
        have survived it: it is ended here and recorded as killed."""
        attempt = folder.attempt(container)
        if attempt is None or attempt.exit is not None or attempt.supervised():
            return attempt
        attempt = folder.attempt(container)  # the shim may have written it and left since
        if attempt is None or attempt.exit is not None:
            return attempt
        if records.one(attempt.status, "boot") == state.boot_id():
            attempt.program.send(signal.SIGKILL)
        self._ready().cgroups.remove(_group(folder.replica_id, container))
        ended = {"exit_code": 137, "oom": int(attempt.file("oom").exists()), "finished_at_ms": self._clock.now_ms()}
        records.write(attempt.file("exit"), ended)
        log.warning("container.supervisor_lost", replica=folder.replica_id, container=container)
        return folder.attempt(container)

    def _view(self, folder: state.ReplicaFolder) -> SandboxView:
        found = [self._settled(folder, container) for container in folder.containers()]
        return folder.view(tuple(a.view(folder.replica_id) for a in found if a is not None))

    async def list(self) -> Sequence[SandboxView]:
        self._ready()
        return [self._view(folder) for folder in state.replicas(self._directory)]

    async def ensure_sandbox(self, sandbox: Sandbox) -> SandboxView:
        abilities = self._ready()
        folder = state.ReplicaFolder(self._directory, sandbox.replica_id)
        async with self._lock(sandbox.replica_id):
            if not folder.exists():
                folder.create(sandbox, users=abilities.root, address=self._address)
            return self._view(folder)

    async def remove_sandbox(self, replica_id: str) -> None:
        abilities = self._ready()
        async with self._lock(replica_id):
            folder = state.ReplicaFolder(self._directory, replica_id)
            for container in folder.containers():
                if attempt := folder.attempt(container):
                    await self._stop(replica_id, container, grace_ms=0, first=signal.SIGKILL)
                    await self._departed(attempt)
                await self._close_sessions((replica_id, container))
                await asyncio.to_thread(abilities.cgroups.remove, _group(replica_id, container))
            await asyncio.to_thread(folder.remove)

    async def _departed(self, attempt: state.Attempt) -> None:
        """The shim has written its last word, and needs a moment to leave."""
        if not attempt.supervised():
            return
        try:
            async with asyncio.timeout(_KILL_TIMEOUT_S):
                await attempt.shim.ended()
        except TimeoutError:
            raise Unavailable(f"the supervisor of {attempt.folder} does not end", reason="StopTimedOut") from None

    # --- containers ---

    async def start_container(self, sandbox: Sandbox, container: Container, *, attempt: int) -> ContainerView:
        replica_id = sandbox.replica_id
        async with self._lock(replica_id):
            folder = self._folder(replica_id)
            present = self._settled(folder, container.name)
            if present and (present.exit is None or present.number >= attempt):
                return present.view(replica_id)
            with tracer.start_as_current_span("process.start_container"):
                return await self._launch(sandbox, container, folder, attempt)

    async def _launch(
        self, sandbox: Sandbox, container: Container, folder: state.ReplicaFolder, attempt: int
    ) -> ContainerView:
        abilities = self._ready()
        replica_id, group = sandbox.replica_id, _group(sandbox.replica_id, container.name)
        run = folder.run(container.name)
        if earlier := folder.attempt(container.name):
            await self._departed(earlier)
        fields = confine.record(sandbox, container, folder=folder, group=group, abilities=abilities)
        try:
            run.mkdir(mode=0o700, exist_ok=True)
            with _locked(run / "lock") as lock:
                await asyncio.to_thread(abilities.cgroups.make, group, container.resources)
                records.write(run / f"{attempt}.spec", fields | {"shim_cgroup": abilities.cgroups.shim_folders()})
                answer = await _run_shim(run, attempt, lock)
        except ValueError as error:
            raise InvalidArgument(str(error), reason="BadValue") from None
        except OSError as error:
            raise Unavailable(f"{error.filename}: {error.strerror}", reason="RuntimeUnavailable") from error
        started = folder.attempt(container.name)
        if answer == b"ok" and started and started.number == attempt:
            folder.forget_before(container.name, attempt)
            self._watch((replica_id, container.name), started)
            self._hub.publish(RuntimeEvent(replica_id, container.name, "start"))
            log.info("container.started", replica=replica_id, container=container.name, attempt=attempt)
            # Even when it has ended meanwhile: it was started, and the exit is what comes next.
            return state.Attempt(started.folder, attempt, started.status, None).view(replica_id)
        (run / f"{attempt}.spec").unlink(missing_ok=True)
        await asyncio.to_thread(abilities.cgroups.remove, group)
        raise refused(answer or b"setup 0 the supervisor ended without a word")

    async def stop_container(self, replica_id: str, container: str, *, grace_ms: int) -> None:
        await self._stop(replica_id, container, grace_ms=grace_ms, first=signal.SIGTERM)

    async def _stop(self, replica_id: str, container: str, *, grace_ms: int, first: int) -> None:
        attempt = self._attempt(replica_id, container)
        if attempt.exit is not None:
            return
        watch = self._watch((replica_id, container), attempt)
        attempt.program.send(first)
        for seconds in (grace_ms / 1000, _KILL_TIMEOUT_S):
            try:
                async with asyncio.timeout(seconds):
                    await watch.ended.wait()
                return
            except TimeoutError:
                attempt.program.send(signal.SIGKILL)
        raise Unavailable(f"{container} of {replica_id} does not die", reason="StopTimedOut")

    def _watch(self, key: Key, attempt: state.Attempt) -> _Watch:
        watch = self._watches.get(key)
        if watch is None or watch.attempt != attempt.number:
            watch = self._watches[key] = _Watch(attempt.number)
            watch.task = asyncio.create_task(self._follow(key, attempt, watch))
        return watch

    async def _follow(self, key: Key, attempt: state.Attempt, watch: _Watch) -> None:
        if attempt.supervised():
            await attempt.shim.ended()
        replica_id, container = key
        folder = state.ReplicaFolder(self._directory, replica_id)
        ended = self._settled(folder, container) if folder.exists() else None
        if ended and ended.exit and ended.number == attempt.number:
            view = ended.view(replica_id)
            about = {"exit_code": view.exit_code, "oom_killed": view.oom_killed}
            log.info("container.exited", replica=replica_id, container=container, **about)
        await self._close_sessions(key)
        watch.ended.set()
        if self._watches.get(key) is watch:
            del self._watches[key]
        self._hub.publish(RuntimeEvent(replica_id, container, "exit"))

    async def _guard_memory(self) -> None:
        """Where no cgroup limits memory: kills what is found over its limit, and says that it was for that."""
        while True:
            await asyncio.sleep(_GUARD_INTERVAL_S)
            for replica_id, container in list(self._watches):
                attempt = state.ReplicaFolder(self._directory, replica_id).attempt(container)
                if attempt is None or attempt.exit is not None:
                    continue
                limit_bytes = records.number(attempt.spec(), "memory_bytes")
                if limit_bytes and processes.tree_usage(attempt.shim.pid).memory_bytes > limit_bytes:
                    attempt.file("oom").touch()
                    attempt.program.send(signal.SIGKILL)
                    log.warning("container.over_memory", replica=replica_id, container=container, limit=limit_bytes)

    # --- looking inside ---

    async def set_serving(self, replica_ids: frozenset[str]) -> None:
        """Nothing: a process listens on its port by itself."""

    def log_path(self, replica_id: str, container: str) -> Path:
        return state.ReplicaFolder(self._directory, replica_id).log(container)

    async def exec(self, request: ExecRequest) -> exec.ProcessExec:
        attempt = self._running(request.replica_id, request.container)
        if not request.command:
            raise InvalidArgument("a command is needed", reason="NoCommand")
        session = await exec.start(attempt.spec(), request)
        key = (request.replica_id, request.container)
        sessions = self._sessions.setdefault(key, set())
        sessions -= {old for old in sessions if old.closed}
        sessions.add(session)
        now = self._settled(self._folder(request.replica_id), request.container)
        if now is None or now.exit is not None or now.number != attempt.number:
            await self._close_sessions(key)  # it ended meanwhile, and with it everything that ran inside
        return session

    async def _close_sessions(self, key: Key) -> None:
        for session in self._sessions.pop(key, set()):
            session.kill()

    async def stats(self, replica_id: str, container: str) -> ContainerStats:
        attempt = self._running(replica_id, container)
        usage = self._ready().cgroups.usage(_group(replica_id, container))
        if usage.cpu_usage_us is not None and usage.memory_bytes is not None and usage.pids is not None:
            return ContainerStats(usage.cpu_usage_us, usage.memory_bytes, usage.pids)
        tree = processes.tree_usage(attempt.shim.pid)
        return ContainerStats(
            tree.cpu_usage_us if usage.cpu_usage_us is None else usage.cpu_usage_us,
            tree.memory_bytes if usage.memory_bytes is None else usage.memory_bytes,
            tree.pids if usage.pids is None else usage.pids,
        )

    def events(self) -> AsyncIterator[RuntimeEvent]:
        return self._hub.listen()

    # --- images ---

    async def import_image(self, archive: Path, *, reference: str = "") -> Sequence[Image]:
        raise FailedPrecondition("the process runtime has no images", reason="FeatureMissing")

    async def images(self) -> Sequence[Image]:
        return []


def _group(replica_id: str, container: str) -> str:
    return f"{replica_id}.{container}"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    """The container's lock, which the shim inherits and holds for its life."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield lock
    except BlockingIOError:
        raise Unavailable("the container is being started already", reason="RuntimeUnavailable") from None
    finally:
        os.close(lock)


async def _run_shim(folder: Path, attempt: int, lock: int) -> bytes:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        "-S",
        str(SHIM),
        str(folder),
        str(attempt),
        str(lock),
        pass_fds=(lock,),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={},
        cwd="/",
    )
    answer, complaint = await process.communicate()
    if complaint:
        raise Unavailable(f"the supervisor failed: {complaint.decode(errors='replace')[-500:]}")
    return answer
