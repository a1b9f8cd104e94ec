"""`cloudless-agent`: puts the agent together and runs it until it is told to end.

SIGTERM and SIGINT end it gracefully: the coordinator is told, workloads go on running. SIGHUP has it read again what
the owner of the device allows. `cloudless-agent owner` is a program of its own (`owner_cli`).

Exit codes: 0 ended in good order; 1 failed; 2 bad settings; 3 the metrics address is in use; 4 the data folder is in
use; 5 stored data is damaged; 6 not admitted: no join token, or one that is refused. A restart helps after 1 and 3.
"""

from __future__ import annotations

import os

# gRPC reads it once, when it is imported; its own lines would stand between those of the JSON log.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import asyncio
import contextlib
import dataclasses
import fcntl
import gc
import hashlib
import random
import signal
import sys
import uuid
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final, TextIO, TypeVar

import structlog

from cloudless import __version__
from cloudless.agent import enrolling, owner_file
from cloudless.agent.channels import ChannelServer
from cloudless.agent.grants import Grants
from cloudless.agent.grpc_stream import Connection, GrpcStream
from cloudless.agent.imports import empty_spool
from cloudless.agent.journal import Journal
from cloudless.agent.link import LinkServices
from cloudless.agent.logwatch import LogWatcher
from cloudless.agent.owner_rules import OwnerRules
from cloudless.agent.owner_watch import OwnerWatch
from cloudless.agent.probing import NetworkProber
from cloudless.agent.runtimes import Runtimes
from cloudless.agent.session import Session
from cloudless.agent.supervisor import Supervisor
from cloudless.agent.tenure import Tenure, boottime_ms
from cloudless.clock import SystemClock
from cloudless.config import AgentConfig, load
from cloudless.core.model import DeviceInfo, NodeUsage
from cloudless.errors import (
    AlreadyExists,
    CloudlessError,
    Corrupt,
    FailedPrecondition,
    InvalidArgument,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from cloudless.identity.credentials import Credentials
from cloudless.observe import log as logging_setup
from cloudless.observe import metrics as metrics_server
from cloudless.observe import tracing

log = structlog.get_logger(__name__)
T = TypeVar("T")

PROGRAM: Final = "cloudless-agent"
ABOUT: Final = (
    "The Cloudless agent: offers this device to a fabric and runs what the coordinator places on it. What the owner of"
    " the device allows can be changed while it runs: see `cloudless-agent owner --help`."
)
EXIT_FAILED: Final = 1
EXIT_SETTINGS: Final = 2
EXIT_ADDRESS_IN_USE: Final = 3
EXIT_DIRECTORY_IN_USE: Final = 4
EXIT_DAMAGED: Final = 5
EXIT_NOT_ADMITTED: Final = 6

_LOOK_INTERVAL_S: Final = 60.0


class Agent:
    """One agent of this process, composed from its configuration."""

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self._clock = SystemClock()
        self._random = random.SystemRandom()
        self._stopping = asyncio.Event()
        self._device = DeviceInfo()
        self._describing = asyncio.Lock()
        self._addresses: tuple[str, ...] = ()
        self._owner: OwnerWatch | None = None

    def reload(self) -> None:
        """Reads again what the owner allows."""
        if self._owner is not None:
            self._owner.poke()

    def stop(self) -> None:
        """Ends `run` gracefully."""
        self._stopping.set()

    async def run(self) -> None:
        """Runs until `stop`. Raises a CloudlessError when it cannot start."""
        config = self._config
        # Before the enrolment: a start that fails on a taken port must not cost the join token.
        serving = await metrics_server.serve(config.metrics, health=lambda: not self._stopping.is_set())
        try:
            credentials, learnt = await self._until_stopped(
                enrolling.obtain(config, self._clock, jitter=self._random.random)
            )
            name = credentials.spiffe_id.name
            structlog.contextvars.bind_contextvars(node=name)
            runtimes = Runtimes(config, self._clock, node_name=name)
            await self._until_stopped(runtimes.open())
            try:
                await self._serve(credentials, learnt, runtimes, metrics=serving.address if serving else "")
            finally:
                await runtimes.router.close()
        finally:
            if serving is not None:
                await serving.close()

    async def _until_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`; raises CancelledError when the agent shall end before it is there."""
        working = asyncio.ensure_future(work)
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise asyncio.CancelledError
            return working.result()
        finally:
            for task in (working, stopping):
                task.cancel()
            await asyncio.gather(working, stopping, return_exceptions=True)

    async def _serve(
        self, credentials: Credentials, learnt: tuple[str, ...], runtimes: Runtimes, *, metrics: str
    ) -> None:
        from cloudless.agent.device import Conditions, System, UsageSampler
        from cloudless.agent.pressure import PressureWatch
        from cloudless.identity.renewal import Renewer

        config, clock, jitter = self._config, self._clock, self._random.random
        router = runtimes.router
        # A journal of another fabric says nothing here; the trust bundle is what makes a fabric.
        fabric = hashlib.sha256(credentials.bundle_pem).hexdigest()[:16]
        grants = Grants(credentials.bundle_pem, credentials.spiffe_id)
        journal = Journal(config.data_dir / "journal", fabric=fabric, grants=grants)
        prober = NetworkProber(router)
        tenure = Tenure(clock, boottime=boottime_ms, boot_id=_boot_id())
        supervisor = Supervisor(
            router, journal, clock, prober, jitter=jitter, runtime_name=router.runtime_name, tenure=tenure
        )
        supervisor.load()
        system = System.here(config.power_supply_dir)
        conditions = Conditions(system, clock)
        owner = self._owner = OwnerWatch(config, conditions, clock)
        await owner.start()
        await self._detect(runtimes, owner)
        conditions.metered = self._device.metered
        await owner.start()  # once more, now that the link is known
        self._device = dataclasses.replace(self._device, owner=owner.told)
        rules = OwnerRules(owner, supervisor)
        rules.apply()  # before anything is started
        rules.fit(self._device.capacity)
        sampler = UsageSampler(config.data_dir, system=system, clock=clock, conditions=conditions)
        pressure = PressureWatch(
            config.pressure,
            folders=[config.data_dir, *map(Path, config.pressure.folders)],
            sampler=sampler,
            system=system,
            conditions=conditions,
            battery_floor_percent=lambda: owner.terms.battery_floor_percent if owner.terms else 0,
            supervisor=supervisor,
            runtime=router,
            clock=clock,
        )
        watcher = LogWatcher(max_bytes=config.runtime.log_max_bytes)
        spool = config.data_dir / "spool"
        empty_spool(spool)
        channels = ChannelServer(router, supervisor, watcher, dial=_dial, spool=spool)
        holder = _Holder(credentials)
        last_usage = [NodeUsage()]

        def usage() -> NodeUsage:
            last_usage[0] = dataclasses.replace(sampler.sample(), pressure=pressure.said)
            return last_usage[0]

        async def connect(address: str) -> GrpcStream:  # type: ignore[type-arg]
            return Connection(address, holder.credentials, clock).connect()

        services = LinkServices(
            node=supervisor,
            clock=clock,
            boot_id=_boot_id(),
            instance_id=str(uuid.uuid4()),
            device=lambda: self._device,
            usage=usage,
            open_channel=channels.open,
            learn_coordinators=journal.learn_coordinators,
            grants=grants,
            journal_refused=lambda: journal.refused,
        )
        session = Session(
            connect, services, addresses=lambda: _addresses(config, journal.coordinators, learnt), jitter=jitter
        )

        async def renew(csr_der: bytes) -> tuple[bytes, int]:
            stream = session.stream
            if not isinstance(stream, GrpcStream):
                raise Unavailable("no coordinator is connected", reason="CoordinatorUnreachable")
            return await stream.connection.renew(csr_der)

        def renewed(fresh: Credentials) -> None:
            holder.credentials = fresh
            session.rotate()

        renewer = Renewer(
            credentials,
            renew=renew,
            save=lambda fresh: fresh.save(enrolling.identity_directory(config)),
            on_renewed=renewed,
            clock=clock,
            jitter=jitter,
        )
        log.info(
            "agent.started",
            version=__version__,
            runtimes=[runtime.name for runtime in self._device.runtimes if runtime.available],
            metrics=metrics,
        )
        jobs = [
            supervisor.run(),
            session.run(),
            renewer.run(),
            watcher.run(),
            _watch_logs(supervisor, router.log_path, watcher),
            self._look_at_device(runtimes, session, owner, lambda: last_usage[0]),
            self._tell_owner_changes(runtimes, session, owner, rules),
            _for_ever(conditions.ask_programs()),
            rules.run(),
            pressure.run(),
        ]
        tasks = [asyncio.ensure_future(job) for job in jobs]
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            done, _ = await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopping}:
                task.result()
        finally:
            log.info("agent.stopping")
            await session.goodbye("the agent was told to end")
            await channels.close()
            for task in (*tasks, stopping):
                task.cancel()
            await asyncio.gather(*tasks, stopping, return_exceptions=True)
            log.info("agent.stopped")

    async def _detect(self, runtimes: Runtimes, owner: OwnerWatch) -> None:
        from cloudless.agent import device

        async with self._describing:
            described = await runtimes.describe()
            config = dataclasses.replace(self._config, owner=owner.limits)
            found = await asyncio.to_thread(device.detect, config, described, clock=self._clock)
            self._device = dataclasses.replace(found, labels=self._config.labels, owner=owner.told)

    async def _tell_owner_changes(
        self, runtimes: Runtimes, session: Session, owner: OwnerWatch, rules: OwnerRules
    ) -> None:
        """Acts on what the owner changes at once: here first, then the coordinator is told."""
        changed = asyncio.Event()

        def note() -> None:
            rules.apply()
            changed.set()

        async def tell() -> None:
            limits = owner.limits
            while True:
                await changed.wait()
                changed.clear()
                if owner.limits != limits:
                    limits = owner.limits
                    await self._detect(runtimes, owner)
                    rules.fit(self._device.capacity)
                else:
                    self._device = dataclasses.replace(self._device, owner=owner.told)
                session.device_changed()

        async with asyncio.TaskGroup() as group:
            group.create_task(owner.run(note))
            group.create_task(tell())

    async def _look_at_device(
        self, runtimes: Runtimes, session: Session, owner: OwnerWatch, usage: Callable[[], NodeUsage]
    ) -> None:
        """Notices what changes seldom: a runtime that came, addresses, power, the link. Costs next to nothing while
        nothing does."""
        from cloudless.agent.device import System
        from cloudless.agent.device.network import addresses

        system, bridge = System.here(), self._config.runtime.bridge
        while True:
            await asyncio.sleep(_LOOK_INTERVAL_S)
            came = await runtimes.look_again()
            now, known = usage(), self._device
            link = (now.power_source or known.power_source, now.metered if now.power_source else known.metered)
            if (
                came
                or addresses(system, bridge=bridge) != known.addresses
                or link != (known.power_source, known.metered)
            ):
                await self._detect(runtimes, owner)
                log.info("device.changed", addresses=list(self._device.addresses), power=self._device.power_source)
                session.device_changed()


class _Holder:
    """The present credentials."""

    def __init__(self, credentials: Credentials) -> None:
        self.credentials = credentials


async def _dial(session: object) -> GrpcStream:  # type: ignore[type-arg]
    assert isinstance(session, GrpcStream)
    return session.connection.channel()


def _addresses(config: AgentConfig, told: Sequence[str], enrolled_with: Sequence[str]) -> tuple[str, ...]:
    """The configured ones, and what the last coordinator told; before any told something, what came with the
    enrolment."""
    return tuple(dict.fromkeys([*config.coordinators, *(told or enrolled_with)]))


async def _for_ever(work: Coroutine[Any, Any, None]) -> None:
    """`work`, and its end ends nothing."""
    await work
    await asyncio.Event().wait()


async def _watch_logs(supervisor: Supervisor, log_path: Callable[[str, str], Path], watcher: LogWatcher) -> None:
    version = -1
    while True:
        await supervisor.reports.wait_beyond(version)
        version = supervisor.reports.version
        paths = []
        for replica_id, assignment in supervisor.running().items():
            with contextlib.suppress(CloudlessError):  # it has no sandbox yet
                paths += [log_path(replica_id, container.name) for container in assignment.spec.containers]
        watcher.watch(paths)


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _prepare(config: AgentConfig) -> TextIO:
    """The data folder, mode 0700, and its lock, held while the file is open. Raises FailedPrecondition."""
    try:
        config.data_dir.mkdir(parents=True, exist_ok=True)
        config.data_dir.chmod(0o700)
        lock = open(config.data_dir / "lock", "a+")  # noqa: SIM115 (held until the process ends)
    except OSError as error:
        raise FailedPrecondition(
            f"cannot use {config.data_dir}: {error.strerror}", reason="DataFolderUnusable", remedy="set data_dir"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise FailedPrecondition(
            f"another agent uses {config.data_dir}",
            reason="AlreadyRunning",
            remedy="stop it, or give this one a data_dir of its own",
        ) from None
    return lock


async def _run(config: AgentConfig) -> None:
    agent = Agent(config)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.stop)
    loop.add_signal_handler(signal.SIGHUP, agent.reload)
    with contextlib.suppress(asyncio.CancelledError):
        await agent.run()


def exit_code(error: CloudlessError) -> int:
    """What the process ends with on this error."""
    by_reason = {
        "PortInUse": EXIT_ADDRESS_IN_USE,
        "AlreadyRunning": EXIT_DIRECTORY_IN_USE,
        "NotEnrolled": EXIT_NOT_ADMITTED,
    }
    if error.reason in by_reason:
        return by_reason[error.reason]
    if isinstance(error, Unauthenticated | PermissionDenied | AlreadyExists):
        return EXIT_NOT_ADMITTED
    if isinstance(error, Corrupt):
        return EXIT_DAMAGED
    return EXIT_SETTINGS if isinstance(error, InvalidArgument) else EXIT_FAILED


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the agent with these arguments (default: the command line's) and returns the exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments[:1] == ["owner"]:
        from cloudless.agent import owner_cli

        return owner_cli.main(arguments[1:])
    try:
        config = load(AgentConfig, PROGRAM, arguments, os.environ, about=ABOUT)
        owner_file.check(config.owner)
        logging_setup.configure(config.log, "agent")
        flush_traces = tracing.configure(config.tracing, PROGRAM)
        with _prepare(config):
            asyncio.run(_run(config))
        flush_traces()
    except CloudlessError as error:
        sys.stderr.write(f"{PROGRAM}: {error.reason}: {error}\n")
        return exit_code(error)
    finally:
        # gRPC waits two seconds at exit for what is still alive, cycles among it.
        gc.collect()
    return 0


if __name__ == "__main__":
    sys.exit(main())
