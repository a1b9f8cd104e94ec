"""The program: runs a command and turns whatever happens into an exit code and words that say what to do.

Exit codes: 0 done; 1 failed; 2 usage; 3 not found; 4 refused by policy or placement; 5 unreachable; 6 timed out;
130 interrupted. `exec` ends with the remote program's own code, or as a shell does: 127 not found, 126 not executable.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from cloudless.ctl.app import App
from cloudless.ctl.cli import root
from cloudless.errors import CloudlessError

INTERRUPTED = 130


def run(arguments: Sequence[str] | None = None, app: App | None = None) -> int:
    """Runs one command line and returns its exit code. Never raises, never shows a traceback."""
    app = app or App()
    try:
        answer = root.main(args=arguments, prog_name="cloudlessctl", standalone_mode=False, obj=app)
        code = answer if isinstance(answer, int) else 0
        sys.stdout.flush()
        if code == 0 and app.has_called and not app.completes:
            from cloudless.ctl.renewal import renew_if_due, save_learnt

            renew_if_due(app)
            save_learnt(app)
    except CloudlessError as error:
        code = report(error)
    except click.exceptions.Exit as ended:
        code = ended.exit_code
    except click.ClickException as error:
        code = _usage(error)
    except (KeyboardInterrupt, click.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        code = _reader_left()
    except Exception as error:
        code = _crash(error, app)
    finally:
        app.close()
    return code


def report(error: CloudlessError) -> int:
    """Says what went wrong and what to do next; returns the exit code."""
    message = error.message or error.reason
    print(f"error: {message}", file=sys.stderr)
    if error.remedy:
        print(f"hint: {error.remedy}", file=sys.stderr)
    return error.exit_code


def _usage(error: click.ClickException) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        print(error.format_message(), file=sys.stderr)
        return 2
    print(f"error: {error.format_message()}", file=sys.stderr)
    context = getattr(error, "ctx", None)
    if context is not None:
        print(f"hint: see `{context.command_path} --help`", file=sys.stderr)
    return 2


def _reader_left() -> int:
    """The reader of our output went away (`| head`): nothing is wrong."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 0


def _crash(error: Exception, app: App) -> int:
    print(f"error: this is a fault of cloudlessctl: {type(error).__name__}: {error}", file=sys.stderr)
    if not app.settings.debug:
        print("hint: run it again with --debug, which writes the details to a file, and report it", file=sys.stderr)
        return 1
    import tempfile
    import traceback

    descriptor, path = tempfile.mkstemp(prefix="cloudlessctl-crash-", suffix=".txt")
    with os.fdopen(descriptor, "w") as file:
        traceback.print_exception(error, file=file)
    print(f"hint: the details are in {path}; report it with them", file=sys.stderr)
    return 1


def main() -> NoReturn:
    # Before gRPC is imported: what it would write about a broken handshake is said better by our own error.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    code = run()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = _reader_left()
    # Threads that wait for a terminal or a stream have nothing to say any more.
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
