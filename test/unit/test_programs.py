"""The programs as their surroundings see them: exit codes, what systemd does about them, and a log of JSON alone."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cloudless.agent import main as agent
from cloudless.coordinator import main as coordinator
from cloudless.errors import (
    AlreadyExists,
    CloudlessError,
    Corrupt,
    FailedPrecondition,
    InvalidArgument,
    PermissionDenied,
    TokenRefused,
    Unauthenticated,
    Unavailable,
)

UNITS = Path(__file__).parents[2] / "deployments" / "systemd"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidArgument("x", reason="BadSetting"), agent.EXIT_SETTINGS),
        (FailedPrecondition("x", reason="PortInUse"), agent.EXIT_ADDRESS_IN_USE),
        (FailedPrecondition("x", reason="AlreadyRunning"), agent.EXIT_DIRECTORY_IN_USE),
        (Corrupt("x"), agent.EXIT_DAMAGED),
        (FailedPrecondition("x", reason="NotEnrolled"), agent.EXIT_NOT_ADMITTED),
        (TokenRefused("x", reason="TokenUsedUp"), agent.EXIT_NOT_ADMITTED),
        (Unauthenticated("x", reason="RootPinMismatch"), agent.EXIT_NOT_ADMITTED),
        (AlreadyExists("x", reason="NodeKeyMismatch"), agent.EXIT_NOT_ADMITTED),
        (PermissionDenied("x"), agent.EXIT_NOT_ADMITTED),
        (FailedPrecondition("x", reason="DataFolderUnusable"), agent.EXIT_FAILED),
        (Unavailable("x"), agent.EXIT_FAILED),
    ],
)
def test_each_kind_of_failure_has_its_exit_code(error: CloudlessError, code: int) -> None:
    assert agent.exit_code(error) == code


@pytest.mark.parametrize(
    ("program", "final"),
    [
        (
            agent,
            {agent.EXIT_SETTINGS, agent.EXIT_DIRECTORY_IN_USE, agent.EXIT_DAMAGED, agent.EXIT_NOT_ADMITTED},
        ),
        (
            coordinator,
            {
                coordinator.EXIT_SETTINGS,
                coordinator.EXIT_DIRECTORY_IN_USE,
                coordinator.EXIT_DAMAGED,
                coordinator.EXIT_REMOVED,
            },
        ),
    ],
)
def test_systemd_repeats_only_what_a_restart_can_help(program, final: set[int]) -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(UNITS / f"{program.PROGRAM}.service")
    assert set(map(int, unit["Service"]["RestartPreventExitStatus"].split())) == final
    assert "Documentation" not in unit["Unit"], "no page is installed with the programs"
    reload = "/bin/kill -HUP $MAINPID" if program is agent else ""  # it would end a coordinator
    assert unit["Service"].get("ExecReload", "") == reload


@pytest.mark.parametrize("module", ["cloudless.agent.main", "cloudless.coordinator.main"])
@pytest.mark.parametrize(("given", "expected"), [(None, "NONE"), ("DEBUG", "DEBUG")])
def test_grpcs_own_lines_stay_out_of_the_log_unless_asked_for(module: str, given: str | None, expected: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "GRPC_VERBOSITY"}
    if given is not None:
        environment["GRPC_VERBOSITY"] = given
    code = (
        "import sys, os, importlib.abc\n"
        "class Seen(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'grpc': print(os.environ.get('GRPC_VERBOSITY')); sys.stdout.flush(); os._exit(0)\n"
        "sys.meta_path.insert(0, Seen())\n"
        f"import {module}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == expected


def test_the_installed_grpc_has_the_listener_that_the_coordinator_asks_for() -> None:
    code = "import cloudless.coordinator.main, grpc; print(grpc.server(None).add_insecure_port('127.0.0.1:0'))"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GRPC_")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert int(done.stdout) > 0
    assert "Unknown experiment" not in done.stderr


@pytest.mark.parametrize(
    ("module", "argument"),
    [("cloudless.agent.main", "--runtime-subnet=nonsense"), ("cloudless.coordinator.main", "--listen-api=nonsense")],
)
def test_bad_settings_leave_nothing_behind(tmp_path: Path, module: str, argument: str) -> None:
    code = f"import sys; from {module} import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, f"--data-dir={tmp_path / 'data'}", argument],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert argument.split("=")[0] in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []
