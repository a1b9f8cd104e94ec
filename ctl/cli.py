"""The tree of commands: loaded when used, with the common flags accepted at every level."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import click

from cloudless.ctl.app import App

# Name, where it is, and one line of help, so that `--help` imports nothing.
TOP: Final[Mapping[str, tuple[str, str]]] = {
    "apply": ("apply:apply", "Create or update workloads from manifests."),
    "get": ("get:get", "Show one or many things."),
    "describe": ("describe:describe", "Show everything about a thing, and why it is so."),
    "delete": ("delete:delete", "Delete workloads, tokens, users or nodes."),
    "scale": ("scale:scale", "Set a workload's number of replicas."),
    "logs": ("logs:logs", "Show what replicas print."),
    "exec": ("exec:exec_", "Run a program inside a replica."),
    "events": ("events:events", "Show what happened; -w goes on showing."),
    "wait": ("wait:wait", "Block until something is true."),
    "rollout": ("rollout:rollout", "Follow rollouts, and pause, promote, undo or restart them."),
    "run": ("run:run", "Start a run of a job or cron now."),
    "plan": ("plan:plan", "Show what an apply would do."),
    "simulate": ("plan:simulate", "Show what would happen if nodes went away."),
    "cordon": ("node:cordon", "Let a node take no new work."),
    "uncordon": ("node:uncordon", "Let a node take new work again."),
    "drain": ("node:drain", "Move the work away from a node."),
    "node": ("node:node", "Look after nodes."),
    "workload": ("workload:workload", "Look after workloads."),
    "replica": ("replica:replica", "Look at replicas."),
    "image": ("image:image", "Bring images to nodes."),
    "token": ("token:token", "Make, list and revoke join tokens."),
    "user": ("user:user", "Look after people and what they may do."),
    "cluster": ("cluster:cluster", "Look after the coordinators: members, backup, restore."),
    "config": ("config:config", "Choose which fabric to talk to, and as whom."),
    "explain": ("explain:explain", "Explain a field of the manifest, or a placement."),
    "version": ("version:version", "Show the versions of program and coordinator."),
    "completion": ("completion:completion", "Print the completion script of a shell."),
}


def _common() -> list[click.Option]:
    """The flags that every command takes. A flag nearer to the command wins."""
    return [
        click.Option(["--context"], metavar="NAME", help="Context to use.  [env: CLOUDLESS_CONTEXT]"),
        click.Option(["--config", "config_file"], metavar="FILE", help="Contexts file.  [env: CLOUDLESS_CONFIG]"),
        click.Option(["-n", "--namespace"], metavar="NAME", help="Namespace.  [env: CLOUDLESS_NAMESPACE]"),
        click.Option(["--request-timeout"], metavar="DURATION", help="Time for one request.  [default: 30s]"),
        click.Option(
            ["--stale"], is_flag=True, default=None, help="Read what one coordinator has, without the leader."
        ),
        click.Option(["-v", "--verbose"], is_flag=True, default=None, help="Show each call on stderr."),
        click.Option(["--debug"], is_flag=True, default=None, hidden=True, help="Write crashes to a file."),
    ]


COMMON: Final = tuple(option.name or "" for option in _common())


class Command(click.Command):
    """A command that takes the common flags beside its own and gets the App as its first argument."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        own = {option for param in self.params for option in param.opts}
        self.params += [option for option in _common() if not own.intersection(option.opts)]

    def invoke(self, ctx: click.Context) -> Any:
        app = ctx.ensure_object(App)
        own = {param.name for param in self.params if param.name not in COMMON or not isinstance(param, click.Option)}
        app.settings.update({name: value for name, value in ctx.params.items() if name in COMMON and name not in own})
        if self.callback is None:
            return None
        arguments = {name: value for name, value in ctx.params.items() if name not in COMMON or name in own}
        return ctx.invoke(self.callback, app, **arguments)


class Group(click.Group):
    """A group of commands, those of `lazy` imported when they are used; says what a misspelt one was meant for."""

    command_class = Command

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = dict(lazy or {})
        self.params += _common()

    def invoke(self, ctx: click.Context) -> Any:
        ctx.ensure_object(App).settings.update({name: ctx.params.pop(name) for name in COMMON if name in ctx.params})
        return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.lazy, *sorted(set(self.commands) - set(self.lazy))]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        found = super().get_command(ctx, name)
        if found is None and name in self.lazy:
            module, _, attribute = self.lazy[name][0].partition(":")
            found = getattr(importlib.import_module(f"cloudless.ctl.commands.{module}"), attribute)
            self.commands[name] = found
        return found

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        name = args[0] if args else ""
        if name and not name.startswith("-") and not ctx.resilient_parsing and self.get_command(ctx, name) is None:
            from cloudless.ctl.unknown import unknown_command

            raise unknown_command(ctx.command_path, name, self._shown(ctx), followed_by=args[1:])
        return super().resolve_command(ctx, args)

    def _shown(self, ctx: click.Context) -> list[str]:
        return [name for name in self.list_commands(ctx) if name not in self.commands or not self.commands[name].hidden]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = []
        for name in self.list_commands(ctx):
            if name in self.lazy:
                rows.append((name, self.lazy[name][1]))
            else:
                command = self.get_command(ctx, name)
                if command is not None and not command.hidden:
                    rows.append((name, command.get_short_help_str(80)))
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


def command(name: str, **kwargs: Any) -> Callable[[Callable[..., Any]], Command]:
    """Declares a command; its function takes the App, then its parameters by name."""

    def declare(function: Callable[..., Any]) -> Command:
        made = click.command(name, cls=Command, **kwargs)(function)
        assert isinstance(made, Command)
        return made

    return declare


def group(name: str, help: str) -> Group:
    return Group(name=name, help=help)


root = Group(
    name="cloudlessctl",
    lazy=TOP,
    help="Talk to a Cloudless fabric: one pool of compute out of many devices.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
