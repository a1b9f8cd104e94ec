"""`cloudless-coordinator`: reads the settings, puts the parts together, runs until it is told to stop.

Exit codes: 0 stopped in good order; 1 failed; 2 bad settings; 3 an address is in use; 4 the data folder is in use;
5 stored data is damaged or gone; 6 this coordinator was removed from the fabric. The log's last line says which, and
what to do.
"""

from __future__ import annotations

import os

# gRPC reads these once, when it is imported. Its own lines would stand between those of the JSON log. The listener that
# version 1.80 prefers passes what comes on a connection from thread to thread; the one that it had before serves it
# where it is waited for, and a call costs a fifth less.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")

import asyncio
import contextlib
import gc
import json
import random
import resource
import signal
import sys
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import structlog

from cloudless import __version__
from cloudless.backup import BackupInfo
from cloudless.clock import Clock, SystemClock
from cloudless.config import CoordinatorConfig, load
from cloudless.coordinator import bootstrap, engines, joining, restoring
from cloudless.coordinator.bootstrap import Identity
from cloudless.coordinator.core.state import State
from cloudless.coordinator.directory import Directory
from cloudless.coordinator.engines import Prepared, Wiring
from cloudless.coordinator.presence import Presence
from cloudless.coordinator.reconciling import workload_loop
from cloudless.coordinator.refusals import MemberRefusals
from cloudless.coordinator.rpc.peers import GrpcPeers
from cloudless.coordinator.rpc.server import RpcServer
from cloudless.coordinator.rpc.services.backend import Backend
from cloudless.coordinator.sessions import SessionHub
from cloudless.coordinator.store import Store
from cloudless.coordinator.wal import collector
from cloudless.coordinator.wal.machine import FabricMachine
from cloudless.errors import CloudlessError, Corrupt, FailedPrecondition, Internal, InvalidArgument
from cloudless.identity.files import write_private
from cloudless.identity.signing import Signer
from cloudless.observe import lateness, metrics, tracing
from cloudless.observe import log as logs

PROGRAM = "cloudless-coordinator"
ABOUT = "The coordinator of a Cloudless fabric: keeps its state, admits devices, and decides what runs where."
EXIT_FAILED = 1
EXIT_SETTINGS = 2
EXIT_ADDRESS_IN_USE = 3
EXIT_DIRECTORY_IN_USE = 4
EXIT_DAMAGED = 5
EXIT_REMOVED = 6

STOP_GRACE_S: Final = 5.0
HAND_OVER_S: Final = 1.0
LISTEN_FILE: Final = "listen.json"
# Without a leader for this long, a coordinator asks the others why.
_ALONE_MS: Final = 1_500
_LOOK_INTERVAL_S: Final = 0.5
_RETRY_DELAY_S: Final = 1.0

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
    _allow_many_connections()
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


