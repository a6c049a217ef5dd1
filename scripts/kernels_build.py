"""The program and the test programs for a guest."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from debian import PackageError

# The library's own tests are one program.
UNIT_TESTS = "unit_tests"
# Programs of benches/.
BENCHES = {"forwarding"}
# Cases of each property test: enough for a kernel to show another behaviour, few enough for emulation.
CASES = 60


@dataclass
class Build:
    """Programs by name."""

    program: Path
    tests: dict
    strip: str
    cases: int = CASES


def build(source, profile, tests, cross=None):
    """Builds with cargo, as `make test` does: what is built already is not built again. `tests` are files of tests/, and
    UNIT_TESTS; `cross` is for another architecture."""
    words = ["cargo", "test", "--no-run", "--locked", "--profile", profile, "--message-format=json-render-diagnostics"]
    words += ["--target", cross.target] if cross else []
    kind = lambda test: ["--lib"] if test == UNIT_TESTS else ["--bench" if test in BENCHES else "--test", test]
    words += [word for test in sorted(tests) for word in kind(test)]
    environment = {**os.environ, **(cross.environment if cross else {})}
    done = subprocess.run(words, cwd=source, stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode != 0:
        raise PackageError("the build failed, see above")
    found = {}
    program = None
    for line in done.stdout.splitlines():
        message = json.loads(line)
        executable = message.get("executable")
        if not executable:
            continue
        name, kind = message["target"]["name"], message["target"]["kind"]
        if "bin" in kind:
            program = Path(executable)
            continue
        name = UNIT_TESTS if "lib" in kind else name
        if name in tests:
            found[name] = Path(executable)
    if program is None or len(found) != len(tests):
        raise PackageError(f"the build made no {', '.join(sorted(tests - set(found))) or 'portway'}")
    return Build(program, found, cross.strip if cross else "strip")
