"""Witnesses of network namespaces, for whoever keeps something of theirs elsewhere than among the pins.

    /sys/fs/bpf/qosctl/witness_<namespace cookie>     what it proves: netns.py

One costs a map of one entry, and stays until whoever left it drops it, or finds that its namespace is gone.
"""

from __future__ import annotations

import os
from contextlib import suppress

from qosctl.bpf.errors import UntrustedError
from qosctl.bpf.kernel import bpffs, netns, trusted_folders
from qosctl.bpf.kernel.descriptors import opened

_PREFIX = "witness_"


def leave() -> None:
    """Leave one of the calling thread's namespace, unless there is one. Where that cannot be, nothing depends on it."""
    if not bpffs.is_bpffs(bpffs.MOUNT_POINT):
        return
    with suppress(OSError, UntrustedError):
        os.close(trusted_folders.make_folder(bpffs.ROOT, 0o700))
        place = _place(netns.cookie())
        if not os.path.lexists(place):
            netns.pin_witness(place)


def drop(cookie: int) -> None:
    """Drop the one of this namespace; none is fine."""
    try:
        root = trusted_folders.open_folder(bpffs.ROOT)
    except (OSError, UntrustedError):
        return
    with opened(root), suppress(OSError):
        trusted_folders.remove(f"{_PREFIX}{cookie}", root)


def gone() -> set[int]:
    """Return the cookies of the namespaces whose witness says that they are gone."""
    try:
        root = trusted_folders.open_folder(bpffs.ROOT)
    except (OSError, UntrustedError):
        return set()
    with opened(root):
        cookies = {name.removeprefix(_PREFIX) for name in trusted_folders.names(root) if name.startswith(_PREFIX)}
    return {int(cookie) for cookie in cookies if cookie.isdecimal() and netns.is_gone(_place(int(cookie)))}


def _place(cookie: int) -> str:
    return str(bpffs.ROOT / f"{_PREFIX}{cookie}")
