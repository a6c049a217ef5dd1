"""The disks of a guest: a root file system for all kernels; for each kernel its modules, and what it boots from."""

import gzip
import lzma
import os
import re
import shutil
import subprocess
from pathlib import Path

from debian import PackageError, unpack

# What the checks and the tests run. Python listens and connects in some checks.
GUEST_PACKAGES = [
    "bash", "busybox-static", "conntrack", "coreutils", "dash", "findutils", "grep", "gzip", "iproute2", "ipset", "iptables", "ipvsadm",
    "kmod", "libgcc-s1", "libmnl0", "libnftnl11", "mawk", "mount", "nftables", "procps", "python3", "sed", "strace",
    "tar", "util-linux",
]  # fmt: skip
# Programs that packages only make when they are installed.
GUEST_LINKS = {"usr/bin/awk": "mawk", "usr/bin/sh": "dash", "usr/sbin/poweroff": "/usr/bin/busybox"}
# What the kernel needs to find its root file system; many kernels have some of it built in.
BOOT_MODULES = [
    "virtio", "virtio_ring", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_mmio", "virtio_blk",
    "crc16", "crc32c_generic", "crc32c-generic", "libcrc32c", "crc32c-cryptoapi", "mbcache", "jbd2", "ext4", "overlay",
]  # fmt: skip
# Modules that may be wanted later; the rest of a kernel's are drivers.
MODULE_FOLDERS = ["net", "lib", "crypto", "arch", "drivers/net", "drivers/virtio", "drivers/block", "fs/ext4", "fs/overlayfs"]
NOT_NEEDED = re.compile(r"/drivers/net/(ethernet|wireless|can|usb|phy|wwan|ieee802154)/|/net/(wireless|mac80211|bluetooth|can)/")

INIT = """#!/bin/busybox sh
# Finds the root file system, puts a writable layer over it and goes on there.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
# Modules need each other: those that cannot be loaded yet are tried again.
for round in 1 2 3 4 5; do
    for module in /modules/*.ko; do [ -f "$module" ] && insmod "$module" 2>/dev/null; done
done
for round in $(seq 100); do [ -b /dev/vdb ] && break; sleep 0.1; done
mount -t ext4 -o ro /dev/vda /lower || { echo "kernels: no root file system"; poweroff -f; }
mount -t tmpfs -o size=1500m tmpfs /upper; mkdir /upper/files /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work overlay /root || {
    echo "kernels: no overlay"; poweroff -f; }
mount -t ext4 -o ro /dev/vdb /root/usr/lib/modules
mount --move /dev /root/dev; mount --move /proc /root/proc; mount --move /sys /root/sys
exec switch_root /root /kernels/init
"""


class Kernel:
    """An unpacked kernel: its image and its modules."""

    def __init__(self, folder):
        images = [path for pattern in ("**/vmlinuz*", "**/bzImage", "**/Image") for path in sorted(folder.glob(pattern))]
        images = [path for path in images if path.is_file()]
        if not images:
            raise PackageError(f"no kernel in {folder}: no file vmlinuz*, bzImage or Image")
        self.image = images[0]
        modules = [path.parent for path in sorted(folder.glob("**/lib/modules/*/kernel"))]
        self.modules = modules[0] if modules else None
        self.release = self.modules.name if self.modules else release_of(self.image)

    @property
    def version(self):
        """Its first two numbers: the column of the table."""
        return re.match(r"\d+\.\d+", self.release)[0]


def release_of(image):
    """What `uname -r` will say, from the header of an x86 image."""
    with image.open("rb") as file:
        header = file.read(0x8000)
    offset = int.from_bytes(header[0x20E:0x210], "little") + 0x200
    text = header[offset : offset + 100].split(b"\0")[0].decode(errors="replace")
    found = re.match(r"\d+\.\d+\S*", text)
    if not found:
        raise PackageError(f"cannot tell the release of {image}; name its folder of modules lib/modules/RELEASE")
    return found[0]


def plain_module(path):
    """The content of a module, which may be compressed."""
    packed = path.read_bytes()
    match path.suffix:
        case ".xz":
            return lzma.decompress(packed)
        case ".gz":
            return gzip.decompress(packed)
        case ".zst":
            return subprocess.run(["zstd", "-dcq"], input=packed, capture_output=True, check=True).stdout
    return packed


