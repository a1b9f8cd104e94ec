"""`cloudless-agent owner`: the owner of a device says, on the device, what the fabric may do with it.

It only writes the owner's files; the agent takes notice within a second, and a coordinator is not needed.

Exit codes: 0 done; 1 failed (a file cannot be written; `show`: the terms are bad); 2 wrong usage or a bad value.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
import typing
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cloudless.agent import owner_file
from cloudless.agent.core.owner import Terms
from cloudless.agent.owner_watch import STATE_FILE, local_time
from cloudless.config import AgentConfig, OwnerTermsConfig, leaves, load
from cloudless.core import hours, quantity
from cloudless.errors import CloudlessError, InvalidArgument

PROGRAM: Final = "cloudless-agent owner"
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
_TOLD_TIMEOUT_S: Final = 5.0
_POLL_S: Final = 0.1

_ABOUT: Final = "What the owner of this device lets the fabric do with it. Takes effect within a second, also offline."
_EXAMPLES: Final = """examples:
  cloudless-agent owner show
  cloudless-agent owner set --share 0.5 --hours '22:00-06:00,Sat-Sun 00:00-24:00'
  cloudless-agent owner set --battery-floor-percent 40 --allow-metered false
  cloudless-agent owner set --unset hours
  cloudless-agent owner pause --for 2h
  cloudless-agent owner resume

