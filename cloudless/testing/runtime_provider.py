"""What the conformance suite of runtimes (`test/conformance/test_runtime.py`) asks of a runtime under test.

A module `test/conformance/provider_<name>.py` holds `PROVIDER`, a `RuntimeProvider`, or several as `PROVIDERS`. The
suite says what a container shall do with one of the programs below; a provider turns it into a container of its
runtime. Where a shell with busybox's applets is at hand, `ShellDevice` does that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cloudless.agent.runtime.base import Runtime
from cloudless.core.spec import Container, ContainerPort, EnvVar, ResourceAmounts, Resources


@dataclass(frozen=True, slots=True)
class Print:
    """Writes both streams and exits."""

    stdout: str = ""
    stderr: str = ""
    exit_code: int = 0


@dataclass(frozen=True, slots=True)
class RunForever:
    """Prints `ready` once SIGTERM makes it exit with 0."""


@dataclass(frozen=True, slots=True)
class IgnoreSigterm:
    """Prints `ready` once SIGTERM does nothing."""


@dataclass(frozen=True, slots=True)
class Allocate:
    """Allocates and writes `size_bytes`, then exits with 0."""

    size_bytes: int


@dataclass(frozen=True, slots=True)
class Spawn:
    """Starts `count` children that stay, prints `all-started`, and waits for them. Exits with another code than
    0 where a child cannot be started."""

    count: int


@dataclass(frozen=True, slots=True)
class Spin:
    """Uses as much CPU as one thread can."""


@dataclass(frozen=True, slots=True)
class ServeHttp:
    """Answers HTTP on this port with any status."""

    port: int


@dataclass(frozen=True, slots=True)
class EchoStdin:
    """Copies stdin to stdout until its end, then exits with 0."""


@dataclass(frozen=True, slots=True)
class TerminalSize:
    """Reads a line, then prints `ROWS COLUMNS` of its terminal."""


@dataclass(frozen=True, slots=True)
class PrintEnvironment:
    """Prints its environment, NAME=value a line."""


@dataclass(frozen=True, slots=True)
class PrintStatus:
    """Prints its /proc/self/status."""


@dataclass(frozen=True, slots=True)
class NewUserNamespace:
    """Tries to make a user namespace; exits with another code than 0 and a word about it where it may not."""


@dataclass(frozen=True, slots=True)
class NoSuchProgram:
    """Names an executable that does not exist."""


Program = (
    Print
    | RunForever
    | IgnoreSigterm
    | Allocate
    | Spawn
    | Spin
    | ServeHttp
    | EchoStdin
    | TerminalSize
    | PrintEnvironment
    | PrintStatus
    | NewUserNamespace
    | NoSuchProgram
)

# What a runtime may lack on a device. Tests that need one are not generated for a provider without it.
CAPABILITIES = frozenset(
    {
        "memory-limit",  # a container over its limit is killed and reported as OOM-killed
        "cpu-limit",
        "pids-limit",
        "network",  # a listening container is reached at the address and port of the sandbox's view
        "real-processes",  # stats, environment, no_new_privs: what only a real process has
        "seccomp",
        "images",  # import_image and images; `RuntimeDevice.image_archive` gives one to import
    }
)


NO_LIMITS = ResourceAmounts()


class RuntimeDevice(ABC):
    """One device under test, with nothing on it at first."""

    @abstractmethod
    async def open(self) -> Runtime:
        """A started runtime. Called again, it is what a restarted agent gets: a new object, the same device."""

    @abstractmethod
    async def close(self) -> None:
        """Removes the device with all that is on it."""

    @abstractmethod
    def leftovers(self) -> Sequence[str]:
        """Everything on this device that belongs to any replica (process, cgroup, mount, interface, namespace,
        folder, snapshot), one description each. Empty when every sandbox has been removed."""

    @abstractmethod
    def command(self, program: Program) -> tuple[str, ...]:
        """The argv of the program, as exec gets it."""

    @abstractmethod
    def container(
        self,
        name: str,
        program: Program,
        *,
        limits: ResourceAmounts = NO_LIMITS,
        ports: tuple[ContainerPort, ...] = (),
        env: tuple[EnvVar, ...] = (),
    ) -> Container:
        """A container that does `program`."""

    def image_archive(self, reference: str) -> Path:
        """An OCI archive to import under this reference. Only asked of providers with `images`."""
        raise AssertionError(f"this provider has no images ({reference})")


class RuntimeProvider(ABC):
    """`name`: of the tests; `runtime_name`: what the runtime calls itself, where that differs."""

    name: str
    runtime_name: str = ""

    @property
    @abstractmethod
    def capabilities(self) -> frozenset[str]:
        """A subset of CAPABILITIES, known without starting anything: read while tests are collected."""

    def missing(self) -> str:
        """Why this machine cannot run the provider's tests; empty when it can. Where tests are required (CI,
        CLOUDLESS_REQUIRE_CONTAINERD) a reason is a failure."""
        return ""

    async def begin(self, directory: Path) -> None:  # noqa: B027 (an optional hook)
        """Once before the first test of this provider in this process: daemons, images. It must not hold on to
        the running event loop, which ends with it."""

    async def end(self) -> None:  # noqa: B027 (an optional hook)
        """Once after its last test."""

    @abstractmethod
    async def device(self, directory: Path) -> RuntimeDevice:
        """A fresh device for one test; what it stores goes below `directory`."""


class ShellDevice(RuntimeDevice):
    """For runtimes whose containers have a shell and the `busybox` command: programs become scripts."""

    shell: tuple[str, ...] = ("/bin/sh", "-c")

    def command(self, program: Program) -> tuple[str, ...]:
        match program:
            case Print(stdout, stderr, exit_code):
                script = 'printf %s "$1"; printf %s "$2" >&2; exit "$3"'
                return (*self.shell, script, "sh", stdout, stderr, str(exit_code))
            case Spawn(count):
                spawn = "while [ $i -lt $1 ]; do sleep 1000 & i=$((i+1)); done"
                return (*self.shell, f"i=0; {spawn}; echo all-started; wait", "sh", str(count))
            case Allocate(size_bytes):
                return (*self.shell, f"exec busybox dd if=/dev/zero of=/dev/null bs={size_bytes} count=1")
            case ServeHttp(port):
                return (*self.shell, f"exec busybox httpd -f -p {port} -h /")
            case NoSuchProgram():
                return ("/no/such/program",)
        scripts: dict[type, str] = {
            RunForever: "trap 'exit 0' TERM; echo ready; while :; do sleep 1000 & wait $!; done",
            IgnoreSigterm: "trap '' TERM; echo ready; while :; do sleep 1000; done",
            Spin: "echo ready; while :; do :; done",
            EchoStdin: "exec cat",
            TerminalSize: "read line; busybox stty size",
            PrintEnvironment: "exec busybox env",
            PrintStatus: "exec cat /proc/self/status",
            NewUserNamespace: "exec busybox unshare -U true",
        }
        return (*self.shell, scripts[type(program)])


def limited(limits: ResourceAmounts) -> Resources:
    """Requests equal to limits, as a fragment would be reserved."""
    return Resources(requests=limits, limits=limits)
