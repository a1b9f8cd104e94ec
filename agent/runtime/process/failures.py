"""What the launcher reports, as the errors of the Runtime protocol."""

from __future__ import annotations

import errno

from cloudless.agent.runtime.base import COMMAND_NOT_EXECUTABLE, COMMAND_NOT_FOUND
from cloudless.errors import CloudlessError, FailedPrecondition, InvalidArgument, Unavailable

_REASONS = {
    errno.ENOENT: COMMAND_NOT_FOUND,
    errno.ENOTDIR: COMMAND_NOT_FOUND,
    errno.EACCES: COMMAND_NOT_EXECUTABLE,
    errno.EPERM: COMMAND_NOT_EXECUTABLE,
    errno.EISDIR: COMMAND_NOT_EXECUTABLE,
    errno.ENOEXEC: COMMAND_NOT_EXECUTABLE,
}


def refused(report: bytes) -> CloudlessError:
    """`report`: `stage errno text` from launch.py. The program's own fault can never be mended here; a
    restriction that this device does not have may exist on another one."""
    text = report.decode(errors="replace")
    stage, _, rest = text.partition(" ")
    number, _, message = rest.partition(" ")
    message = message or text
    if stage == "exec":
        return InvalidArgument(
            f"cannot execute {message}",
            reason=_REASONS.get(int(number) if number.isdigit() else 0, "CannotExecute"),
            remedy="name an executable below /usr, /bin or /opt of the device, or one in the replica's own folder",
        )
    if stage == "working_dir":
        return InvalidArgument(message, reason="BadWorkingDirectory")
    if stage == "setup":
        return Unavailable(f"the process could not be set up: {message}", reason="RuntimeUnavailable")
    return FailedPrecondition(f"{stage}: {message}", reason="FeatureMissing")
