"""Container images from local files, without a registry: one layer, written as an OCI archive.

The same input makes the same bytes, hence the same digest, on every machine.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

BUSYBOX = Path("/bin/busybox")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
_EPOCH = "1970-01-01T00:00:00Z"
_DIRECTORIES = ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "var", "var/empty", "www")
_USERS = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\nweb:x:10001:10001:web:/:/bin/sh\n"
_GROUPS = "root:x:0:\nnogroup:x:65534:\nweb:x:10001:\nstaff:x:50:web\n"

# The page is made at start because only then the replica knows its name; /dev/shm is writable in every replica,
# also with a read-only root.
_WEB_START = """\
#!/bin/sh
set -eu
mkdir -p /dev/shm/www
{
  echo "<!doctype html><title>Cloudless</title>"
  echo "<h1>Hello from Cloudless</h1>"
  echo "<p>replica: ${CLOUDLESS_REPLICA:-$(hostname)}</p>"
  echo "<p>node: ${CLOUDLESS_NODE:-unknown}</p>"
  echo "<p>host name: $(hostname)</p>"
} > /dev/shm/www/index.html
cp /www/* /dev/shm/www/ 2>/dev/null || true
echo "serving on port ${PORT:-8080}"
exec httpd -f -p "${PORT:-8080}" -h /dev/shm/www
"""


def build_image(
    out_tar: Path,
    reference: str,
    *,
    binaries: Sequence[Path] = (BUSYBOX,),
    files: Mapping[str, bytes | str] | None = None,
    entrypoint: Sequence[str] = (),
    cmd: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    user: str = "",
    working_dir: str = "/",
    labels: Mapping[str, str] | None = None,
    ports: Sequence[int] = (),
    stop_signal: str = "",
) -> str:
    """Writes an OCI archive and returns the digest of its manifest.

    `binaries` must be statically linked; a busybox brings the links of all its applets. `files` maps absolute
    paths to contents; those that start with `#!` are executable. Raises FileNotFoundError for a missing binary.
    """
    layer = _layer(binaries, files or {})
    architecture = _ARCHITECTURES.get(platform.machine(), platform.machine())
    settings: dict[str, object] = {
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
        + [f"{name}={value}" for name, value in (env or {}).items()],
        "WorkingDir": working_dir,
    }
    if entrypoint:
        settings["Entrypoint"] = list(entrypoint)
    if cmd:
        settings["Cmd"] = list(cmd)
    if user:
        settings["User"] = user
    if labels:
        settings["Labels"] = dict(labels)
    if ports:
        settings["ExposedPorts"] = {f"{port}/tcp": {} for port in ports}
    if stop_signal:
        settings["StopSignal"] = stop_signal
    config = _json(
        {
            "created": _EPOCH,
            "architecture": architecture,
            "os": "linux",
            "config": settings,
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
            "history": [{"created": _EPOCH, "created_by": "cloudless.dev.image"}],
        }
    )
    manifest_type = "application/vnd.oci.image.manifest.v1+json"
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [_descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
        }
    )
    index = _json(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [
                _descriptor(manifest_type, manifest)
                | {
                    "platform": {"architecture": architecture, "os": "linux"},
                    "annotations": {
                        "io.containerd.image.name": reference,
                        "org.opencontainers.image.ref.name": reference,
                    },
                }
            ],
        }
    )
    entries: dict[str, bytes] = {"oci-layout": _json({"imageLayoutVersion": "1.0.0"}), "index.json": index}
    for blob in (manifest, config, layer):
        entries[f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}"] = blob
    out_tar.parent.mkdir(parents=True, exist_ok=True)
    partial = out_tar.with_name(out_tar.name + ".partial")
    with tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in entries.items():
            archive.addfile(_entry(name, size=len(content)), io.BytesIO(content))
    os.replace(partial, out_tar)
    return _digest(manifest)


def build_web_image(out_tar: Path, reference: str, *, www: Mapping[str, bytes | str] | None = None) -> str:
    """The demo's image: an HTTP server on port 8080 (`PORT`) whose page names the replica. Not run as root."""
    files: dict[str, bytes | str] = {f"/www/{name}": content for name, content in (www or {}).items()}
    files["/bin/serve"] = _WEB_START
    return build_image(out_tar, reference, files=files, entrypoint=["/bin/serve"], user="10001:10001", ports=[8080])


def _layer(binaries: Sequence[Path], files: Mapping[str, bytes | str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as layer:
        made: set[str] = set()

        def directory(name: str) -> None:
            if not name or name in made:
                return
            directory(name.rpartition("/")[0])
            made.add(name)
            layer.addfile(_entry(name, mode=0o1777 if name == "tmp" else 0o755, type=tarfile.DIRTYPE))

        def file(name: str, content: bytes, mode: int) -> None:
            directory(name.rpartition("/")[0])
            made.add(name)
            layer.addfile(_entry(name, size=len(content), mode=mode), io.BytesIO(content))

        for name in _DIRECTORIES:
            directory(name)
        for path in sorted({"/etc/passwd": _USERS, "/etc/group": _GROUPS} | dict(files)):
            content = files.get(path, _USERS if path == "/etc/passwd" else _GROUPS)
            data = content.encode() if isinstance(content, str) else content
            file(path.lstrip("/"), data, 0o755 if data.startswith(b"#!") else 0o644)
        for binary in binaries:
            file(f"bin/{binary.name}", binary.read_bytes(), 0o755)
            if binary.name == "busybox":
                for applet in _applets(binary):
                    if f"bin/{applet}" not in made:
                        made.add(f"bin/{applet}")
                        layer.addfile(_entry(f"bin/{applet}", type=tarfile.SYMTYPE, linkname="busybox"))
    return buffer.getvalue()


def _applets(busybox: Path) -> list[str]:
    listed = subprocess.run([str(busybox), "--list"], capture_output=True, text=True, check=True).stdout.split()
    return sorted(name for name in set(listed) if name != "busybox" and "/" not in name)


def _entry(
    name: str, *, size: int = 0, mode: int = 0o644, type: bytes = tarfile.REGTYPE, linkname: str = ""
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.type, info.linkname, info.mtime = size, mode, type, linkname, 0
    return info


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _descriptor(media_type: str, data: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": _digest(data), "size": len(data)}


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
