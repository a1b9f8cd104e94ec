"""A coordinator's process on its simulated disk, put together as `coordinator.main` does it."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cloudless.api.v1 import member_pb2
from cloudless.config import SchedulerConfig
from cloudless.coordinator.core.state import State, WorkloadKey
from cloudless.coordinator.directory import Directory
from cloudless.coordinator.engine import Engine, EngineParts, StateHost
from cloudless.coordinator.loops import ReconcileLoop
from cloudless.coordinator.observing import RelayStream
from cloudless.coordinator.presence import Presence
from cloudless.coordinator.raft.core.model import Configuration, Member, encode_configuration
from cloudless.coordinator.raft.engine import open_raft
from cloudless.coordinator.raft.options import RaftOptions
from cloudless.coordinator.reconciling import workload_loop
from cloudless.coordinator.sessions import SessionHub
from cloudless.coordinator.store import Store
from cloudless.coordinator.wal.log import Log
from cloudless.coordinator.wal.machine import FabricMachine
from cloudless.coordinator.wal.record import HardState, LogEntry
from cloudless.errors import CloudlessError, Unavailable
from cloudless.testing.disk import SimDisk
from cloudless.testing.sim import authority
from cloudless.testing.sim.authority import TRUST_DOMAIN
from cloudless.testing.sim.hosts import Host
from cloudless.testing.sim_raft.process_transport import ProcessTransport
from cloudless.testing.simnet import SimStream

if TYPE_CHECKING:
    from cloudless.testing.sim.ledger import Ledger
    from cloudless.testing.sim.world import World

DATA: Final = Path("/data")
STOP_S: Final = 10.0


class SimCoordinator(Host):
    """`store` and `hub` are None while it is down or starts. Its name is its id and its addresses."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self.disk = SimDisk(self.rng.getrandbits(32), base=self.clock.seconds)
        self.store: Store[State] | None = None
        self.hub: SessionHub | None = None
        self._reconciler: ReconcileLoop[State, WorkloadKey] | None = None

    def found(self, names: Sequence[str]) -> None:
        """Its log begins with the entry that says who the members are, as if each had been added."""
        voters = tuple(Member(name, name) for name in names)
        config = self.world.store_config
        log = Log.open(self.disk, DATA / "wal", segment_bytes=config.segment_bytes, salt=lambda: 1, seconds=lambda: 0.0)
        log.append([LogEntry(1, 1, encode_configuration(Configuration("sim", voters)))], hard_state=HardState(1))
        log.close()

    @property
    def leading(self) -> bool:
        return self.store is not None and self.store.leading

    # The process's life

    def start(self) -> None:
        if self.process is None:
            self.begin()
            self.spawn(self._run())

    async def _run(self) -> None:
        """Within the process."""
        world, process = self.world, self.process
        assert process is not None
        rng = random.Random(self.rng.getrandbits(64))
        machine = FabricMachine(TRUST_DOMAIN)
        store = await Store.open(
            DATA,
            machine=machine,
            clock=self.clock,
            config=world.store_config,
            member=self.name,
            filesystem=self.disk,
            run_blocking=self.disk.run_blocking,
            seconds=self.disk.seconds,
            random_bits=rng.getrandbits,
            engine=self._open_engine,
        )
        directory = Directory(self.name, lambda: store.snapshot.state)
        directory.listening(api=(self.name,), enroll=(self.name,), member=self.name)
        hub = SessionHub(
            store,
            self.clock,
            world.session_config,
            directory.api_addresses,
            coordinator_id=self.name,
            peers=_Peers(self, directory),
            signer=authority.signer(self.name),
            new_channel_id=lambda: f"{rng.getrandbits(64):x}",
            jitter=rng.random,
        )
        self.store, self.hub = store, hub
        await hub.start()
        reconciler = workload_loop(store, usages=hub.usages, scheduler=SchedulerConfig(), rng=rng)
        reconciler.start()
        self._reconciler = reconciler

        async def ready(is_ready: bool) -> None:
            world.note(f"{process} is {'ready' if is_ready else 'not ready'}")

        presence = Presence(
            store, directory, self.clock, trust_domain=TRUST_DOMAIN, log_schema=machine.schema, on_ready=ready
        )
        self.spawn(presence.run())
        raise await store.wait_failed()

    async def _open_engine(self, parts: EngineParts, host: StateHost) -> Engine:
        world, process = self.world, self.process
        assert process is not None
        transport = ProcessTransport(world.loop, process, world.members.transport(self.name))
        watched = _WatchedHost(world.ledger, self.name, host)
        engine = await open_raft(parts, watched, transport=transport, options=RaftOptions(address=self.name))
        propose = engine.propose

        async def fenced(data: bytes, *, term: int | None = None) -> Any:
            if term is not None:
                world.ledger.plans(data, term)
            return await propose(data, term=term)

        engine.propose = fenced  # type: ignore[method-assign]
        engine.on_leadership(lambda leading: world.ledger.leads(self.name, engine.term, leading))
        return engine

    def end(self, *, silently: bool = False) -> None:
        self.store = self.hub = self._reconciler = None
        if self.process is None:
            return
        super().end(silently=silently)
        self.world.members.crash(self.name)
        if silently:
            self.disk.power_cut()
        else:
            self.disk.restart()

    async def stop(self) -> None:
        """SIGTERM, in the order of `main`; killed where it takes too long."""
        process, store = self.process, self.store
        if process is None or store is None:
            self.end()
            return
        self.world.note(f"{process} stops")
        try:
            await self.world.loop.ask(process, self._stop, timeout_s=STOP_S)
        except (CloudlessError, TimeoutError, ConnectionError) as error:
            self.world.note(f"{process} stopped otherwise: {error!r}")
        finally:
            if self.process is process:
                self.end()

    async def _stop(self) -> None:
        store, hub, reconciler = self.store, self.hub, self._reconciler
        assert store is not None
        assert hub is not None
        others = [member for member in store.status().members if member.id != self.name]
        if store.leading and others:
            try:
                await store.membership.transfer()
            except CloudlessError as error:
                self.world.note(f"{self.process} keeps leading: {error}")
        if reconciler is not None:
            await reconciler.stop()
        await hub.close()
        self.store = self.hub = None
        await store.close()

    # Who dials; within the process

    async def connect(self, node_id: str, stream: SimStream) -> None:
        """One session, as the gRPC handler runs it."""
        hub = self.hub
        if hub is None:
            stream.break_off()
            return
        await self._answer(stream, lambda: hub.serve(node_id, _Call(stream)))

    async def observe(self, stream: SimStream) -> None:
        hub = self.hub
        if hub is None:
            stream.break_off()
            return

        async def tell() -> None:
            async with aclosing(hub.observe()) as answers:
                async for answer in answers:
                    await stream.send(answer)

        await self._answer(stream, tell)

    async def _answer(self, stream: SimStream, handle: Callable[[], Any]) -> None:
        try:
            await handle()
        except CloudlessError as error:
            stream.fail(error)
        else:
            await stream.close()


