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
        begin with an Ethernet header, or with IP. RefusedError where something is missing, or the verifier says no.
        """
        ...


LOADER: Final[Loader] = BccLoader(SOURCES)
"""Another one is a module beside bcc.py, and its name here."""
