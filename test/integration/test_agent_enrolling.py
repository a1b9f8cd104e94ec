"""An agent's way to its credentials: whatever happens right after the enrolment, the next start finds a coordinator."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog.testing

from cloudless.agent import enrolling
from cloudless.agent.main import Agent
from cloudless.clock import SystemClock
from cloudless.config import AgentConfig, MetricsConfig, RuntimeConfig
from cloudless.errors import FailedPrecondition
from cloudless.testing.coordinator import RunningCoordinator, running_coordinator


@pytest.fixture
async def fabric(tmp_path: Path) -> AsyncIterator[RunningCoordinator]:
    async with running_coordinator(tmp_path, clock=SystemClock()) as c:
        yield c


@pytest.fixture
async def config(fabric: RunningCoordinator, tmp_path: Path) -> AgentConfig:
    token_file = tmp_path / "join.jwt"
    token_file.write_text(await fabric.token(node_pattern="n1"))
    return AgentConfig(
        data_dir=tmp_path / "agent",
        node_name="n1",
        join_token_file=token_file,
        runtime=RuntimeConfig(names=()),
        metrics=MetricsConfig(listen=""),
    )


async def _obtain(config: AgentConfig):
    return await enrolling.obtain(config, SystemClock(), jitter=lambda: 0.0)


def _overwrite(text: str):
    return lambda path: path.write_text(text)


async def test_the_coordinators_addresses_survive_an_agent_that_dies_right_after_enrolling(
    fabric: RunningCoordinator, config: AgentConfig
) -> None:
    credentials, addresses = await _obtain(config)
    assert addresses == (fabric.api_address,)
    config.join_token_file.unlink()
    again, known = await _obtain(config)
    assert (again, known) == (credentials, addresses)


@pytest.mark.parametrize("damage", [Path.unlink, _overwrite("{"), _overwrite("[1]")])
async def test_without_an_address_the_enrolment_is_repeated_with_the_token(
    fabric: RunningCoordinator, config: AgentConfig, damage
) -> None:
    await _obtain(config)
    damage(config.data_dir / "identity" / enrolling.ADDRESSES_FILE)
    _, addresses = await _obtain(config)
    assert addresses == (fabric.api_address,)
    assert [token.uses for token in fabric.state.tokens.values()] == [1], "the repeat costs nothing"


async def test_a_repeat_that_is_refused_leaves_the_credentials(fabric: RunningCoordinator, config: AgentConfig) -> None:
    credentials, _ = await _obtain(config)
    (config.data_dir / "identity" / enrolling.ADDRESSES_FILE).unlink()
    config.join_token_file.write_text(await fabric.token(node_pattern="other"))
    assert await _obtain(config) == (credentials, ())


async def test_no_repeat_while_the_journal_knows_addresses(fabric: RunningCoordinator, config: AgentConfig) -> None:
    credentials, _ = await _obtain(config)
    (config.data_dir / "identity" / enrolling.ADDRESSES_FILE).unlink()
    (config.data_dir / "journal").mkdir()
    (config.data_dir / "journal" / "facts").touch()
    assert await _obtain(config) == (credentials, ())


async def test_an_enrolment_is_one_line_of_the_log(config: AgentConfig) -> None:
    with structlog.testing.capture_logs() as lines:
        await _obtain(config)
    said = [line for line in lines if line["event"] in ("node.enrolled", "enrollment.done")]
    assert [(line["event"], line["node"]) for line in said] == [("enrollment.done", "n1")]


async def test_a_taken_metrics_port_is_found_before_the_token_is_spent(
    fabric: RunningCoordinator, config: AgentConfig
) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        agent = Agent(dataclasses.replace(config, metrics=MetricsConfig(listen=address)))
        with pytest.raises(FailedPrecondition) as refused:
            await agent.run()
    assert refused.value.reason == "PortInUse"
    assert refused.value.message == f"cannot listen on {address} for metrics: Address already in use"
    assert [token.uses for token in fabric.state.tokens.values()] == [0]
    assert "n1" not in fabric.state.nodes
