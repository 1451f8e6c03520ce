"""The pins of what is followed, where somebody has taken one of them away."""

from __future__ import annotations

from pathlib import Path

import pytest
from qosctl.bpf.kernel import bpffs
from qosctl.bpf.maps.following import follow_pins, open_patterns
from qosctl.bpf.maps.namespace_maps import create_state, folder

from tests.lab import Namespace


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_half_of_the_pins_cost_whoever_looks_every_other_second_no_descriptor() -> None:
    with Namespace("following") as namespace, namespace.entered():
        bpffs.ROOT.mkdir(exist_ok=True)
        create_state()
        try:
            follow_pins().create()
            (follow_pins().path / "reads").unlink()
            before = open_descriptors()
            for _ in range(3):
                with pytest.raises(FileNotFoundError), open_patterns(follow_pins()):
                    pass
            assert open_descriptors() == before
        finally:
            bpffs.remove_tree(folder())
