"""`cloudless-coordinator`: reads the settings, puts the parts together, runs until it is told to stop.

Exit codes: 0 stopped in good order; 1 failed; 2 bad settings; 3 an address is in use; 4 the data folder is in use;
5 stored data is damaged. The log's last line says which, and what to do.
"""

from __future__ import annotations

import os

# gRPC reads it once, when it is imported; its own lines would stand between those of the JSON log.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import asyncio
import gc
import json
import random
import signal
import sys
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import structlog

from cloudless import __version__
from cloudless.clock import Clock, SystemClock
from cloudless.config import CoordinatorConfig, load
from cloudless.coordinator import bootstrap
from cloudless.coordinator.bootstrap import Identity
from cloudless.coordinator.core.state import State
from cloudless.coordinator.directory import Directory
from cloudless.coordinator.reconciling import workload_loop
from cloudless.coordinator.rpc.server import RpcServer
from cloudless.coordinator.rpc.services.backend import Backend
from cloudless.coordinator.sessions import SessionHub
from cloudless.coordinator.store import Store
from cloudless.coordinator.wal import collector
from cloudless.coordinator.wal.machine import FabricMachine
from cloudless.errors import CloudlessError, Corrupt, FailedPrecondition, Internal, InvalidArgument
from cloudless.identity.files import write_private
from cloudless.observe import log as logs
from cloudless.observe import metrics, tracing

PROGRAM = "cloudless-coordinator"
ABOUT = "The coordinator of a Cloudless fabric: keeps its state, admits devices, and decides what runs where."
EXIT_FAILED = 1
EXIT_SETTINGS = 2
EXIT_ADDRESS_IN_USE = 3
EXIT_DIRECTORY_IN_USE = 4
EXIT_DAMAGED = 5

STOP_GRACE_S: Final = 5.0
LISTEN_FILE: Final = "listen.json"

log = structlog.get_logger(__name__)


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:], os.environ))


def run(argv: Sequence[str], environment: Mapping[str, str]) -> int:
    """Runs until SIGTERM or SIGINT; returns the exit code."""
    try:
        config = load(CoordinatorConfig, PROGRAM, argv, environment, about=ABOUT)
        logs.configure(config.log, "coordinator")
        stop_tracing = tracing.configure(config.tracing, PROGRAM)
    except CloudlessError as error:
        _say(f"{PROGRAM}: {error}")
        return exit_code(error)
    try:
        _runner()(_serve(config, SystemClock()))
    except CloudlessError as error:
        log.critical(
            "coordinator.failed", reason=error.reason, cause=error.message, remedy=error.remedy, code=error.code
        )
        return exit_code(error)
    except KeyboardInterrupt:
        return EXIT_FAILED  # a second Ctrl-C while stopping
    finally:
        stop_tracing()
        # gRPC waits two seconds at exit for what is still alive, cycles among it.
        gc.unfreeze()
        gc.collect()
    return 0


def exit_code(error: CloudlessError) -> int:
    """What the process ends with on this error."""
    if error.reason == "PortInUse":
        return EXIT_ADDRESS_IN_USE
    if error.reason == "DataDirectoryInUse":
        return EXIT_DIRECTORY_IN_USE
    if isinstance(error, Corrupt):
        return EXIT_DAMAGED
    return EXIT_SETTINGS if isinstance(error, InvalidArgument) else EXIT_FAILED


