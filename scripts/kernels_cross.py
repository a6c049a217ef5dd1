"""A Rust compiler for another architecture, out of Debian's packages, in a folder: without root, and where rustup has no
standard library for it. The linker is Debian's gcc for that architecture (scripts/setup --kernels ARCHITECTURE)."""

import shutil
from dataclasses import dataclass

from kernels_packages import PackageError, Suite, unpack

# Debian's newest: the compiler and the standard library of the other architecture must be of one build.
COMPILER_SUITE = "sid"
# What Portway links, for the architecture it is built for.
LIBRARIES = ["libmnl0", "libmnl-dev", "libnftnl11", "libnftnl-dev"]


@dataclass(frozen=True)
class Target:
    """What differs between architectures: the compilers' names for them."""

    rust: str
    gnu: str


TARGETS = {"arm64": Target("aarch64-unknown-linux-gnu", "aarch64-linux-gnu")}


@dataclass
class Cross:
    """How to have cargo build for it: a target, and variables of the environment."""

    target: str
    environment: dict
    strip: str


def cross(native, architecture, release, work):
    """Fetches and unpacks what a build for `architecture` on a `native` machine takes; it links with the libraries of a
    release of Debian."""
    if architecture not in TARGETS:
        raise PackageError(f"cannot build for {architecture} here")
    target = TARGETS[architecture]
    linker = f"{target.gnu}-gcc"
    if not shutil.which(linker):
        raise PackageError(f"not found: {linker}; scripts/setup --kernels {architecture} installs it")
    compiler = work / "compiler"
    own = Suite(COMPILER_SUITE, native, work / "apt/compiler")
    packages = own.download_all(own.depends("libstd-rust-dev", "libstd-rust-"))
    packages += own.download(["rustc", "libstd-rust-dev"])
    packages += Suite(COMPILER_SUITE, architecture, work / "apt/standard-library").download(["libstd-rust-dev"])
    if unpack_once(packages, compiler):
        write_rustc(compiler)
    libraries = work / "libraries"
    unpack_once(Suite(release, architecture, work / "apt/libraries").download(LIBRARIES), libraries)
    name = target.rust.replace("-", "_")
    environment = {
        "RUSTC": str(compiler / "rustc"),
        f"CARGO_TARGET_{name.upper()}_LINKER": linker,
        f"CC_{name}": linker,
        # Where libraries need others, as libnftnl does, the linker looks here.
        f"CARGO_TARGET_{name.upper()}_RUSTFLAGS": f"-Clink-arg=-Wl,-rpath-link,{libraries}/usr/lib/{target.gnu}",
        "CARGO_TARGET_DIR": str(work / "build"),
        f"PKG_CONFIG_ALLOW_CROSS_{name}": "1",
        f"PKG_CONFIG_SYSROOT_DIR_{name}": str(libraries),
        f"PKG_CONFIG_LIBDIR_{name}": f"{libraries}/usr/lib/{target.gnu}/pkgconfig",
    }
    return Cross(target.rust, environment, f"{target.gnu}-strip")


def unpack_once(packages, folder):
    """Unpacks packages unless just these are there already; whether it did. A compiler that is new builds all anew."""
    names = "".join(f"{package.name}\n" for package in packages)
    stamp = folder / "unpacked"
    if stamp.exists() and stamp.read_text() == names:
        return False
    shutil.rmtree(folder, ignore_errors=True)
    unpack(packages, folder)
    stamp.write_text(names)
    return True


def write_rustc(folder):
    """A script that starts the compiler with the C library it came with: this system's may be older."""
    loaders = sorted((folder / "usr").glob("lib*/ld-linux-*.so.*"))
    libraries = sorted((folder / "usr/lib").glob("*-linux-gnu/libc.so.6"))
    if not loaders or not libraries:
        raise PackageError(f"no C library in {folder}")
    script = folder / "rustc"
    script.write_text(
        "#!/bin/sh\n"
        f'exec "{loaders[0]}" --library-path "{libraries[0].parent}" "{folder}/usr/bin/rustc" --sysroot "{folder}/usr" "$@"\n'
    )
    script.chmod(0o755)