class _Call:
    """The listener's side of a stream: closing makes later sends fail, the call itself ends with its handler."""

    def __init__(self, stream: SimStream) -> None:
        self._stream = stream
        self._closed = False

    async def send(self, message: Any) -> None:
        if self._closed:
            raise Unavailable("the stream is closed", reason="StreamClosed")
        await self._stream.send(message)

    async def receive(self) -> Any:
        return await self._stream.receive()

    async def close(self) -> None:
        self._closed = True


class _Peers:
    """The other coordinators, over the simulated network."""

    def __init__(self, owner: SimCoordinator, directory: Directory) -> None:
        self._owner = owner
        self._directory = directory

    def ids(self) -> Sequence[str]:
        return [other.id for other in self._directory.others() if other.api_addresses]

    async def observe(self, coordinator_id: str) -> AsyncGenerator[member_pb2.ObserveResponse, None]:
        stream = await self._owner.world.dial(
            self._owner.name, coordinator_id, lambda there, stream: there.observe(stream)
        )
        try:
            while (answer := await stream.receive()) is not None:
                yield answer
        finally:
            stream.break_off()

    def relay(self, coordinator_id: str) -> RelayStream:
        raise Unavailable("there are no channels in this simulation", reason="CoordinatorUnknown")


class _WatchedHost(StateHost):
    """The store, as the engine sees it; the ledger sees every entry that it applies."""

    def __init__(self, ledger: Ledger, name: str, host: StateHost) -> None:
        self._ledger = ledger
        self._name = name
        self._host = host

    @property
    def applied_index(self) -> int:
        return self._host.applied_index

    @property
    def applied_term(self) -> int:
        return self._host.applied_term

    def apply(self, entry: LogEntry) -> Any:
        outcome = self._host.apply(entry)
        self._ledger.applied(self._name, entry, self._host)
        return outcome

    def load(self, body: bytes) -> tuple[int, int]:
        loaded = self._host.load(body)
        self._recovered()
        return loaded

    async def install(self, body: bytes) -> tuple[int, int]:
        installed = await self._host.install(body)
        self._ledger.counts["snapshots installed"] += 1
        self._recovered()
        return installed

    def _recovered(self) -> None:
        host: Any = self._host
        self._ledger.recovered(self._name, host.snapshot)