def make_modules(kernel, folder, disk):
    """A file system with the modules of a kernel, unpacked so that the guest need not do it, and their index."""
    target = folder / "lib/modules" / kernel.release
    target.mkdir(parents=True)
    if kernel.modules:
        for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
            if (kernel.modules / name).exists():
                shutil.copy(kernel.modules / name, target)
        for part in MODULE_FOLDERS:
            for path in sorted((kernel.modules / "kernel" / part).glob("**/*.ko*")):
                if NOT_NEEDED.search(str(path)):
                    continue
                to = target / path.relative_to(kernel.modules).parent / (path.name.split(".ko")[0] + ".ko")
                to.parent.mkdir(parents=True, exist_ok=True)
                to.write_bytes(plain_module(path))
        run("depmod", "--basedir", folder, kernel.release)
    make_disk(folder / "lib/modules", disk)
    return target


def make_initramfs(busybox, modules, file):
    """What the kernel boots into."""
    entries = [(name, 0o040755, b"") for name in ("bin", "proc", "sys", "dev", "lower", "upper", "root", "modules")]
    entries += [("bin/busybox", 0o100755, busybox.read_bytes()), ("init", 0o100755, INIT.encode())]
    found = {path.stem: path for path in modules.glob("**/*.ko")}
    wanted = [name for name in BOOT_MODULES if name in found]
    entries += [(f"modules/{i:02}-{name}.ko", 0o100644, found[name].read_bytes()) for i, name in enumerate(wanted)]
    file.write_bytes(gzip.compress(cpio(entries), 1))


def cpio(entries):
    """An archive in the form that the kernel unpacks ("newc")."""
    out = bytearray()
    for number, (name, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")]):
        links = 2 if mode & 0o040000 else 1
        fields = [number + 1, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0]
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        out += b"\0" * (-len(out) % 4) + content
        out += b"\0" * (-len(out) % 4)
    return bytes(out)


def make_disk(folder, disk):
    """An ext4 file system with the content of a folder. Needs no root."""
    used = sum(path.lstat().st_size // 4096 + 1 for path in folder.glob("**/*")) * 4096
    megabytes = used * 5 // 4 // 2**20 + 32
    disk.unlink(missing_ok=True)
    # Without what older kernels do not know.
    features = "^has_journal,^metadata_csum,^metadata_csum_seed,^orphan_file"
    tried = subprocess.run(mke2fs(features, folder, disk, megabytes), capture_output=True)
    if tried.returncode != 0:
        disk.unlink(missing_ok=True)
        run(*mke2fs("^has_journal,^metadata_csum", folder, disk, megabytes))


def mke2fs(features, folder, disk, megabytes):
    return ["mke2fs", "-q", "-t", "ext4", "-O", features, "-d", folder, disk, f"{megabytes}M"]


def make_root(packages, root, source, build, flows):
    """The guest's root file system as a folder: Debian's programs, Portway, the tests, and the checks."""
    unpack(packages, root)
    for link, target in GUEST_LINKS.items():
        if not os.path.lexists(root / link):
            (root / link).symlink_to(target)
    for name in ("dev", "proc", "sys", "run", "tmp", "root", "results", "etc/modprobe.d", "usr/local/bin", "usr/lib/modules"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/:/bin/false\n")
    (root / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
    # Documentation and the like would only make the file system larger.
    for name in ("doc", "man", "locale", "info", "bash-completion"):
        shutil.rmtree(root / "usr/share" / name, ignore_errors=True)

    shutil.copytree(source / "tests/kernels/guest", root / "kernels", dirs_exist_ok=True)
    (root / "kernels/tests").mkdir()
    for name, program in build.tests.items():
        run(build.strip, "-o", root / "kernels/tests" / name, program)
    # Test programs know the paths of the checkout they were built in.
    inside = root / str(source).lstrip("/")
    for name in ("tests", "rules", "docs"):
        shutil.copytree(source / name, inside / name)
    program = root / str(build.program).lstrip("/")
    program.parent.mkdir(parents=True)
    run(build.strip, "-o", program, build.program)
    (root / "usr/local/bin/portway").symlink_to(build.program)
    shared = ""
    if flows:
        shutil.copy(flows, root / "kernels/flows.yaml")
        shared = "/kernels/flows.yaml"
    (root / "kernels/environment").write_text(
        f"export PORTWAY_SOURCE={source} SHARED_FLOWS={shared} CARGO_TARGET_TMPDIR=/tmp CARGO_BIN_EXE_portway={build.program} PORTWAY_CASES={build.cases}\n"
        "export PORTWAY_NFT=/usr/sbin/nft RUST_BACKTRACE=0 PROPTEST_DISABLE_FAILURE_PERSISTENCE=1\n"
    )


def run(*words):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode != 0:
        raise PackageError(f"{' '.join(map(str, words))}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
