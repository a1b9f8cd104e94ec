"""`completion`: the script that teaches a shell to complete commands and live names."""

from __future__ import annotations

import click

from cloudless.ctl.app import App
from cloudless.ctl.cli import command, root

VARIABLE = "_CLOUDLESSCTL_COMPLETE"


@command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(app: App, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash:  source <(cloudlessctl completion bash)
    zsh:   source <(cloudlessctl completion zsh)
    fish:  cloudlessctl completion fish | source
    """
    from click.shell_completion import get_completion_class

    cls = get_completion_class(shell)
    assert cls is not None
    made = cls(root, {}, "cloudlessctl", VARIABLE)
    # Not `source`: for bash it would run bash to look at its version.
    app.print(made.source_template % made.source_vars())
