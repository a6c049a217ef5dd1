"""Archives that are the same, bit for bit, for the same files: tar.gz, and images as OCI and docker read them."""

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from datetime import datetime, timezone


@dataclass(frozen=True)
class Layer:
    """A file system as images have it."""

    compressed: bytes
    # Of the tar archive in it, as the image's configuration names it.
    digest: str


@dataclass(frozen=True)
class Platform:
    """The image of one architecture, by the name that Debian and OCI share."""

    architecture: str
    layer: Layer


def tar_of(folder, prefix, time):
    """A folder as tar archive: sorted, owned by root, all of one time."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path in sorted(folder.rglob("*")):
            entry = archive.gettarinfo(path, prefix + str(path.relative_to(folder)))
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = "root"
            entry.mtime = time
            entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
            if entry.issym():
                entry.mode = 0o777
            # A second name of a file would depend on which was met first.
            if entry.islnk():
                entry.type, entry.linkname, entry.size = tarfile.REGTYPE, "", path.stat().st_size
            archive.addfile(entry, path.open("rb") if entry.isreg() else None)
    return made.getvalue()


def archive(folder, file, name, time):
    """A tar.gz with the folder below its name."""
    file.write_bytes(gzip.compress(tar_of(folder, f"{name}/", time), 9, mtime=0))


def layer(folder, time):
    """The folder as layer of an image."""
    tar = tar_of(folder, "", time)
    return Layer(gzip.compress(tar, 9, mtime=0), sha256(tar))


def sha256(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


def compact(value):
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def stamp(time):
    return datetime.fromtimestamp(time, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def image_archive(platforms, file, tag, labels, time):
    """An OCI image layout in a tar archive. With one platform it also has what docker reads, which knows one platform only."""
    blobs = {}

    def blob(content, media_type, **more):
        blobs[sha256(content)] = content
        return {"mediaType": f"application/vnd.oci.image.{media_type}", "digest": sha256(content), "size": len(content), **more}

    manifests, docker = [], []
    for platform in platforms:
        config = blob(compact({
            "architecture": platform.architecture,
            "os": "linux",
            "created": stamp(time),
            "config": {
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "Entrypoint": ["/usr/local/bin/portway"],
                "Labels": labels,
            },
            "rootfs": {"type": "layers", "diff_ids": [platform.layer.digest]},
            "history": [{"created": stamp(time), "comment": "scripts/release"}],
        }), "config.v1+json")  # fmt: skip
        layers = [blob(platform.layer.compressed, "layer.v1.tar+gzip")]
        manifest = compact({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": layers,
            "annotations": labels,
        })  # fmt: skip
        of = {"architecture": platform.architecture, "os": "linux"}
        manifests.append(blob(manifest, "manifest.v1+json", platform=of))
        path = lambda descriptor: f"blobs/sha256/{descriptor['digest'].removeprefix('sha256:')}"
        docker.append({"Config": path(config), "RepoTags": [tag], "Layers": [path(one) for one in layers]})
    top = manifests[0]
    if len(manifests) > 1:
        index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests}
        top = blob(compact({**index, "annotations": labels}), "index.v1+json")
    # Both names: what containerd imports it as, and what it is called in the layout.
    names = {"io.containerd.image.name": f"docker.io/library/{tag}", "org.opencontainers.image.ref.name": tag.split(":")[1]}
    files = {
        "oci-layout": compact({"imageLayoutVersion": "1.0.0"}),
        "index.json": compact({"schemaVersion": 2, "manifests": [{**top, "annotations": names}]}),
        **{f"blobs/sha256/{digest.removeprefix('sha256:')}": content for digest, content in sorted(blobs.items())},
    }
    if len(platforms) == 1:
        files["manifest.json"] = compact(docker)
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime, entry.mode = len(content), time, 0o644
            archive.addfile(entry, io.BytesIO(content))
    # Not compressed: layers are, and not every program would take it.
    file.write_bytes(made.getvalue())


def checksums(folder):
    """SHA256SUMS of all that is in a folder, as `sha256sum --check` reads it."""
    files = sorted(path for path in folder.iterdir() if path.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (folder / "SHA256SUMS").write_text("".join(lines))
