"""Who a container runs as: `user[:group]` of an image or a security context, resolved in the image's own files."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloudless.errors import InvalidArgument

_FILE_BYTES_MAX = 2**20
_ID_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True)
class User:
    uid: int
    gid: int
    groups: tuple[int, ...] = ()  # supplementary
    home: str = "/"


def needs_files(user: str) -> bool:
    """True: the name can only be resolved with the image's /etc/passwd or /etc/group."""
    return any(part and not part.isdecimal() for part in user.split(":"))


def resolve(
    image_user: str,
    *,
    run_as_user: int | None,
    run_as_group: int | None,
    non_root: bool,
    passwd: str,
    group: str,
) -> User:
    """The user to run as. A security context's numbers win over the image's. Raises InvalidArgument for a name that
    the image does not have, and for root where that is not allowed."""
    name, _, group_name = image_user.partition(":")
    if run_as_user is not None:
        name, group_name = str(run_as_user), ""
    entry = _entry(passwd, name or "0")
    if name and not name.isdecimal() and entry is None:
        raise InvalidArgument(f"the image's user {name!r} is not in its /etc/passwd", reason="UnknownUser")
    uid = _id(name) if name.isdecimal() else _id(entry[2]) if entry else 0
    gid = _id(entry[3]) if entry else 0
    if group_name:
        found = _entry(group, group_name)
        if not group_name.isdecimal() and found is None:
            raise InvalidArgument(f"the image's group {group_name!r} is not in its /etc/group", reason="UnknownUser")
        gid = _id(group_name) if group_name.isdecimal() else _id(found[2]) if found else 0
    if run_as_group is not None:
        gid = run_as_group
    if non_root and uid == 0:
        raise InvalidArgument(
            "runAsNonRoot is set, but the container would run as root",
            reason="RunAsNonRoot",
            remedy="set securityContext.runAsUser",
        )
    login = entry[0] if entry else ""
    groups = () if group_name or not login else _memberships(group, login)
    home = entry[5] if entry and len(entry) > 5 and entry[5].startswith("/") else "/"
    return User(uid, gid, tuple(sorted(set(groups) - {gid})), home)


def read_from_mounts(mounts: Sequence[Any], path: str) -> str:
    """A small text file of a root file system that is described by a snapshot's mounts, without mounting it. Empty
    if it is not there. Symbolic links are not followed: an image must not point outside of itself."""
    for directory in _layers(mounts):
        found = _read_beneath(directory, path)
        if found is not None:
            return found
    return ""


def _layers(mounts: Sequence[Any]) -> list[Path]:
    """The directories of the stacked layers, the highest first."""
    layers: list[Path] = []
    for mount in mounts:
        if mount.type == "overlay":
            options = dict(option.partition("=")[::2] for option in mount.options)
            if "upperdir" in options:
                layers.append(Path(options["upperdir"]))
            layers += [Path(part) for part in options.get("lowerdir", "").split(":") if part]
        else:
            layers.append(Path(mount.source))
    return layers


def _read_beneath(directory: Path, path: str) -> str | None:
    """None: this layer does not have the file; look below."""
    *folders, name = path.strip("/").split("/")
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for folder in folders:
                deeper = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=handle)
                os.close(handle)
                handle = deeper
            status = os.stat(name, dir_fd=handle, follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode):
                return ""  # a whiteout (the image removed it) or something that is no file
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=handle)
        finally:
            os.close(handle)
    except OSError:
        return None
    with os.fdopen(file, "rb") as opened:
        return opened.read(_FILE_BYTES_MAX).decode(errors="replace")


def _entry(text: str, name: str) -> list[str] | None:
    """The line of passwd or group for a name or number."""
    column = 2 if name.isdecimal() else 0
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) >= 4 and fields[column] == name and fields[2].isdecimal():
            return fields
    return None


def _memberships(group: str, login: str) -> tuple[int, ...]:
    found = []
    for line in group.splitlines():
        fields = line.split(":")
        if len(fields) >= 4 and fields[2].isdecimal() and login in fields[3].split(","):
            found.append(_id(fields[2]))
    return tuple(found)


def _id(text: str) -> int:
    number = int(text) if text.isdecimal() and len(text) <= 10 else -1
    if not 0 <= number <= _ID_MAX:
        raise InvalidArgument(f"{text!r} is not a user or group number", reason="UnknownUser")
    return number
