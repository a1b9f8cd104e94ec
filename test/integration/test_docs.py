"""The documentation's commands work: every block that is marked ```sh run, in order, against a real fabric.

A block marked `sh run fails` must end with an error. What is shown below a block (```text) is compared as far as it
does not vary: headings of tables, and lines about a workload or a node as a whole.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cloudless.dev.fabric import AgentPlan
from cloudless.dev.image import build_web_image
from cloudless.testing.fabric import require_containerd, running_fabric

pytestmark = [pytest.mark.containerd, pytest.mark.xdist_group("containerd-fabric"), pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
# the same names, zones and classes as in `make demo`
AGENTS = tuple(
    AgentPlan(name=name, index=index, zone=zone, settings={"device-class": device, "owner-share": "0.25"})
    for index, (name, zone, device) in enumerate(
        (("desk", "study", "desktop"), ("laptop", "kitchen", "laptop"), ("vps", "cellar", "vps")), start=1
    )
)
_FENCE = re.compile(r"^```(?P<info>[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_STABLE = re.compile(r"^(?:[A-Z]+(?: {2,}[A-Z]+)+|(?:workload|node)/\S+ .*|error: .*)$")
_MARK = "@@@"


def fences(document):
    """(kind, text) of each fenced block: `sh run` and its like, and `text`."""
    return [(match["info"].strip(), match["body"]) for match in _FENCE.finditer((ROOT / document).read_text())]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A folder that looks like a checkout in which `make demo` ran."""
    require_containerd()
    folder = tmp_path_factory.mktemp("docs")
    (folder / "config").symlink_to(ROOT / "config")
    (folder / ".venv").mkdir()
    (folder / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    with running_fabric(folder / ".demo", tag="cldocs", agents=AGENTS, subnet_prefix="10.206") as fabric:
        archive = folder / "web.tar"
        build_web_image(archive, "cloudless.local/web:demo", www={"index.html": b"It runs.\n"})
        fabric.ctl("image", "import", str(archive))
        yield folder


def run(checkout, blocks):
    """Runs the blocks in one shell, as a reader would; the output of each."""
    lines = ["set -euo pipefail"]
    for kind, body in blocks:
        lines.append(f"echo '{_MARK}'")
        lines.append(f"if (\n{body}\n); then echo 'it should have failed'; exit 1; fi" if "fails" in kind else body)
    shell = subprocess.Popen(
        ["bash", "-s"],
        cwd=checkout,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = shell.communicate("\n".join(lines), timeout=200)
    finally:
        # an agent that a block started, if a later one did not come to end it
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()
    outputs = output.split(f"{_MARK}\n")[1:]
    assert shell.returncode == 0, f"this block failed:\n{blocks[len(outputs) - 1][1]}\nwith:\n{outputs[-1]}"
    return outputs


def squeezed(line):
    """A line without what varies: widths and numbers."""
    return re.sub(r"\d+", "0", " ".join(line.split()))


@pytest.mark.parametrize("document", ["README.md", "docs/tutorial.md"])
def test_every_command_works_and_shows_what_is_printed(checkout, document):
    found = fences(document)
    blocks = [(kind, body) for kind, body in found if kind.startswith("sh run")]
    assert blocks, f"{document} has no runnable block"
    outputs = iter(run(checkout, blocks))
    output = None
    for kind, body in found:
        if kind.startswith("sh"):
            output = next(outputs) if "run" in kind else None
        elif kind == "text" and output is not None:
            said = {squeezed(line) for line in output.splitlines()}
            for line in body.splitlines():
                if _STABLE.match(line):
                    assert squeezed(line) in said, f"{document} shows {line!r}, not in:\n{output}"


def test_every_link_leads_somewhere():
    for document in (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.relative_to(ROOT)}: {target} does not exist"
