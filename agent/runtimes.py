"""The runtimes that this device has, found at start and again while one is missing.

A runtime that this agent has used before is waited for, however long: starting without it would read as "everything
it ran is gone". One that was never used and is not there is left out, with the reason in the node's description.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import structlog

from cloudless.agent.runtime.base import Runtime
from cloudless.agent.runtime.router import RouterRuntime
from cloudless.clock import Clock
from cloudless.config import AgentConfig
from cloudless.core.model import Feature, RuntimeInfo
from cloudless.errors import CloudlessError, InvalidArgument, Unavailable
from cloudless.identity.files import write_private

log = structlog.get_logger(__name__)

_RETRY_DELAY_S: Final = 1.0
_RETRY_DELAY_S_MAX: Final = 30.0


class Runtimes:
    """`router` has what is ready. Event loop only."""

    def __init__(self, config: AgentConfig, clock: Clock, *, node_name: str) -> None:
        self.router = RouterRuntime(())
        self._config = config
        self._clock = clock
        self._node_name = node_name
        self._used = config.data_dir / "runtimes"
        self._missing: dict[str, str] = {}  # by name: why

    async def open(self) -> None:
        """Starts what is there; waits for what was used before. Raises InvalidArgument for an unknown name."""
        known = {"containerd", "process"}
        for name in self._config.runtime.names:
            if name not in known:
                raise InvalidArgument(
                    f"there is no runtime {name!r}", reason="BadSetting", remedy=f"use {', '.join(sorted(known))}"
                )
        used = self._read_used()
        for name in self._config.runtime.names:
            delay_s = _RETRY_DELAY_S
            while not await self._try(name) and name in used:
                log.error(
                    "runtime.awaited",
                    runtime=name,
                    cause=self._missing[name],
                    remedy="start it, or take it out of runtime.names if it shall not be used any more",
                )
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, _RETRY_DELAY_S_MAX)
        for name, cause in self._missing.items():
            log.warning("runtime.missing", runtime=name, cause=cause)

    async def look_again(self) -> bool:
        """Starts what was missing and is there now; whether there was any."""
        return any([await self._try(name) for name in list(self._missing)])

    async def describe(self) -> Sequence[tuple[RuntimeInfo, tuple[Feature, ...]]]:
        """What `device.detect` wants to know: every configured runtime, the missing ones with the reason."""
        infos, features = await self.router.describe_all()
        missing = [(RuntimeInfo(name, "", False, cause), ()) for name, cause in self._missing.items()]
        return [*((info, features if at == 0 else ()) for at, info in enumerate(infos)), *missing]

    async def _try(self, name: str) -> bool:
        try:
            runtime = self._make(name)
            await runtime.start()
        except CloudlessError as error:
            self._missing[name] = str(error)
            return False
        except (OSError, ImportError) as error:
            self._missing[name] = f"{type(error).__name__}: {error}"
            return False
        self._missing.pop(name, None)
        self.router.add(runtime)
        self._note_used(name)
        log.info("runtime.ready", runtime=name)
        return True

    def _make(self, name: str) -> Runtime:
        config = self._config
        if name == "containerd":
            if not Path(config.runtime.containerd_address).is_socket():
                raise Unavailable(
                    f"there is no socket {config.runtime.containerd_address}", reason="RuntimeUnavailable"
                )
            from cloudless.agent.runtime.containerd import ContainerdRuntime

            return ContainerdRuntime(
                config.runtime, data_dir=config.data_dir, clock=self._clock, node_name=self._node_name
            )
        from cloudless.agent.runtime.process.runtime import ProcessRuntime

        return ProcessRuntime(
            config.data_dir / "process",
            clock=self._clock,
            cgroup_prefix=config.runtime.cgroup_prefix,
            address=config.runtime.process_address,
        )

    def _read_used(self) -> set[str]:
        try:
            return set(self._used.read_text().split())
        except FileNotFoundError:
            return set()

    def _note_used(self, name: str) -> None:
        used = self._read_used()
        if name not in used:
            # In one durable step: half a list after a crash would read as "never used", and its work as gone.
            write_private(self._used, ("\n".join(sorted({*used, name})) + "\n").encode())
