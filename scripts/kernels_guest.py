"""Boots a kernel under qemu and reads from its console how the checks ended."""

import os
import re
import shutil
import subprocess
import tarfile
import threading
from dataclasses import dataclass, field
from pathlib import Path

# How long a guest with KVM may take to come up: where KVM is there but does not work, guests hang.
KVM_PATIENCE = 25
# Room for what the checks print.
RESULTS_SIZE = 64 * 2**20


@dataclass(frozen=True)
class Machine:
    """What differs between architectures."""

    qemu: str
    console: str
    arguments: tuple
    # For emulation; it need not be like any processor that can be bought.
    processor: str


MACHINES = {
    "amd64": Machine("qemu-system-x86_64", "ttyS0", (), "max"),
    "arm64": Machine("qemu-system-aarch64", "ttyAMA0", ("-machine", "virt,gic-version=3"), "max,pauth-impdef=on"),
}


@dataclass
class Boot:
    """One boot: which checks, for how long each (seconds), and words for the kernel's command line."""

    checks: list
    limit: int = 900
    words: str = ""
    # The guest has one CPU, and its clock counts instructions: a nanosecond is one.
    counting: bool = False


@dataclass
class Outcome:
    """How a boot went."""

    # By check: ok, failed or late, and its seconds.
    checks: dict = field(default_factory=dict)
    up: bool = False
    done: bool = False


class Guest:
    """A kernel with its disks."""

    def __init__(self, architecture, kernel, initramfs, disks, work):
        self.machine = MACHINES[architecture]
        self.kernel, self.initramfs, self.disks, self.work = kernel, initramfs, disks, work
        self.accelerator = "tcg,thread=multi"

    def try_kvm(self):
        """Uses KVM if a guest comes up with it in time."""
        if not os.access("/dev/kvm", os.R_OK | os.W_OK) or self.machine.qemu != f"qemu-system-{os.uname().machine}":
            return
        self.accelerator = "kvm"
        if not self.boot("kvm", Boot([]), patience=KVM_PATIENCE).up:
            self.accelerator = "tcg,thread=multi"

    def boot(self, name, boot, patience=None, tell=lambda check, outcome, seconds: None):
        """Runs the checks of a boot; what they print is kept in the work folder, below the name."""
        folder = self.work / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        results = folder / "results.tar"
        with results.open("wb") as file:
            file.truncate(RESULTS_SIZE)
        patience = patience or 300 + boot.limit * len(boot.checks)
        # On a busy machine the emulated timer may be late, and a kernel that tests it would give up.
        words = f"console={self.machine.console} panic=-1 quiet mitigations=off no_timer_check {boot.words} "
        words += f"portway.checks={','.join(boot.checks)} portway.limit={boot.limit}"
        processor = "host" if self.accelerator == "kvm" and not boot.counting else self.machine.processor
        accelerator = "tcg,thread=single" if boot.counting else self.accelerator
        command = [self.machine.qemu, *self.machine.arguments, "-accel", accelerator, "-cpu", processor]
        command += ["-icount", "shift=0,sleep=off"] if boot.counting else []
        command += ["-smp", "1" if boot.counting else "2", "-m", "2560", "-display", "none", "-serial", "stdio", "-monitor", "none", "-no-reboot"]
        command += ["-nic", "none", "-kernel", self.kernel.image, "-initrd", self.initramfs, "-append", words]
        for disk, access in [*((disk, "on") for disk in self.disks), (results, "off")]:
            command += ["-drive", f"file={disk},if=virtio,format=raw,readonly={access}"]
        command += ["-object", "rng-random,filename=/dev/urandom,id=random", "-device", "virtio-rng-pci,rng=random"]
        outcome = Outcome()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        timer = threading.Timer(patience, process.kill)
        timer.start()
        try:
            with (folder / "console.log").open("wb") as console:
                for line in process.stdout:
                    console.write(line)
                    console.flush()
                    self._read(line.decode(errors="replace"), outcome, tell)
        finally:
            # Also when this program is interrupted.
            process.kill()
            process.wait()
            timer.cancel()
        if outcome.done:
            with tarfile.open(results) as archive:
                # Names from a guest are not to be trusted, and Debian 12's Python has no filter for them yet.
                for member in filter(tarfile.TarInfo.isfile, archive):
                    (folder / Path(member.name).name).write_bytes(archive.extractfile(member).read())
        results.unlink()
        return outcome

    @staticmethod
    def _read(line, outcome, tell):
        if "kernels: up " in line:
            outcome.up = True
        elif "kernels: done" in line:
            outcome.done = True
        elif found := re.search(r"kernels: (\w+) (ok|failed|late) (\d+)", line):
            outcome.checks[found[1]] = found[2], int(found[3])
            tell(*found.groups())

    def log_of(self, name, check, lines=25):
        """The end of what a check printed, or of the console when the guest did not come to its end."""
        for path in (self.work / name / f"{check}.log", self.work / name / "console.log"):
            if path.exists():
                return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
        return ""
