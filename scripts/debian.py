"""Debian packages, fetched and unpacked without root and without changing the system.

apt does the work in a root of its own: own package lists, an empty list of installed packages, but this system's mirror,
proxy settings and archive keys (as scripts/fetch-nft does it).
"""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
DEFAULT_MIRROR = "http://deb.debian.org/debian"


class PackageError(Exception):
    """What could not be fetched, and why."""


class Suite:
    """A suite of Debian for one architecture, in a folder of its own."""

    def __init__(self, name, architecture, folder):
        self.name = name
        self.architecture = architecture
        self.folder = Path(folder).resolve()
        self.updated = False

    def _apt(self, program, *args, cwd=None):
        options = {
            "APT::Architecture": self.architecture,
            "APT::Architectures": self.architecture,
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "Debug::NoLocking": "true",
            "Dir::State": self.folder / "state",
            "Dir::State::status": self.folder / "state/status",
            "Dir::Cache": self.folder / "cache",
            "Dir::Etc::sourcelist": self.folder / "sources.list",
            "Dir::Etc::sourceparts": "-",
            "Dir::Etc::preferencesparts": "-",
        }
        words = [program, "-q", *(f"-o{name}={value}" for name, value in options.items()), *args]
        done = subprocess.run(words, capture_output=True, text=True, cwd=cwd, env={**os.environ, "LC_ALL": "C"})
        if done.returncode != 0:
            reasons = [line for line in done.stderr.splitlines() if line.startswith("E:")] or [done.stderr]
            raise PackageError(f"{program} {' '.join(map(str, args))} of Debian {self.name}: {reasons[0]}")
        return done.stdout

    def update(self):
        """Fetches the package lists, once."""
        if self.updated:
            return
        if not shutil.which("apt-get") or not KEYRING.exists():
            raise PackageError(f"needs apt-get and {KEYRING} (package debian-archive-keyring): run this on Debian")
        for part in ("state/lists/partial", "cache/archives/partial"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        (self.folder / "state/status").touch()
        for mirror in dict.fromkeys([system_mirror(), DEFAULT_MIRROR]):
            (self.folder / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror} {self.name} main\n")
            # apt-get's exit status is 0 when a mirror cannot be reached; what counts is that there are lists.
            try:
                self._apt("apt-get", "update")
                failed = f"no package lists of Debian {self.name} for {self.architecture}"
            except PackageError as error:
                failed = error
            if list(self.folder.glob("state/lists/*_Packages*")):
                self.updated = True
                return
        hint = ""
        if "expired" in str(failed):
            hint = ' (an old copy of Debian; apt takes it with Acquire::Check-Valid-Until "false"; in /etc/apt/apt.conf.d)'
        raise PackageError(f"{failed}{hint}")

    def field(self, package, name):
        """A field of a package's newest version."""
        self.update()
        shown = self._apt("apt-cache", "show", "--no-all-versions", package)
        found = re.search(rf"^{name}: (.*)$", shown, re.MULTILINE)
        return found[1] if found else ""

    def depends(self, package, pattern):
        """The packages it depends on whose names match a pattern."""
        names = re.split(r"[,|]", self.field(package, "Depends"))
        return [name.split()[0] for name in names if name.strip() and re.match(pattern, name.strip())]

    def download(self, packages):
        """The files of exactly these packages."""
        self.update()
        with tempfile.TemporaryDirectory(dir=self.folder) as new:
            self._apt("apt-get", "download", *packages, cwd=new)
            return self._keep(Path(new).glob("*.deb"))

    def download_all(self, packages):
        """The files of these packages and of all that they need."""
        self.update()
        self._apt("apt-get", "install", "--yes", "--download-only", "--no-install-recommends", *packages)
        return self._keep((self.folder / "cache/archives").glob("*.deb"))

    def _keep(self, files):
        kept = self.folder / "packages"
        kept.mkdir(exist_ok=True)
        return sorted(Path(shutil.move(file, kept / file.name)) for file in list(files))


def system_mirror():
    """The mirror this system takes Debian from: apt names the files it would fetch, whatever form its sources have."""
    with tempfile.TemporaryDirectory() as empty:
        Path(empty, "partial").mkdir()
        words = ["apt-get", f"-oDir::State::lists={empty}", "update", "--print-uris"]
        uris = subprocess.run(words, capture_output=True, text=True).stdout
    found = re.search(r"^'([^']*[^/])/+dists/[a-z]+/main/binary-", uris, re.MULTILINE)
    return found[1] if found else DEFAULT_MIRROR


def unpack(files, root):
    """Unpacks packages into a folder in which /bin, /lib and /sbin are links, as in every newer Debian."""
    root.mkdir(parents=True, exist_ok=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        if not (root / name).is_symlink():
            (root / name).symlink_to(f"usr/{name}")
    for file in files:
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", file], stdout=subprocess.PIPE) as archive:
            words = ["tar", "--extract", "--keep-directory-symlink", "--no-same-owner", "--directory", root]
            done = subprocess.run(words, stdin=archive.stdout, capture_output=True, text=True)
        if done.returncode != 0 or archive.returncode != 0:
            raise PackageError(f"cannot unpack {file}: {done.stderr.strip()}")
