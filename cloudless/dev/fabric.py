"""A whole fabric on one machine: coordinators and agents as real processes under one folder.

`make demo`, the end-to-end tests, the chaos tests and the benchmarks all stand on it. Everything that the
processes write is below `directory`; they listen on loopback, on ports that the system picks. What was started is
in `processes.json`, so that another process (`make demo-down`) can end it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cloudless import contexts
from cloudless.api.v1 import control_pb2, control_pb2_grpc
from cloudless.dev.processes import ProcessId, end
from cloudless.errors import CloudlessError, DeadlineExceeded, FailedPrecondition
from cloudless.identity.channel import error_from_rpc, open_sync_channel

FIRST = "c1"

_POLL_S = 0.02
_CALL_S = 5.0


@dataclass(frozen=True)
class AgentPlan:
    """One agent of the fabric. `index` (1..250) tells its bridge and subnet."""

    name: str
    index: int
    region: str = "home"
    zone: str = ""
    runtimes: tuple[str, ...] = ("containerd", "process")
    settings: dict[str, str] = field(default_factory=dict)  # more flags: "owner-memory": "1Gi"


class Hosts(Protocol):
    """Hosts of one machine with addresses of their own; `testing.underlay.Underlay` makes some."""

    def address(self, name: str) -> str: ...

    def enter(self, name: str) -> list[str]:
        """What stands before the command line of a program that shall run there; it must replace itself by it."""
        ...


class LocalFabric:
    """Synchronous on purpose: its callers are scripts and tests that do one thing after another.

    `tag` (at most 8 characters) keeps names of bridges, cgroups and containerd namespaces of several fabrics on one
    machine apart.
    """

    def __init__(
        self,
        directory: Path,
        *,
        tag: str,
        subnet_prefix: str = "10.201",
        containerd_address: str = "",
        containerd_snapshotter: str = "overlayfs",
        coordinator_settings: dict[str, str] | None = None,
        hosts: Hosts | None = None,
        agent_hosts: Hosts | None = None,
    ) -> None:
        """`hosts`: where the coordinators run, by id; `agent_hosts`: where the agents run, by name. On the machine
        itself unless given."""
        self.directory = directory
        self._hosts = hosts
        self._agent_hosts = agent_hosts
        self.tag = tag
        self.subnet_prefix = subnet_prefix
        self.containerd_address = containerd_address
        self.containerd_snapshotter = containerd_snapshotter
        self.coordinator_settings = coordinator_settings or {}
        self.context_file = directory / "config.yaml"
        self._logs = directory / "logs"
        self._processes = directory / "processes.json"
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    # processes

    def started(self) -> dict[str, ProcessId]:
        """What was started and is not yet stopped, by name; it may have ended by itself."""
        if not self._processes.exists():
            return {}
        return {name: ProcessId(**known) for name, known in json.loads(self._processes.read_text()).items()}

    def alive(self, name: str) -> bool:
        process = self.started().get(name)
        return process is not None and process.alive()

    def pid(self, name: str) -> int:
        return self.started()[name].pid

    def log_file(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def spawn(self, name: str, argv: Sequence[str], *, environment: dict[str, str] | None = None) -> int:
        """Starts a process in its own session, with its output in `logs/NAME.log`; idempotent while it lives."""
        if self.alive(name):
            return self.pid(name)
        self._logs.mkdir(parents=True, exist_ok=True)
        with self.log_file(name).open("ab") as log:
            child = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )
        self._children[name] = child
        process = ProcessId.of(child.pid) or ProcessId(child.pid, 0)
        self._remember({**self.started(), name: process})
        return child.pid

    def stop(self, name: str, *, number: int = signal.SIGTERM, timeout_s: float = 20.0) -> None:
        """Ends a process by the id that was started, and waits until it is gone; killed after `timeout_s`.

        Raises DeadlineExceeded when even that does not end it.
        """
        process = self.started().get(name)
        if process is not None and not end(process, grace_ms=int(timeout_s * 1000), signals=(number, signal.SIGKILL)):
            raise DeadlineExceeded(f"{name} (process {process.pid}) does not end")
        if name in self._children:
            self._children.pop(name).wait()
        self._remember({k: v for k, v in self.started().items() if k != name})

    def stop_together(self, names: Sequence[str]) -> None:
        """Ends several processes, each of which takes its time, at the price of the slowest."""
        with ThreadPoolExecutor(max_workers=8) as pool:
            # processes.json is written once, behind them
            processes = self.started()
            known = [processes[name] for name in names if name in processes]
            ended = list(pool.map(lambda process: end(process, grace_ms=20_000), known))
        for name in names:
            self.stop(name)
        if not all(ended):
            raise DeadlineExceeded("a process does not end")

    def kill(self, name: str) -> None:
        """kill -9, as a power cut of this one process."""
        self.stop(name, number=signal.SIGKILL)

    def wait_ended(self, name: str, *, timeout_s: float = 30.0) -> int:
        """The exit code of a process that ends by itself. Raises DeadlineExceeded when it does not."""
        child = self._children[name]
        try:
            code = child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise DeadlineExceeded(f"{name} (process {child.pid}) does not end") from None
        self.stop(name)
        return code

    def _remember(self, processes: dict[str, ProcessId]) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        temporary = self._processes.with_suffix(".tmp")
        temporary.write_text(json.dumps({name: dataclasses.asdict(p) for name, p in processes.items()}))
        temporary.replace(self._processes)

    # members

    @staticmethod
    def coordinator_process(coordinator_id: str) -> str:
        """The name of its process, and of its folder: `coordinator` for the first one."""
        return "coordinator" if coordinator_id == FIRST else f"coordinator-{coordinator_id}"

    def coordinators(self) -> list[str]:
        """Ids of the coordinators that were started and not stopped, the first one first."""
        names = [name for name in self.started() if name == "coordinator" or name.startswith("coordinator-")]
        return sorted(FIRST if name == "coordinator" else name.removeprefix("coordinator-") for name in names)

    def coordinator_data(self, coordinator_id: str = FIRST) -> Path:
        return self.directory / self.coordinator_process(coordinator_id)

    def start_coordinator(
        self, coordinator_id: str = FIRST, *, settings: dict[str, str] | None = None, timeout_s: float = 30.0
    ) -> None:
        """Starts it and waits until it listens; the first one serves by then, and its admin context becomes the current
        one of `config.yaml`. Another one needs `add_coordinator` once. One that runs is left alone. `settings` go over
        those of all coordinators."""
        name = self.coordinator_process(coordinator_id)
        if self.alive(name):
            return
        self.spawn_coordinator(coordinator_id, settings=settings)
        data = self.coordinator_data(coordinator_id)
        listening = data / "listen.json"
        self.wait_for(listening.exists, what=f"{name} to listen", timeout_s=timeout_s, process=name)
        if not self.context_file.exists():
            self.ctl("config", "import", str(data / "admin.yaml"))

    def spawn_coordinator(self, coordinator_id: str = FIRST, *, settings: dict[str, str] | None = None) -> None:
        """As `start_coordinator`, without waiting: for one that is expected to end by itself (`wait_ended`)."""
        name = self.coordinator_process(coordinator_id)
        data = self.coordinator_data(coordinator_id)
        addresses = self._known_addresses(coordinator_id)
        host, enter = "127.0.0.1", []
        if self._hosts is not None:
            host, enter = self._hosts.address(coordinator_id), self._hosts.enter(coordinator_id)
        flags = {
            "id": coordinator_id,
            "data-dir": str(data),
            # the same ports after a restart: agents, contexts and the other coordinators know them
            "listen-api": addresses.get("api", f"{host}:0"),
            "listen-enroll": addresses.get("enroll", f"{host}:0"),
            "listen-member": addresses.get("member", f"{host}:0"),
            "metrics-listen": addresses.get("metrics", "127.0.0.1:0"),
            **self.coordinator_settings,
            **(settings or {}),
        }
        if coordinator_id == FIRST:
            flags["admin-context"] = str(data / "admin.yaml")
        elif (token_file := self._token_file(coordinator_id)).exists():
            flags["join-token-file"] = str(token_file)
        (data / "listen.json").unlink(missing_ok=True)
        self.spawn(name, [*enter, _program("cloudless-coordinator"), *_flags(flags)])

    def start_coordinators(self, count: int, *, timeout_s: float = 60.0) -> list[str]:
        """The coordinators c1 to cN as one fabric: returns their ids when all of them vote and are ready, and the
        context names all of them."""
        self.start_coordinator()
        ids = [f"c{number}" for number in range(1, count + 1)]
        for coordinator_id in ids[1:]:
            self.add_coordinator(coordinator_id)
        self.wait_voters(ids, timeout_s=timeout_s)
        for coordinator_id in ids:
            self.wait_coordinator(coordinator_id, timeout_s=timeout_s)
        self.refresh_context()
        return ids

    def add_coordinator(self, coordinator_id: str, *, token: str = "", settings: dict[str, str] | None = None) -> None:
        """Admits a new coordinator and starts it. It becomes a voter by itself. `token`: one that `cloudlessctl cluster
        add` made for it; unless given, one is made here."""
        token_file = self._token_file(coordinator_id)
        if token:
            _write_secret(token_file, token)
        elif not token_file.exists() and not (self.coordinator_data(coordinator_id) / "bootstrap.done").exists():
            answer = self.call("ClusterService", "AddCoordinator", control_pb2.AddCoordinatorRequest(id=coordinator_id))
            _write_secret(token_file, answer.jwt)
        self.start_coordinator(coordinator_id, settings=settings)

    def stop_coordinator(self, coordinator_id: str = FIRST) -> None:
        self.stop(self.coordinator_process(coordinator_id))

    def kill_coordinator(self, coordinator_id: str = FIRST) -> None:
        self.kill(self.coordinator_process(coordinator_id))

    def address(self, coordinator_id: str = FIRST, listener: str = "api") -> str:
        """host:port of one of its listeners: api, enroll, member or metrics."""
        return self._known_addresses(coordinator_id)[listener]

    def status(self, coordinator_id: str = FIRST) -> Any:
        """What this coordinator says of itself and of the others (GetStatusResponse)."""
        return self.call("ClusterService", "GetStatus", control_pb2.GetStatusRequest(), coordinator_id=coordinator_id)

    def leader(self, *, timeout_s: float = 10.0) -> str:
        """The id of the coordinator that leads and says so itself."""

        def leading() -> str:
            for coordinator_id in self.coordinators():
                try:
                    if self.status(coordinator_id).role == "leader":
                        return coordinator_id
                except CloudlessError:
                    continue
            return ""

        return str(self.wait_for(leading, what="a leader", timeout_s=timeout_s))

    def wait_voters(self, ids: Sequence[str], *, timeout_s: float = 30.0) -> None:
        """Returns when exactly these coordinators vote."""

        def voters() -> bool:
            views = self.status(self.leader(timeout_s=timeout_s)).coordinators
            return sorted(v.coordinator.id for v in views if v.role in ("leader", "voter")) == sorted(ids)

        self.wait_for(voters, what=f"{', '.join(ids)} to vote", timeout_s=timeout_s, retry=(CloudlessError,))

    def wait_coordinator(self, coordinator_id: str = FIRST, *, timeout_s: float = 30.0) -> None:
        """Returns when it says that it serves: it has caught up and knows a leader."""

        def serving() -> bool:
            with open_sync_channel(self.address(coordinator_id), self._credentials()) as channel:
                answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=_CALL_S)
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

        name = self.coordinator_process(coordinator_id)
        self.wait_for(serving, what=f"{name} to serve", timeout_s=timeout_s, process=name, retry=(grpc.RpcError,))

    def call(self, service: str, method: str, request: Any, *, coordinator_id: str = "") -> Any:
        """One RPC as the admin, to one coordinator, or to the first that answers. Raises CloudlessError."""
        asked = [coordinator_id] if coordinator_id else self.coordinators()
        failure: CloudlessError = FailedPrecondition("no coordinator was started")
        for name in asked:
            with open_sync_channel(self.address(name), self._credentials()) as channel:
                stub = getattr(control_pb2_grpc, f"{service}Stub")(channel)
                try:
                    return getattr(stub, method)(request, timeout=_CALL_S)
                except grpc.RpcError as error:
                    failure = error_from_rpc(error)
            if not failure.retryable:
                break
        raise failure

    def refresh_context(self) -> None:
        """Writes the addresses of all coordinators into the current context."""
        found = contexts.load(self.context_file)
        addresses = tuple(self.address(coordinator_id) for coordinator_id in self.coordinators())
        found.merge(dataclasses.replace(found.get(), coordinators=addresses)).save(self.context_file)

    def _credentials(self) -> Any:
        return contexts.load(self.context_file).get().credentials()

    def _token_file(self, coordinator_id: str) -> Path:
        return self.directory / f"{self.coordinator_process(coordinator_id)}.token"

    def _known_addresses(self, coordinator_id: str) -> dict[str, str]:
        name = self.coordinator_process(coordinator_id)
        saved = self.directory / f"{name}-addresses.json"
        listening = self.coordinator_data(coordinator_id) / "listen.json"
        if listening.exists():
            saved.write_text(listening.read_text())
        return dict(json.loads(saved.read_text())) if saved.exists() else {}

    def start_agent(self, plan: AgentPlan) -> None:
        """Starts an agent; enrols it first, with a token of its own, when it has no identity yet. One that runs is
        left alone."""
        data = self.directory / "agents" / plan.name
        token_file = data / "join.token"
        if not (data / "identity").exists() and not token_file.exists():
            data.mkdir(parents=True, mode=0o700, exist_ok=True)
            arguments = ["token", "create", "--node", plan.name, "--region", plan.region, "-o", "json"]
            if plan.zone:
                arguments += ["--zone", plan.zone]
            _write_secret(token_file, json.loads(self.ctl(*arguments).stdout)["jwt"])
        flags = {
            "data-dir": str(data),
            "node-name": plan.name,
            "join-token-file": str(token_file),
            "runtime-names": ",".join(plan.runtimes),
            "runtime-containerd-address": self.containerd_address or "/nonexistent",
            "runtime-containerd-namespace": f"{self.tag}-{plan.name}",
            "runtime-containerd-snapshotter": self.containerd_snapshotter,
            "runtime-cgroup-prefix": f"{self.tag}-{plan.name}",
            "runtime-bridge": f"{self.tag}{plan.index}",
            "runtime-subnet": f"{self.subnet_prefix}.{plan.index}.0/24",
            # processes share the machine's ports; addresses of their own keep the agents' apart
            "runtime-process-address": f"127.0.{self.subnet_prefix.rpartition('.')[2]}.{plan.index}",
            "metrics-listen": "127.0.0.1:0",
            **plan.settings,
        }
        enter = [] if self._agent_hosts is None else self._agent_hosts.enter(plan.name)
        self.spawn(f"agent-{plan.name}", [*enter, _program("cloudless-agent"), *_flags(flags)])

    def purge_agent(self, plan: AgentPlan) -> None:
        """Removes everything that this agent left on the machine: containers, images, network, cgroups, files."""
        data = self.directory / "agents" / plan.name
        enter = [] if self._agent_hosts is None else self._agent_hosts.enter(plan.name)
        done = subprocess.run(
            [*enter, sys.executable, "-m", "cloudless.agent.purge", "--yes", *_flags(self.purge_flags(plan, data))],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise FailedPrecondition(f"{plan.name} was not removed wholly: {done.stderr.strip()}")

    def purge_flags(self, plan: AgentPlan, data: Path) -> dict[str, str]:
        return {
            "data-dir": str(data),
            "runtime-containerd-address": self.containerd_address or "/nonexistent",
            "runtime-containerd-namespace": f"{self.tag}-{plan.name}",
            "runtime-containerd-snapshotter": self.containerd_snapshotter,
            "runtime-cgroup-prefix": f"{self.tag}-{plan.name}",
            "runtime-bridge": f"{self.tag}{plan.index}",
            "runtime-subnet": f"{self.subnet_prefix}.{plan.index}.0/24",
        }

    # using it

    def ctl(self, *arguments: str, check: bool = True, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Runs cloudlessctl. Raises FailedPrecondition with its own words when it fails and `check` is set."""
        done = subprocess.run(
            [_program("cloudlessctl"), *arguments],
            env={**os.environ, "CLOUDLESS_CONFIG": str(self.context_file), "NO_COLOR": "1", "COLUMNS": "200"},
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            check=False,
        )
        if check and done.returncode != 0:
            command = " ".join(arguments[:3])
            raise FailedPrecondition(f"cloudlessctl {command} ended with {done.returncode}: {done.stderr.strip()}")
        return done

    def get(self, *arguments: str) -> list[dict[str, Any]]:
        """The items of `cloudlessctl get ... -o json`."""
        return list(json.loads(self.ctl("get", *arguments, "-o", "json").stdout)["items"])

    def wait_for(
        self,
        condition: Callable[[], Any],
        *,
        what: str,
        timeout_s: float,
        process: str = "",
        poll_s: float = _POLL_S,
        retry: tuple[type[Exception], ...] = (),
    ) -> Any:
        """The first true answer of `condition`; one that raises an error of `retry` gave none. Raises DeadlineExceeded,
        or at once FailedPrecondition with the end of the log when `process` has ended meanwhile."""
        deadline = time.monotonic() + timeout_s
        last: Exception | None = None
        while True:
            try:
                if answer := condition():
                    return answer
            except retry as error:
                last = error
            child = self._children.get(process)
            if child is not None and child.poll() is not None:
                tail = self.log_file(process).read_text(errors="replace").strip().splitlines()[-5:]
                raise FailedPrecondition(f"{process} ended with {child.returncode}: " + "\n".join(tail))
            if time.monotonic() > deadline:
                said = f" ({last})" if last is not None else ""
                raise DeadlineExceeded(f"gave up waiting for {what} after {timeout_s:.0f} s{said}")
            time.sleep(poll_s)

    def ready_nodes(self) -> list[str]:
        try:
            return [n["node"]["id"] for n in self.get("nodes") if n["node"].get("state") == "Ready"]
        except CloudlessError:
            return []


def _write_secret(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write(text)


def _program(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _flags(values: dict[str, str]) -> list[str]:
    return [f"--{name}={value}" for name, value in values.items()]