With --config FILE or --data-dir DIR as the agent itself has them, before or after the command.
Exit codes: 0 done; 1 failed (show: the terms are bad); 2 wrong usage or a bad value."""


def main(argv: Sequence[str]) -> int:
    """Runs one command and returns the exit code; exits with 2 on wrong usage, as argparse does."""
    given = _parser().parse_args(list(argv))
    flags = [f"--{name}={value}" for name in ("config", "data-dir", "owner-file") if (value := _flag(given, name))]
    try:
        config = load(AgentConfig, PROGRAM, flags, os.environ)
        command: Callable[[AgentConfig, argparse.Namespace], int] = given.command
        return command(config, given)
    except CloudlessError as error:
        remedy = f" ({error.remedy})" if error.remedy and error.remedy not in str(error) else ""
        sys.stderr.write(f"{PROGRAM}: {error.reason}: {error}{remedy}\n")
        return EXIT_USAGE if isinstance(error, InvalidArgument) else EXIT_FAILED
    except OSError as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        return EXIT_FAILED


def _parser() -> argparse.ArgumentParser:
    # On each command too, without a default there: what stands before the command must not be overwritten.
    places = (("--config", "FILE"), ("--data-dir", "DIR"), ("--owner-file", "FILE"))
    common = argparse.ArgumentParser(add_help=False)
    for name, metavar in places:
        common.add_argument(name, metavar=metavar, default=argparse.SUPPRESS, help="As the agent's own flag.")
    parser = argparse.ArgumentParser(
        PROGRAM,
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        parents=[common],
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[AgentConfig, argparse.Namespace], int], about: str) -> Any:
        made = commands.add_parser(name, help=about, description=about, allow_abbrev=False, parents=[common])
        made.set_defaults(command=run)
        return made

    show = command("show", _show, "What is allowed, what holds now and why.")
    show.add_argument("-o", "--output", choices=("text", "json"), default="text")
    change = command("set", _set, "Changes terms. What is not named stays as it is; comments in the file are not kept.")
    for leaf in leaves(OwnerTermsConfig):
        doc = leaf.doc.replace("%", "%%")
        change.add_argument(leaf.flag, dest=f"set_{leaf.path[0]}", metavar=leaf.kind.metavar, help=doc)
    names = [leaf.path[0] for leaf in leaves(OwnerTermsConfig)]
    change.add_argument(
        "--unset", metavar="NAME", action="append", default=[], choices=names, help="Back to the setting of the agent."
    )
    pause = command("pause", _pause, "Nothing of the fabric runs on this device from now on.")
    pause.add_argument("--for", dest="duration", metavar="DURATION", default="", help="For so long: 2h, 30m, 1h30m.")
    command("resume", _resume, "Ends the pause.")
    return parser


def _flag(given: argparse.Namespace, name: str) -> str:
    return str(getattr(given, name.replace("-", "_"), ""))


def _set(config: AgentConfig, given: argparse.Namespace) -> int:
    path = owner_file.terms_file(config)
    stated = owner_file.stated_in(path)
    wanted = {leaf.path[0]: leaf for leaf in leaves(OwnerTermsConfig)}
    changed = False
    for name in given.unset:
        changed = stated.pop(name, None) is not None or changed
    for name, leaf in wanted.items():
        text = getattr(given, f"set_{name}")
        if text is None:
            continue
        if name in given.unset:
            raise InvalidArgument(f"{name} is both set and unset", reason="BadUsage")
        changed = True
        if typing.get_origin(leaf.hint) is tuple:
            stated[name] = [part.strip() for part in text.split(",") if part.strip()]
        else:
            stated[name] = _plain(text)
    if not changed and not given.unset:
        raise InvalidArgument("nothing to change was named", reason="BadUsage", remedy=f"see: {PROGRAM} set --help")
    _make_folder(path)
    _say(_described(config, owner_file.write_terms(config.owner, path, stated)))
    return 0


def _plain(text: str) -> Any:
    """Numbers and switches as such, so that the file reads well."""
    with contextlib.suppress(ValueError):
        value = json.loads(text)
        if isinstance(value, bool | int | float):
            return value
    return text


def _pause(config: AgentConfig, given: argparse.Namespace) -> int:
    until_ms = None
    if given.duration:
        try:
            lasts_ms = quantity.parse_duration(given.duration)
        except ValueError as error:
            raise InvalidArgument(f"--for: {error}", reason="BadUsage") from None
        if lasts_ms <= 0:
            raise InvalidArgument("--for: longer than 0", reason="BadUsage")
        until_ms = int(time.time() * 1000) + lasts_ms
    path = owner_file.pause_file(config)
    _make_folder(path)
    owner_file.write_pause(path, until_ms=until_ms)
    shown = "until it is resumed" if until_ms is None else f"until {_time(until_ms)}"
    _say([("paused", f"{shown}; {_noticed(config, lambda state: state.get('reason') == 'Paused')}")])
    return 0


def _resume(config: AgentConfig, _given: argparse.Namespace) -> int:
    path = owner_file.pause_file(config)
    was = path.exists()
    path.unlink(missing_ok=True)
    shown = _noticed(config, lambda state: state.get("reason") != "Paused")
    _say([("resumed", shown if was else f"it was not paused; {shown}")])
    return 0


def _show(config: AgentConfig, given: argparse.Namespace) -> int:
    problem = ""
    path = owner_file.terms_file(config)
    terms: Terms | None = None
    try:
        terms = owner_file.read_terms(config.owner, path)
    except InvalidArgument as error:
        problem = error.message
    pause = owner_file.read_pause(owner_file.pause_file(config))
    paused = pause is not None and pause.holds(int(time.time() * 1000))
    state = _state(config)
    if given.output == "json":
        document = {
            "file": str(path),
            "problem": problem,
            "paused": paused,
            "pausedUntilMs": pause.until_ms if pause is not None and paused else None,
            "agent": state or None,
        }
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
        return EXIT_FAILED if problem else 0
    lines = [("now", _now(state))]
    if state.get("warning"):
        lines.append(("warning", str(state["warning"])))
    if pause is not None and paused:
        lines.append(("paused", "until it is resumed" if pause.until_ms is None else f"until {_time(pause.until_ms)}"))
    if terms is not None:
        lines += _described(config, terms)
    place = f"{path}" if path.exists() else f"{path} (not there: the agent's settings hold)"
    lines.append(("file", f"{path}: BAD, the last good terms hold: {problem}" if problem else place))
    _say(lines)
    return EXIT_FAILED if problem else 0


def _now(state: dict[str, Any]) -> str:
    if not state:
        return "the agent does not run, so nothing new is taken"
    if state["accepting"]:
        return f"takes work, since {_time(state['sinceMs'])}"
    running = "nothing runs" if state["evicting"] else "what runs stays"
    return f"takes no work ({state['reason']}: {state['message']}), {running}, since {_time(state['sinceMs'])}"


def _described(config: AgentConfig, terms: Terms) -> list[tuple[str, str]]:
    share = [f"{terms.share:.0%} of CPU and memory"]
    if terms.cpu_millis:
        share.append(f"at most {quantity.format_cpu(terms.cpu_millis)} CPUs")
    if terms.memory_bytes:
        share.append(f"at most {quantity.format_bytes(terms.memory_bytes)} of memory")
    battery = "no floor"
    if terms.battery_floor_percent:
        battery = f"nothing runs below {terms.battery_floor_percent} %, again from {terms.battery_resume_percent} %"
    return [
        ("share", ", ".join(share)),
        ("hours", _hours(config, terms)),
        ("battery", battery),
        ("metered link", "new work is taken" if terms.allow_metered else "no new work"),
        ("namespaces", ", ".join(terms.namespaces) or "all"),
    ]


def _hours(config: AgentConfig, terms: Terms) -> str:
    if not terms.hours:
        return "always"
    weekday, minute = local_time(int(time.time() * 1000), owner_file.zone_of(config.owner))
    change = hours.next_change(terms.windows, weekday=weekday, minute=minute)
    within = hours.inside(terms.windows, weekday=weekday, minute=minute)
    until = f" until {hours.show(*change)}" if change is not None else ""
    return f"{', '.join(terms.hours)} (it is {hours.show(weekday, minute)}: {'open' if within else 'closed'}{until})"


def _noticed(config: AgentConfig, condition: Callable[[dict[str, Any]], bool]) -> str:
    """Waits a moment until the agent has taken notice."""
    deadline = time.monotonic() + _TOLD_TIMEOUT_S
    while state := _state(config):
        if condition(state):
            return "the agent has taken notice"
        if time.monotonic() > deadline:
            return f"the agent has not taken notice within {_TOLD_TIMEOUT_S:.0f} s: see its log"
        time.sleep(_POLL_S)
    return "the agent does not run, and will go by it when it does"


def _state(config: AgentConfig) -> dict[str, Any]:
    """What the running agent last said; empty: none runs."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        state = dict(json.loads((config.data_dir / STATE_FILE).read_text("utf-8")))
        if _alive(int(state["pid"])):
            return state
    return {}


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _make_folder(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).astimezone().strftime("%Y-%m-%d %H:%M %Z")


def _say(lines: Sequence[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        sys.stdout.write(f"{name:<{width}}  {text}\n")