def _allow_many_connections() -> None:
    """As many files as the system lets this process have: every agent is one, and shells give a thousand."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def exit_code(error: CloudlessError) -> int:
    """What the process ends with on this error."""
    if error.reason == "PortInUse":
        return EXIT_ADDRESS_IN_USE
    if error.reason == "DataDirectoryInUse":
        return EXIT_DIRECTORY_IN_USE
    if error.reason in ("MemberRemoved", "CoordinatorRemoved"):
        return EXIT_REMOVED
    if isinstance(error, Corrupt) or error.reason == "MemberLostDisk":
        return EXIT_DAMAGED
    return EXIT_SETTINGS if isinstance(error, InvalidArgument) else EXIT_FAILED


class Coordinator:
    """A coordinator that runs; `start` puts it together and `stop` takes it apart. Reads of its parts are for tests
    and for `main`."""

    def __init__(self, config: CoordinatorConfig, clock: Clock) -> None:
        self.config = config
        self.clock = clock
        self.new_admin_context: Path | None = None  # set at the first start of a fabric only
        self.metrics_address = ""
        self.identity: Identity
        self.engine: Prepared
        self.machine: FabricMachine
        self.store: Store[State]
        self.hub: SessionHub
        self.directory: Directory
        self.rpc: RpcServer
        self.presence: Presence
        self._grace_s = STOP_GRACE_S
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[Any]] = []
        self._random = random.SystemRandom()
        self._serving = False

    @classmethod
    async def start(cls, config: CoordinatorConfig, *, clock: Clock) -> Coordinator:
        """Listens when it returns. The only voter of its cluster is ready by then; any other becomes ready once it has
        heard of a leader and caught up (`wait_ready`). A coordinator that joins waits here until it is admitted.

        Raises what the parts raise (see `exit_code`), with everything undone."""
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
        bootstrap.check_addresses(config)
        lock = bootstrap.take_directory(config)
        stack.callback(lock.release)
        listen_file = config.data_dir / LISTEN_FILE
        listen_file.unlink(missing_ok=True)
        joining.check_id(config)
        restored = await asyncio.to_thread(restoring.restore_if_asked, config)
        await joining.join_if_asked(config, clock, jitter=self._random.random)
        self.identity = identity = bootstrap.open_identity(config, clock)
        joining.claim_id(config)
        bootstrap.check_log(config)
        await self._open_store(restored)
        store = self.store
        served = await metrics.serve(config.metrics, health=self.healthy)
        if served is not None:
            stack.push_async_callback(served.close)
            self.metrics_address = served.address
        self.directory = directory = Directory(config.id, lambda: store.snapshot.state)
        directory.own_member = self.engine.advertised
        peers = GrpcPeers(directory, identity.certificate, clock)
        stack.push_async_callback(peers.close)
        self.hub = SessionHub(
            store,
            clock,
            config.session,
            directory.api_addresses,
            coordinator_id=config.id,
            peers=peers,
            signer=Signer(identity.certificate),
        )
        backend = Backend(
            config,
            store,
            self.hub,
            identity.authority,
            identity.signer,
            clock,
            directory,
            cluster_id=self.engine.cluster_id,
        )
        self.rpc = RpcServer(backend, identity.certificate)
        stack.push_async_callback(self._stop_rpc)
        await self.rpc.start()
        await self.hub.start()
        stack.push_async_callback(self.hub.close)
        reconciler = workload_loop(
            store,
            usages=self.hub.usages,
            scheduler=config.scheduler,
            rng=random.Random(self._random.getrandbits(256)),  # noqa: S311
        )
        stack.push_async_callback(reconciler.stop)
        reconciler.start()
        self.presence = Presence(
            store,
            directory,
            clock,
            trust_domain=identity.authority.trust_domain,
            log_schema=self.machine.schema,
            on_ready=self._on_ready,
        )
        stack.push_async_callback(self._stop_tasks)
        self._run(bootstrap.certificate_renewer(config, identity, clock).run(), "certificate-renewal")
        self._run(self._fail_with_store(), "store-watchdog")
        self._run(lateness.watch(), "event-loop-lateness")
        self._run(self._refusals.record(store), "member-refusals")
        if self._alone():
            # The rest of a first start, before anybody is told that it serves.
            self.new_admin_context = await bootstrap.first_admin(
                config, identity, store, coordinators=backend.api_addresses, clock=clock
            )
        self._serving = True
        write_private(listen_file, json.dumps(self._listening()).encode())
        log.info("coordinator.listening", id=config.id, **self._listening())
        self._run(self.presence.run(), "presence")
        if config.store.engine != "single":
            self._run(self._stay_a_member(), "membership")
        if restored is not None:
            self._run(self._after_restore(restored), "restore")
        if self._alone():
            await self._until_ready()

    async def _open_store(self, restored: BackupInfo | None) -> None:
        config, trust_domain = self.config, self.identity.authority.trust_domain
        self._refusals = MemberRefusals(config.id, self.clock)
        self.machine = FabricMachine(trust_domain, member=config.id)
        begin = not joining.joined(config)
        self.engine = await engines.prepare(Wiring(config, self.identity, self.clock, self._refusals, begin=begin))
        try:
            self.store = await Store.open(
                bootstrap.log_directory(config),
                machine=self.machine,
                clock=self.clock,
                config=config.store,
                member=config.id,
                engine=self.engine.open,
            )
        except BaseException:
            await self.engine.close()
            raise
        self._stack.push_async_callback(self.store.close)
        joining.mark_log_begun(config)
        found = self.store.snapshot.state
        if found.trust_domain != trust_domain:
            raise FailedPrecondition(
                f"the log is of the trust domain {found.trust_domain}, the authority of {trust_domain}",
                reason="WrongTrustDomain",
                remedy="the data folder was put together from two; restore it from one backup",
            )
        others = [c.id for c in found.coordinators.values() if c.id != config.id and not c.removed]
        # A restored fabric is this coordinator alone; it forgets the others in a moment.
        if config.store.engine == "single" and restored is None and (others or not begin):
            raise InvalidArgument(
                f"store.engine is single, but this is one of several coordinators ({', '.join(sorted(others))})",
                reason="WrongEngine",
                remedy="set store.engine to raft, or remove the other coordinators first",
            )

    def _alone(self) -> bool:
        """Whether no other coordinator has a say in what is committed."""
        members = self.store.status().members
        return joining.under_way(self.config) is None and all(
            member.id == self.config.id for member in members if member.voter
        )

    def _listening(self) -> dict[str, str]:
        addresses = {
            "api": self.rpc.api_address,
            "enroll": self.rpc.enroll_address,
            "metrics": self.metrics_address,
            "member": self.engine.listening,
        }
        return {name: address for name, address in addresses.items() if address or name == "metrics"}

    async def _on_ready(self, ready: bool) -> None:
        await self.rpc.ready(ready and self._serving)
        if ready:
            snapshot = self.store.snapshot
            log.info(
                "coordinator.ready",
                id=self.config.id,
                trust_domain=self.identity.authority.trust_domain,
                index=snapshot.index,
                term=snapshot.term,
                leader=self.store.leader_id,
                advertised=list(self.directory.own_api),
                **self._listening(),
            )

    async def wait_ready(self) -> None:
        """Returns once it was ready for the first time. Raises as `wait` does."""
        await self._until_ready()

    async def _until_ready(self) -> None:
        ready = asyncio.create_task(self.presence.wait_ready())
        try:
            done, _ = await asyncio.wait((ready, *self._tasks), return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        self._raise_ended(done - {ready})

    async def _stay_a_member(self) -> None:
        """Completes a join. Afterwards, when no leader is heard: tells the others where this coordinator is now, and
        hears from them whether it was removed, for members do not talk to who was."""
        certificate = self.identity.certificate
        if (plan := joining.under_way(self.config)) is not None:
            if self.directory.own_member:  # else the engine has no members of its own
                await joining.become_learner(
                    lambda: [*self._others(), *plan.coordinators],
                    lambda: certificate.current,
                    member_address=self.directory.own_member,
                    jitter=self._random.random,
                )
            await self.presence.wait_ready()  # its own log says by now that it is one of them
            await asyncio.to_thread(joining.remember_others, self.config, self._others() or plan.coordinators)
            joining.completed(self.config)
        kept = joining.remembered_others(self.config)
        asked_at_ms = self.clock.monotonic_ms()
        while True:
            await asyncio.sleep(_LOOK_INTERVAL_S * (0.75 + 0.5 * self._random.random()))
            others = tuple(self._others())
            if self.presence.ready and others != kept:
                kept = others
                await asyncio.to_thread(joining.remember_others, self.config, others)
            now_ms = self.clock.monotonic_ms()
            if min(self.presence.leaderless_ms, now_ms - asked_at_ms) >= _ALONE_MS:
                await joining.find_others(others or kept, certificate.current, member_address=self.directory.own_member)
                asked_at_ms = self.clock.monotonic_ms()

    async def _after_restore(self, info: BackupInfo) -> None:
        """What a restored fabric has to say, however often that has to be tried; then nothing more."""
        while True:
            try:
                await restoring.after_restore(self.store, info, self.config.id, data_dir=self.config.data_dir)
                await asyncio.Event().wait()  # a task that ends, ends the process
            except CloudlessError as error:
                if not error.retryable:
                    raise
                log.warning("restore.not_finished_yet", reason=error.reason, cause=error.message)
            await asyncio.sleep(_RETRY_DELAY_S)

    def _others(self) -> list[str]:
        return [address for other in self.directory.others() for address in other.api_addresses]

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
        self._raise_ended(done - {stopping})

    @staticmethod
    def _raise_ended(tasks: Iterable[asyncio.Task[Any]]) -> None:
        for task in tasks:
            error = task.exception()
            if isinstance(error, CloudlessError):
                raise error
            raise Internal(f"{task.get_name()} ended: {error!r}") from error

    async def stop(self, *, grace_s: float = STOP_GRACE_S) -> None:
        """Hands leadership over, takes no more calls, gives those under way `grace_s`, then stops the loops and closes
        the log. May be repeated."""
        self._grace_s = grace_s
        self._serving = False
        await self.rpc.ready(False)
        await self._hand_over()
        await self._stack.aclose()

    async def _hand_over(self) -> None:
        """First of all, so that the others take writes while this one finishes what it has."""
        others = [m for m in self.store.status().members if m.voter and m.id != self.config.id]
        if not self.store.leading or not others:
            return
        try:
            async with asyncio.timeout(HAND_OVER_S):
                leader = await self.store.membership.transfer()
        except (CloudlessError, TimeoutError) as error:
            log.warning("coordinator.leadership_not_handed_over", cause=str(error) or "it took too long")
        else:
            log.info("coordinator.leadership_handed_over", to=leader)

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


async def _serve(config: CoordinatorConfig, clock: Clock) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    log.info("coordinator.starting", version=__version__, pid=os.getpid(), data_dir=str(config.data_dir))
    coordinator = await _started(config, clock, stop)
    if coordinator is None:
        log.info("coordinator.stopped")
        return
    collector.prefer_latency()
    try:
        if coordinator.new_admin_context is not None:
            _say(f"The first admin's context is in {coordinator.new_admin_context}")
        await coordinator.wait(stop)
        log.info("coordinator.stopping")
    finally:
        await coordinator.stop()
    log.info("coordinator.stopped")


async def _started(config: CoordinatorConfig, clock: Clock, stop: asyncio.Event) -> Coordinator | None:
    """None: it was told to stop before it had started; who joins may wait for the others for long."""
    starting = asyncio.create_task(Coordinator.start(config, clock=clock))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            return starting.result()
        log.info("coordinator.stopping")
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await (await starting).stop()  # it was faster
        return None
    finally:
        stopping.cancel()


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
