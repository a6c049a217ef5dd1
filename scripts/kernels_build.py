"""The program and the test programs for a guest."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from kernels_packages import PackageError

# Cases of each property test: enough for a kernel to show another behaviour, few enough for emulation.
CASES = 60


@dataclass
class Build:
    """Programs by name."""

    program: Path
    tests: dict
    strip: str
    cases: int = CASES


def native_architecture():
    """Debian's name of this machine's architecture."""
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)


def build(source, profile, tests):
    """Builds with cargo, as `make test` does: what is built already is not built again."""
    words = ["cargo", "test", "--no-run", "--locked", "--profile", profile, "--message-format=json-render-diagnostics"]
    words += [word for test in sorted(tests) for word in ("--test", test)]
    done = subprocess.run(words, cwd=source, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise PackageError("the build failed, see above")
    found = {}
    program = None
    for line in done.stdout.splitlines():
        message = json.loads(line)
        executable = message.get("executable")
        if not executable:
            continue
        name = message["target"]["name"]
        if name == "portway" and "bin" in message["target"]["kind"]:
            program = Path(executable)
        elif name in tests:
            found[name] = Path(executable)
    if program is None or len(found) != len(tests):
        raise PackageError(f"the build made no {', '.join(sorted(tests - set(found))) or 'portway'}")
    return Build(program, found, "strip")
