"""FakeRuntime under the conformance suite."""

import asyncio

from cloudless.agent.runtime.base import ExecRequest
from cloudless.clock import SystemClock
from cloudless.core.spec import Container
from cloudless.errors import InvalidArgument
from cloudless.testing import runtime_provider as programs
from cloudless.testing.runtime import Behaviour, FakeDevice, FakeExec, FakeRuntime


class Device(programs.RuntimeDevice):
    def __init__(self, directory):
        self._known = {}
        self._fake = FakeDevice(SystemClock(), directory, behave=self._behave, program=self._exec)

    async def open(self):
        runtime = FakeRuntime(self._fake)
        await runtime.start()
        return runtime

    async def close(self):
        for replica_id in list(self._fake.sandboxes):
            await FakeRuntime(self._fake).remove_sandbox(replica_id)

    def leftovers(self):
        folders = self._fake.directory.iterdir() if self._fake.directory.exists() else ()
        return [*self._fake.sandboxes, *map(str, folders)]

    def command(self, program):
        self._known[repr(program)] = program
        return (repr(program),)

    def container(self, name, program, *, limits=programs.NO_LIMITS, ports=(), env=()):
        return Container(
            name=name, process=self.command(program), resources=programs.limited(limits), ports=ports, env=env
        )

    def _behave(self, _sandbox, container, _attempt):
        limits = container.resources.limits
        match self._known[container.process[0]]:
            case programs.Print(stdout, stderr, code):
                return Behaviour(output=(stdout + stderr).encode(), exit_after_ms=5, exit_code=code)
            case programs.RunForever():
                return Behaviour(output=b"ready\n", term_exit_code=0)
            case programs.IgnoreSigterm():
                return Behaviour(output=b"ready\n", ignores_sigterm=True)
            case programs.Allocate(size):
                over = 0 < limits.memory_bytes < size
                return Behaviour(exit_after_ms=5, exit_code=137 if over else 0, oom_killed=over)
            case programs.Spawn(count):
                if 0 < limits.pids <= count:
                    return Behaviour(exit_after_ms=5, exit_code=2)
                return Behaviour(output=b"all-started\n")
            case programs.NoSuchProgram():
                return Behaviour(start_error=InvalidArgument("no such program"))
        return Behaviour()

    async def _exec(self, request: ExecRequest, streams: FakeExec):
        match self._known[request.command[0]]:
            case programs.Print(stdout, stderr, code):
                streams.write(stdout.encode())
                streams.write(stderr.encode(), stderr=True)
                return code
            case programs.EchoStdin():
                while data := await streams.read():
                    streams.write(data)
            case programs.TerminalSize():
                await streams.read()
                streams.write(f"{streams.rows} {streams.columns}\r\n".encode())
            case _:
                streams.write(b"ready\n")
                await asyncio.Event().wait()
        return 0


class Provider(programs.RuntimeProvider):
    name = "fake"
    capabilities = frozenset({"memory-limit", "pids-limit"})

    async def device(self, directory):
        return Device(directory / "fake")


PROVIDER = Provider()