class Coordinator:
    """A coordinator that serves; `start` puts it together and `stop` takes it apart. Reads of its parts are for tests
    and for `main`."""

    def __init__(self, config: CoordinatorConfig, clock: Clock) -> None:
        self.config = config
        self.clock = clock
        self.new_admin_context: Path | None = None  # set at the first start only
        self.metrics_address = ""
        self.identity: Identity
        self.store: Store[State]
        self.hub: SessionHub
        self.directory: Directory
        self.rpc: RpcServer
        self._grace_s = STOP_GRACE_S
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[Any]] = []
        self._serving = False

    @classmethod
    async def start(cls, config: CoordinatorConfig, *, clock: Clock) -> Coordinator:
        """Serves when it returns. Raises what the parts raise (see `exit_code`), with everything undone."""
        self = cls(config, clock)
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def _start(self) -> None:
        # What is set up last is taken down first.
        config, clock, stack = self.config, self.clock, self._stack
        lock = bootstrap.take_directory(config)
        stack.callback(lock.release)
        listen_file = config.data_dir / LISTEN_FILE
        listen_file.unlink(missing_ok=True)
        self.identity = identity = bootstrap.open_identity(config, clock)
        trust_domain = identity.authority.trust_domain
        self.store = store = await Store.open(
            bootstrap.log_directory(config),
            machine=FabricMachine(trust_domain),
            clock=clock,
            config=config.store,
            member=config.id,
        )
        stack.push_async_callback(store.close)
        if store.snapshot.state.trust_domain != trust_domain:
            raise FailedPrecondition(
                f"the log is of the trust domain {store.snapshot.state.trust_domain}, the authority of {trust_domain}",
                reason="WrongTrustDomain",
                remedy="the data folder was put together from two; restore it from one backup",
            )
        served = await metrics.serve(config.metrics, health=self.healthy)
        if served is not None:
            stack.push_async_callback(served.close)
            self.metrics_address = served.address
        self.directory = directory = Directory(config.id, lambda: store.snapshot.state)
        self.hub = SessionHub(store, clock, config.session, _Live(directory), coordinator_id=config.id)
        backend = Backend(config, store, self.hub, identity.authority, identity.signer, clock, directory)
        self.rpc = RpcServer(backend, identity.certificate)
        stack.push_async_callback(self._stop_rpc)
        await self.rpc.start()
        await self.hub.start()
        stack.push_async_callback(self.hub.close)
        reconciler = workload_loop(
            store, usages=self.hub.usages, scheduler=config.scheduler, clock=clock, rng=random.SystemRandom()
        )
        stack.push_async_callback(reconciler.stop)
        reconciler.start()
        stack.push_async_callback(self._stop_tasks)
        self._run(bootstrap.certificate_renewer(config, identity, clock).run(), "certificate-renewal")
        self._run(self._fail_with_store(), "store-watchdog")
        self.new_admin_context = await bootstrap.first_admin(
            config, identity, store, addresses=backend.api_addresses, clock=clock
        )
        self._serving = True
        await self.rpc.ready(True)
        listening = {"api": self.rpc.api_address, "enroll": self.rpc.enroll_address, "metrics": self.metrics_address}
        write_private(listen_file, json.dumps(listening).encode())
        log.info(
            "coordinator.ready",
            id=config.id,
            trust_domain=trust_domain,
            index=store.snapshot.index,
            term=store.snapshot.term,
            advertised=backend.api_addresses,
            **listening,
        )

    def healthy(self) -> bool:
        """Whether this process does what it is for."""
        return self._serving and self.store.failure is None

    async def wait(self, stop: asyncio.Event) -> None:
        """Returns when `stop` is set. Raises when a part that must run for ever ended: the process has to end too."""
        stopping = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait((stopping, *self._tasks), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        for task in done - {stopping}:
            error = task.exception()
            if isinstance(error, CloudlessError):
                raise error
            raise Internal(f"{task.get_name()} ended: {error!r}") from error

    async def stop(self, *, grace_s: float = STOP_GRACE_S) -> None:
        """Takes no more calls, gives those under way `grace_s`, then stops the loops and closes the log. May be
        repeated."""
        self._grace_s = grace_s
        self._serving = False
        await self.rpc.ready(False)
        await self._stack.aclose()

    def _run(self, work: Coroutine[Any, Any, Any], name: str) -> None:
        self._tasks.append(asyncio.create_task(work, name=name))

    async def _fail_with_store(self) -> None:
        raise await self.store.wait_failed()

    async def _stop_rpc(self) -> None:
        await self.rpc.stop(grace_s=self._grace_s)

    async def _stop_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class _Live(Sequence[str]):
    """The addresses of all coordinators, as of each look."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def __getitem__(self, index: Any) -> Any:
        return self._directory.api_addresses()[index]

    def __len__(self) -> int:
        return len(self._directory.api_addresses())


async def _serve(config: CoordinatorConfig, clock: Clock) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    log.info("coordinator.starting", version=__version__, pid=os.getpid(), data_dir=str(config.data_dir))
    coordinator = await Coordinator.start(config, clock=clock)
    collector.prefer_latency()
    try:
        if coordinator.new_admin_context is not None:
            _say(f"The first admin's context is in {coordinator.new_admin_context}")
        await coordinator.wait(stop)
        log.info("coordinator.stopping")
    finally:
        await coordinator.stop()
    log.info("coordinator.stopped")


def _runner() -> Any:
    """uvloop's runner where it is installed, else asyncio's."""
    try:
        import uvloop
    except ImportError:

        def plain(main: Coroutine[Any, Any, None]) -> None:
            asyncio.run(main)

        return plain
    return uvloop.run


def _say(text: str) -> None:
    """To the person at the terminal; the log goes to stderr."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
