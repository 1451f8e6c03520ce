"""Debian's kernel and the tools to boot it with, unpacked where they disturb nobody."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_META = "linux-image-amd64"
_TOOLS = ("busybox-static", "kmod", "libkmod2")
_QEMU = "qemu-system-x86_64"


@dataclass(frozen=True)
class Unpacked:
    """The unpacked tree, and the release of the one kernel in it."""

    root: Path
    release: str

    @property
    def kernel(self) -> Path:
        """The kernel's image."""
        return self.root / "boot" / f"vmlinuz-{self.release}"

    @property
    def busybox(self) -> Path:
        """A static shell with mount and insmod."""
        return self.root / "bin/busybox"

    def modules_for(self, *names: str) -> list[Path]:
        """Return these modules and what they need, in the order to load them."""
        found: dict[Path, None] = {}
        for name in names:
            done = self._kmod("modprobe", "-d", str(self.root), "-S", self.release, "--show-depends", name)
            for line in done.splitlines():
                if line.startswith("insmod "):
                    found[Path(line.split()[1])] = None
        return list(found)

    def index_modules(self) -> None:
        """Let modprobe find modules by name and alias."""
        self._kmod("depmod", "-b", str(self.root), self.release)

    def _kmod(self, applet: str, *words: str) -> str:
        """Run one of kmod's applets: it looks at the name that it is called by."""
        environment = {**os.environ, "LD_LIBRARY_PATH": str(self.root / "usr/lib/x86_64-linux-gnu")}
        argv = [applet, *words]
        kmod = self.root / "bin/kmod"
        done = subprocess.run(argv, executable=kmod, env=environment, capture_output=True, text=True, check=True)
        return done.stdout


def unpacked(folder: Path) -> Unpacked:
    """Fetch and unpack once; `folder` may be removed at any time."""
    root = folder / "root"
    if not (root / "complete").exists():
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        fetched = folder / "packages"
        shutil.rmtree(fetched, ignore_errors=True)
        fetched.mkdir()
        _apt("download", _kernel_package(), *_TOOLS, cwd=fetched)
        for package in fetched.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", package, root], check=True)
        (release,) = (path.name for path in (root / "lib/modules").iterdir())
        Unpacked(root, release).index_modules()
        (root / "complete").touch()
    (release,) = (path.name for path in (root / "lib/modules").iterdir())
    return Unpacked(root, release)


def qemu() -> str:
    """Return the emulator, installed if it is missing."""
    found = shutil.which(_QEMU)
    if found is None:
        _apt("install", "-y", "-qq", "--no-install-recommends", "qemu-system-x86")
        found = shutil.which(_QEMU)
    if found is None:
        raise SystemExit("kernels: qemu-system-x86_64 is missing (try: apt install qemu-system-x86)")
    return found


def _kernel_package() -> str:
    said = subprocess.run(["apt-cache", "depends", _META], capture_output=True, text=True, check=True).stdout
    match = re.search(r"Depends: (linux-image-\S+)", said)
    if match is None:
        raise SystemExit(f"kernels: apt knows no kernel behind {_META} (try: apt-get update)")
    return match.group(1)


def _apt(*words: str, cwd: Path | None = None) -> None:
    subprocess.run(["apt-get", *words], cwd=cwd, check=True, capture_output=True)
