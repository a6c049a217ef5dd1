"""What builds Portway for a release of Debian and an architecture: a compiler, a linker, and the libraries of that release,
unpacked from Debian's packages into a folder, without root.

For this machine's architecture the compiler is cargo's own. For another one it is Debian's newest: rustup has no standard
library for it everywhere. What comes out names no folder of this machine, and does not depend on where it was built.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from debian import PackageError, Suite, unpack

# Debian's newest: the compiler and the standard library of the other architecture must be of one build.
COMPILER_SUITE = "sid"
# The oldest release that programs must run on.
OLDEST_RELEASE = "bookworm"
# What the program needs where it runs, and what it takes to link it.
LIBRARIES = ["libc6", "libgcc-s1", "libmnl0", "libnftnl11"]
HEADERS = ["libc6-dev", "linux-libc-dev", "libmnl-dev", "libnftnl-dev"]
# Licences that their copyright files refer to.
LICENCES = ["base-files"]


@dataclass(frozen=True)
class Architecture:
    """The compilers' and the emulator's names for an architecture."""

    rust: str
    gnu: str
    machine: str


ARCHITECTURES = {
    "amd64": Architecture("x86_64-unknown-linux-gnu", "x86_64-linux-gnu", "x86_64"),
    "arm64": Architecture("aarch64-unknown-linux-gnu", "aarch64-linux-gnu", "aarch64"),
}


def native_architecture():
    """Debian's name of this machine's architecture."""
    names = {known.machine: name for name, known in ARCHITECTURES.items()}
    return names.get(os.uname().machine, os.uname().machine)


@dataclass
class Toolchain:
    """How to have cargo build: a target, and variables of the environment."""

    target: str
    strip: str
    # An unpacked Debian, with the libraries.
    system: Path
    environment: dict = field(default_factory=dict)


def toolchain(architecture, release, source, work):
    """Fetches and unpacks what a build of the checkout `source` for `architecture` takes; programs run on `release` of
    Debian and newer ones."""
    if architecture not in ARCHITECTURES:
        raise PackageError(f"cannot build for {architecture}")
    names = ARCHITECTURES[architecture]
    gcc = shutil.which(f"{names.gnu}-gcc")
    if not gcc:
        raise PackageError(f"not found: {names.gnu}-gcc; scripts/setup --release or --kernels {architecture} installs it")
    compiler = work / "compiler"
    compiler.mkdir(parents=True, exist_ok=True)
    native = architecture == native_architecture()
    rustc = own_rustc() if native else debian_rustc(architecture, compiler, work)
    system = unpack_system(architecture, release, work)
    build = work / "build"
    hidden = {source: "/portway", build: "/build", cargo_home(): "/cargo"}
    # Cargo hashes its flags into the names of symbols. It does not see those that are added here.
    maps = " ".join(f"--remap-path-prefix={path}={name}" for path, name in hidden.items())
    write_script(compiler / "plain-rustc", f'exec {rustc} "$@" {maps}')
    # PORTWAY_AUDITOR: a program that is given the compiler's command, and runs it; see scripts/release.
    write_script(compiler / "rustc", f'exec ${{PORTWAY_AUDITOR-}} {compiler}/plain-rustc "$@"')
    maps = " ".join(f"-ffile-prefix-map={path}={name}" for path, name in hidden.items())
    write_script(compiler / "cc", f'exec {gcc} --sysroot={system} {maps} "$@"')
    name = names.rust.replace("-", "_")
    environment = {
        "RUSTC": str(compiler / "rustc"),
        f"CARGO_TARGET_{name.upper()}_LINKER": str(compiler / "cc"),
        f"CC_{name}": str(compiler / "cc"),
        "CARGO_TARGET_DIR": str(build),
        f"PKG_CONFIG_ALLOW_CROSS_{name}": "1",
        f"PKG_CONFIG_SYSROOT_DIR_{name}": str(system),
        f"PKG_CONFIG_LIBDIR_{name}": f"{system}/usr/lib/{names.gnu}/pkgconfig",
    }
    return Toolchain(names.rust, f"{names.gnu}-strip", system, environment)


def cargo_home():
    return Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))


def own_rustc():
    """The compiler that cargo would start, not rustup's stand-in for it."""
    if not shutil.which("rustc"):
        raise PackageError("not found: rustc; scripts/setup installs it")
    done = subprocess.run(["rustc", "--print", "sysroot"], capture_output=True, text=True)
    if done.returncode != 0:
        raise PackageError(f"rustc does not answer: {done.stderr.strip()}; scripts/setup installs it")
    return f"{done.stdout.strip()}/bin/rustc"


def debian_rustc(architecture, folder, work):
    """Debian's compiler with the standard library of another architecture. It is started with the C library it came with:
    this system's may be older."""
    own = Suite(COMPILER_SUITE, native_architecture(), work / "apt/compiler")
    packages = own.download_all(own.depends("libstd-rust-dev", "libstd-rust-"))
    packages += own.download(["rustc", "libstd-rust-dev"])
    packages += Suite(COMPILER_SUITE, architecture, work / "apt/standard-library").download(["libstd-rust-dev"])
    unpack_once(packages, folder)
    loaders = sorted((folder / "usr").glob("lib*/ld-linux-*.so.*"))
    libraries = sorted((folder / "usr/lib").glob("*-linux-gnu/libc.so.6"))
    if not loaders or not libraries:
        raise PackageError(f"no C library in {folder}")
    return f'"{loaders[0]}" --library-path "{libraries[0].parent}" "{folder}/usr/bin/rustc" --sysroot "{folder}/usr"'


def unpack_system(architecture, release, work):
    """The libraries of a release of Debian, and what it takes to link with them."""
    suite = Suite(release, architecture, work / "apt" / release)
    owners = suite.depends("libgcc-s1", "gcc-[0-9]+-base")
    folder = work / f"system-{release}"
    unpack_once(suite.download([*LIBRARIES, *HEADERS, *LICENCES, *owners]), folder)
    return folder


def installed_version(system, package):
    """The version of a package that was unpacked there."""
    names = (system / "unpacked").read_text().split()
    [name] = [name for name in names if name.startswith(f"{package}_")]
    return name.split("_")[1].replace("%3a", ":")


def unpack_once(packages, folder):
    """Unpacks packages unless just these are there already. A compiler that is new builds all anew."""
    names = "".join(f"{package.name}\n" for package in packages)
    stamp = folder / "unpacked"
    if stamp.exists() and stamp.read_text() == names:
        return
    shutil.rmtree(folder, ignore_errors=True)
    unpack(packages, folder)
    stamp.write_text(names)


def write_script(path, line):
    """Only when it is another one: cargo builds all anew when the compiler's file is newer."""
    text = f"#!/bin/sh\n{line}\n"
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
        path.chmod(0o755)
