"""What the launcher reports, as the errors of the Runtime protocol."""

from __future__ import annotations

from cloudless.errors import CloudlessError, FailedPrecondition, InvalidArgument, Unavailable


def refused(report: bytes) -> CloudlessError:
    """`report`: `stage errno text` from launch.py. The program's own fault can never be mended here; a
    restriction that this device does not have may exist on another one."""
    text = report.decode(errors="replace")
    stage, _, rest = text.partition(" ")
    message = rest.partition(" ")[2] or text
    if stage == "exec":
        return InvalidArgument(
            f"cannot execute {message}",
            reason="CannotExecute",
            remedy="name an executable below /usr, /bin or /opt of the device, or one in the replica's own folder",
        )
    if stage == "setup":
        return Unavailable(f"the process could not be set up: {message}", reason="RuntimeUnavailable")
    return FailedPrecondition(f"{stage}: {message}", reason="FeatureMissing")
