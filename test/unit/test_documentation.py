"""The documentation names only commands, flags, settings, metrics and fields of the manifest that exist."""

import dataclasses
import re
import shlex
from pathlib import Path

import click
import pytest

from cloudless import config
from cloudless.core.spec import WorkloadSpec
from cloudless.ctl.cli import root
from cloudless.manifest import schema

ROOT = Path(__file__).parents[2]
# What is made from the code itself needs no comparison with it.
DOCUMENTS = [
    path
    for path in (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md")))
    if path.name != "cli.md"
]
_DRAWING = re.compile(r"^```mermaid\n.*?^```$", re.MULTILINE | re.DOTALL)
_FENCE = re.compile(r"^```\w*[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")
_SOURCES = ("agent", "coordinator", "cloudless", "ctl")


def codes(text):
    """Lines of fenced blocks that are no drawings, and what stands in backticks outside of them."""
    text = _DRAWING.sub("", text)
    for block in _FENCE.findall(text):
        yield from block.replace("\\\n", " ").splitlines()
    yield from _CODE.findall(_FENCE.sub("", text))


def found(pattern):
    """(document, match) of the pattern in every piece of code, each once."""
    items = {
        (str(path.relative_to(ROOT)), match.group(0).strip())
        for path in DOCUMENTS
        for code in codes(path.read_text())
        for match in re.finditer(pattern, code)
    }
    return sorted(items)


def words_of(call):
    try:
        words = shlex.split(call, comments=True)
    except ValueError:  # a quotation that goes on in the next line
        words = call.split()
    for end, word in enumerate(words):
        if word in ("|", "&&", "||", ">", "<", ";") or word.startswith((">", "2>")):
            return words[:end]
    return words


@pytest.mark.parametrize(("document", "call"), found(r"\bcloudlessctl\b[^()]*?(?=\s{2,}cloudlessctl|[;()]|$)"))
def test_every_command_and_flag_exists(document, call):
    command, words = root, words_of(call)[1:]
    context = click.Context(root)
    flags = set()
    position = 0
    while True:
        flags |= {flag for p in command.get_params(context) for flag in (*p.opts, *p.secondary_opts)}
        if not isinstance(command, click.Group) or position >= len(words) or words[position].startswith("-"):
            break
        inner = command.get_command(context, words[position])
        assert inner is not None, f"{document}: {call!r}: there is no command {words[position]!r}"
        command, position = inner, position + 1
    if "--" in words:
        words = words[: words.index("--")]
    for word in words[position:]:
        if re.match(r"--?[a-zA-Z]", word):
            flag = word.split("=")[0]
            short = not flag.startswith("--") and len(flag) > 2
            named = {f"-{letter}" for letter in flag[1:]} if short else {flag}
            assert named <= flags, f"{document}: {call!r}: there is no flag {flag}"


def test_every_setting_exists():
    leaves = [*config.leaves(config.CoordinatorConfig), *config.leaves(config.AgentConfig)]
    paths = {".".join(leaf.path[:depth]) for leaf in leaves for depth in range(1, len(leaf.path) + 1)}
    sections = sorted({leaf.path[0] for leaf in leaves if len(leaf.path) > 1})
    claims = found(rf"^(?:{'|'.join(sections)})\.[a-z_.]+(?=[\s:=]|$)")
    assert len(claims) > 10
    wrong = [f"{document}: {name}" for document, name in claims if name not in paths and not _is_file(name)]
    assert not wrong


def _is_file(name):
    return name.endswith((".py", ".json", ".yaml", ".proto"))


def test_every_metric_exists():
    declared = "\n".join(
        path.read_text() for folder in _SOURCES for path in (ROOT / folder).rglob("*.py") if "_pb2" not in path.name
    )
    claims = found(r"cloudless_[a-z_]+(?=\W|$)")
    assert len(claims) > 10
    wrong = [f"{document}: {name}" for document, name in claims if f'"{name}"' not in declared]
    assert not wrong


def fields_of(cls):
    return {field.key: field for field in schema.fields(cls)}


def exists(path):
    """Whether a field of the manifest's spec has this path, such as disruption.offlineGrace."""
    cls = WorkloadSpec
    for key in path:
        if cls is None or key not in (fields := fields_of(cls)):
            return False
        kind = fields[key].type
        while kind.item is not None:
            kind = kind.item
        cls = kind.cls if dataclasses.is_dataclass(kind.cls) else None
    return True


def test_every_field_of_the_manifest_exists():
    sections = [key for key, field in fields_of(WorkloadSpec).items() if field.type.kind == "object"]
    claims = found(rf"^(?:spec|{'|'.join(sections)})\.[a-zA-Z.]+(?=[\s:]|$)")
    assert len(claims) > 10
    wrong = [
        f"{document}: {name}"
        for document, name in claims
        if not _is_file(name) and not exists(name.removeprefix("spec.").split("."))
    ]
    assert not wrong
