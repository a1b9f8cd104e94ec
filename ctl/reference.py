"""The reference of all commands as Markdown, from the commands themselves: `python -m cloudless.ctl.reference`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from cloudless.ctl.app import App
from cloudless.ctl.cli import COMMON, Group, root

_INTRO = """\
# cloudlessctl

Made from the commands themselves (`make docs`); do not edit.

Things are named `TYPE NAME` or `TYPE/NAME`; types have plurals and short names: workload (`wl`), node (`no`), replica
(`rep`), event (`ev`), token (`tok`), user. Nodes, replicas and tokens may be named by a unique prefix.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | failed |
| 2 | usage, or a bad manifest |
| 3 | not found |
| 4 | refused by policy or placement |
| 5 | unreachable |
| 6 | timed out |
| 130 | interrupted |

`exec` ends with the remote program's own code, 127 where there is no such program, 126 where it cannot be executed.
Errors go to stderr as `error: cause` and `hint: next step`.
"""


def lines() -> Iterator[str]:
    """The whole reference, line by line."""
    yield _INTRO
    yield "\n## Flags of every command\n"
    with click.Context(root, info_name="cloudlessctl", obj=App(environment={})) as context:
        yield from _options([p for p in root.params if p.name in COMMON], context)
        yield from _commands(root, context)


def _commands(group: Group, context: click.Context) -> Iterator[str]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None or command.hidden:
            continue
        with click.Context(command, info_name=name, parent=context) as inner:
            if isinstance(command, Group):
                yield f"\n## {inner.command_path}\n"
                yield f"{command.help or ''}"
                yield from _commands(command, inner)
                continue
            own_level = "##" if context.parent is None else "###"
            usage = " ".join(["cloudlessctl", *_path(inner), *command.collect_usage_pieces(inner)])
            yield f"\n{own_level} {inner.command_path}\n"
            yield f"```\n{usage}\n```\n"
            yield _text(command.help or "")
            yield from _options([p for p in command.params if p.name not in COMMON], inner)


def _path(context: click.Context) -> list[str]:
    return context.command_path.split()[1:]


def _text(help: str) -> str:
    paragraphs = inspect.cleandoc(help).split("\n\n")
    made = [
        "```\n" + paragraph.removeprefix("\b\n") + "\n```" if paragraph.startswith("\b") else paragraph
        for paragraph in paragraphs
    ]
    return "\n\n".join(made) + "\n"


def _options(params: list[click.Parameter], context: click.Context) -> Iterator[str]:
    rows = []
    for param in params:
        record = param.get_help_record(context) if isinstance(param, click.Option) and not param.hidden else None
        if record is not None:
            cells = (f"`{record[0]}`", " ".join(record[1].split()))
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    if rows:
        yield "| flag | |\n|---|---|"
        yield "\n".join(rows)


def main() -> None:
    """Prints the reference."""
    print("\n".join(line.rstrip("\n") if line == _INTRO else line for line in lines()))


if __name__ == "__main__":
    main()
