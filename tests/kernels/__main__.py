"""Boot Debian's kernel and run the doctor's probes and the tests of attach, stamp and detach, and of WireGuard, on it.

python -m tests.kernels [COMMAND...]        by default the probes and tests below; ends with the command's status
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tests.kernels import initramfs
from tests.kernels.packages import qemu, unpacked

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "build/kernels"
OUT = FOLDER / "out"
_SCRIPT = Path(__file__).with_name("guest.sh")
_MINUTES = 60
_MEMORY_MB = 3072
_TESTS = (
    "tests/kernels/wireguard_itself.py",
    "tests/supervisor/doctor/test_matrix.py tests/bpf/program/test_program.py",
    "tests/kernels/test_attach.py tests/kernels/everything_debian_has.py",
    # Of the two hooks, the one that is everywhere.
    "tests/supervisor/devices/test_marking.py tests/supervisor/devices/test_passtos.py -k clsact",
    # Two attaches at once wait for each other's compiler for longer, under emulation, than anybody would.
    "tests/supervisor/devices/test_attach.py -k 'not tcx and not at_once'",
)
_SAID = ("stdout", "stderr")


def main(words: list[str]) -> int:
    """Run and report."""
    files = unpacked(FOLDER)
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    (OUT / "root").write_text(str(files.root))
    (OUT / "command").write_text(_command(words))
    initramfs.write(FOLDER / "initramfs.gz", files, _SCRIPT)
    print(f"kernels: booting {files.release} with software emulation", file=sys.stderr)
    machine = _machine(files.kernel)
    with (FOLDER / "console").open("wb") as console:
        try:
            subprocess.run(
                machine, stdin=subprocess.DEVNULL, stdout=console, stderr=console, timeout=60 * _MINUTES, check=False
            )
        except subprocess.TimeoutExpired:
            print(f"kernels: not done within {_MINUTES} minutes (see {FOLDER / 'console'})", file=sys.stderr)
    for name in _SAID:
        if (OUT / name).exists():
            print((OUT / name).read_text(errors="replace"), end="")
    if not (OUT / "status").exists():
        print(f"kernels: the guest did not finish (see {FOLDER / 'console'})", file=sys.stderr)
        return 1
    return int((OUT / "status").read_text())


def _command(words: list[str]) -> str:
    python = shlex.quote(sys.executable)
    qosctl = shlex.quote(str(Path(sys.executable).with_name("qosctl")))
    pytest = f"{python} -m pytest -p no:cacheprovider"
    own = "\n".join(
        [
            f"{qosctl} doctor --matrix >/mnt/out/matrix.md || exit",
            "failed=0",
            *(f"{pytest} {tests} || failed=$?" for tests in _TESTS),
            "exit $failed",
        ]
    )
    return f"cd {shlex.quote(str(ROOT))}\n{shlex.join(words) if words else own}\n"


def _machine(kernel: Path) -> list[str]:
    return [
        qemu(), "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", str(_MEMORY_MB), "-nographic", "-no-reboot",
        "-nic", "none", "-kernel", str(kernel), "-initrd", str(FOLDER / "initramfs.gz"),
        "-append", "console=ttyS0 panic=-1 loglevel=4",
        "-virtfs", "local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap",
        "-virtfs", f"local,path={OUT},mount_tag=out,security_model=none",
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
