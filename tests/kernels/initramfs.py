"""The first file system of the guest: a shell, a few modules, and the script that puts this machine's tree together.

Written as a cpio archive of the "newc" kind (Documentation/driver-api/early-userspace/buffer-format.rst).
"""

from __future__ import annotations

import gzip
import stat
from collections.abc import Iterable
from pathlib import Path

from tests.kernels.packages import Unpacked

_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
_APPLETS = ("sh", "mount", "insmod", "switch_root")
_FOLDERS = ("bin", "modules", "lower", "upper", "new", "dev")
_MOUNT_9P = "mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000"


def write(target: Path, files: Unpacked, script: Path) -> None:
    """Write the archive; at its end the guest runs `script`, a path of this machine's tree."""
    modules = files.modules_for(*_MODULES)
    with gzip.open(target, "wb", compresslevel=1) as out:
        for number, (name, mode, content) in enumerate(_entries(files, modules, script), 1):
            out.write(_entry(name, number, mode, content))
        out.write(_entry("TRAILER!!!", 0, 0, b""))


def _entries(files: Unpacked, modules: list[Path], script: Path) -> Iterable[tuple[str, int, bytes]]:
    for folder in _FOLDERS:
        yield folder, stat.S_IFDIR | 0o755, b""
    yield "bin/busybox", stat.S_IFREG | 0o755, files.busybox.read_bytes()
    for applet in _APPLETS:
        yield f"bin/{applet}", stat.S_IFLNK | 0o777, b"busybox"
    for module in modules:
        yield f"modules/{module.name}", stat.S_IFREG | 0o644, module.read_bytes()
    yield "init", stat.S_IFREG | 0o755, _init(modules, script).encode()


def _init(modules: list[Path], script: Path) -> str:
    lines = ["#!/bin/sh"]
    lines += [f"insmod /modules/{module.name}" for module in modules]
    lines += [
        f"{_MOUNT_9P},ro,cache=loose root /lower",
        "mount -t tmpfs tmpfs /upper",
        "/bin/busybox mkdir /upper/changes /upper/work",
        "mount -t overlay -o lowerdir=/lower,upperdir=/upper/changes,workdir=/upper/work overlay /new",
        f"exec switch_root /new /bin/sh {script}",
    ]
    return "\n".join(lines) + "\n"


def _entry(name: str, inode: int, mode: int, content: bytes) -> bytes:
    encoded = name.encode() + b"\0"
    fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    return head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)
