"""What loads the program, whichever way; the one in use is chosen here."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Protocol

from qosctl.bpf.load.bcc import SOURCES, BccLoader


class Loader(Protocol):
    """Brings the program into the kernel."""

    def load(self, state: Path, device: Path, *, ethernet: bool) -> int:
        """Load the program for one device and return its descriptor, which is the caller's.

        `state` and `device` are the folders of pins that its maps are taken from; `ethernet` says whether packets there
        begin with an Ethernet header, or with IP. Where `state` has maps for following tunnels of other programs or of the
        kernel, the program does that too; where not, nothing of it is in the code. RefusedError where something is
        missing, or the verifier says no.
        """
        ...

    def load_tun_reads(self, state: Path, namespace: int) -> int:
        """Load the program that notes what is read from TUN devices of one network namespace, which goes by its cookie.

        `state` is the namespace's folder of pins. Errors as those of `load`.
        """
        ...

    def load_carry(self, state: Path, device: Path, namespace: int) -> int:
        """Load the program that puts a packet's class into its hash, for one WireGuard device.

        `state` and `device` as for `load`, `namespace` is the cookie of the network namespace. Errors as those of `load`.
        """
        ...


LOADER: Final[Loader] = BccLoader(SOURCES)
"""Another one is a module beside bcc.py, and its name here."""
