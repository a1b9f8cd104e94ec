"""Where each file of a tar archive is, without unpacking it.

Reads ustar, GNU long names and pax paths and sizes. Written for outside bytes: every number is bounded, every
step moves forward, nothing is written anywhere. Names only serve as keys here; a name that leaves the archive's
root is refused all the same, because it is never honest.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

_BLOCK = 512
_MEMBERS_MAX = 100_000
_HEADER_BYTES_MAX = 64 * 1024  # a long name or a pax header
_LINKS_MAX = 8
_REGULAR = (b"0", b"\0", b"7")
_SYMLINK, _HARDLINK = b"2", b"1"
_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL = b"L", b"K", b"x", b"g"


class BadArchive(ValueError):
    """The archive cannot be what it says it is; the message tells why."""


@dataclass(frozen=True, slots=True)
class Member:
    offset: int  # of the content, from the start of the archive
    size: int  # bytes


class TarIndex:
    """The regular files of an archive by normalised name (`blobs/sha256/...`), links resolved."""

    def __init__(self, members: Mapping[str, Member], links: Mapping[str, str]) -> None:
        self._members = members
        self._links = links

    def __contains__(self, name: str) -> bool:
        return self._resolve(name) in self._members

    def find(self, name: str) -> Member:
        """The file of this name. Raises BadArchive if the archive has none."""
        target = self._resolve(name)
        if target not in self._members:
            raise BadArchive(f"the archive has no file {name!r}")
        return self._members[target]

    def _resolve(self, name: str) -> str:
        for _ in range(_LINKS_MAX):
            if name not in self._links:
                break
            name = self._links[name]
        return name


def read_index(file: BinaryIO, *, total_bytes: int) -> TarIndex:
    """The index of an uncompressed tar of `total_bytes`. Raises BadArchive."""
    members: dict[str, Member] = {}
    links: dict[str, str] = {}
    position = 0
    count = 0
    long_name = long_link = ""
    pax: dict[str, str] = {}
    while True:
        header = _read(file, position, _BLOCK)
        if position == 0 and header[:2] == b"\x1f\x8b":
            raise BadArchive("the archive is compressed; unpack it with gunzip first")
        if not header.strip(b"\0"):
            break
        count += 1
        if count > _MEMBERS_MAX:
            raise BadArchive(f"the archive has more than {_MEMBERS_MAX} files")
        _verify_checksum(header)
        kind = header[156:157]
        size = _number(header[124:136])
        content = position + _BLOCK
        if kind in (_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL):
            if size > _HEADER_BYTES_MAX:
                raise BadArchive("a header of the archive is too long")
            data = _read(file, content, size)
            if kind == _LONG_NAME:
                long_name = _text(data)
            elif kind == _LONG_LINK:
                long_link = _text(data)
            elif kind == _PAX:
                pax = _pax(data)
        else:
            name = _normalise(pax.get("path") or long_name or _header_name(header))
            if "size" in pax and kind in _REGULAR:
                size = _pax_size(pax["size"])
            if kind in _REGULAR:
                if content + size > total_bytes:
                    raise BadArchive(f"the archive ends inside {name!r}")
                members[name] = Member(content, size)
                links.pop(name, None)
            elif kind in (_SYMLINK, _HARDLINK):
                target = pax.get("linkpath") or long_link or _text(header[157:257])
                folder = posixpath.dirname(name) if kind == _SYMLINK else ""
                links[name] = _normalise(posixpath.join(folder, target))
                members.pop(name, None)
                size = 0
            else:
                size = 0
            long_name = long_link = ""
            pax = {}
        position = content + (size + _BLOCK - 1) // _BLOCK * _BLOCK
        if position >= total_bytes:
            break
    return TarIndex(members, links)


def read_bytes(file: BinaryIO, member: Member, *, limit: int) -> bytes:
    """The content of a small file. Raises BadArchive if it is larger than `limit`."""
    if member.size > limit:
        raise BadArchive(f"a document of the archive has {member.size} bytes; at most {limit} are read")
    return _read(file, member.offset, member.size)


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    data = file.read(size)
    if len(data) != size:
        raise BadArchive("the archive is cut short")
    return data


def _verify_checksum(header: bytes) -> None:
    expected = _number(header[148:156])
    if expected != sum(header[:148]) + 8 * 0x20 + sum(header[156:]):
        raise BadArchive("this is not a tar archive, or it is damaged")


def _number(field: bytes) -> int:
    if field[0] & 0x80:  # GNU base 256
        value = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    else:
        try:
            value = int(field.strip(b"\0 ") or b"0", 8)
        except ValueError:
            raise BadArchive("a number in the archive's headers is damaged") from None
    if not 0 <= value < 2**62:
        raise BadArchive("a number in the archive's headers is out of range")
    return value


def _text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _header_name(header: bytes) -> str:
    name = _text(header[:100])
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _normalise(name: str) -> str:
    path = posixpath.normpath(name)
    if path == ".." or path.startswith(("/", "../")):
        raise BadArchive(f"the name {name!r} leaves the archive")
    return path


def _pax(data: bytes) -> dict[str, str]:
    records: dict[str, str] = {}
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + 12)
        digits = data[position:space] if space > 0 else b""
        if not digits.isdigit():
            raise BadArchive("a pax header of the archive is damaged")
        end = position + int(digits)
        if end <= space or end > len(data):
            raise BadArchive("a pax header of the archive is damaged")
        key, _, value = data[space + 1 : end - 1].partition(b"=")
        records[_text(key)] = _text(value)
        position = end
    return records


def _pax_size(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise BadArchive("a pax header of the archive is damaged")
    return int(text)
