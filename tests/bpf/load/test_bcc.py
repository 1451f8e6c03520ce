"""A program is compiled once a process, and loaded for each device with that device's maps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from qosctl.bpf.kernel import bpffs, syscall
from qosctl.bpf.load import bcc
from qosctl.bpf.load.loader import LOADER
from qosctl.bpf.maps.device_pins import pins_of
from qosctl.bpf.maps.namespace_maps import create_state, folder

from tests.lab import Namespace
from tests.lab.program import changed_sources


@pytest.fixture(name="devices")
def devices_fixture() -> Iterator[list[Path]]:
    """The folders of two devices' maps, beside the state's."""
    with Namespace("loader") as namespace, namespace.entered():
        bpffs.ROOT.mkdir(exist_ok=True)
        create_state()
        pins = [pins_of(1), pins_of(2)]
        for each in pins:
            each.create("lo")
        yield [each.path for each in pins]
        bpffs.remove_tree(folder())


def map_of(name: Path) -> int:
    descriptor = syscall.obj_get(str(name))
    try:
        return syscall.map_info(descriptor).id
    finally:
        os.close(descriptor)


def open_maps() -> int:
    """How many descriptors of maps this process has."""
    return sum("bpf-map" in str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.is_symlink())


def test_each_device_gets_a_program_with_its_own_maps_and_they_are_the_same_program(devices: list[Path]) -> None:
    before = bcc._compiled.cache_info()
    open_before = open_maps()
    programs = [LOADER.load(folder(), device, ethernet=True) for device in devices]
    try:
        for program, device in zip(programs, devices, strict=True):
            names = [*(folder() / name for name in bcc._STATE_MAPS), device / "counters"]
            assert syscall.program_maps(program) == {map_of(name) for name in names}
        assert len({syscall.program_info(program).tag for program in programs}) == 1
        assert bcc._compiled.cache_info().misses <= before.misses + 1
        assert open_maps() == open_before
    finally:
        for program in programs:
            os.close(program)


def test_what_was_compiled_is_not_taken_for_changed_sources(devices: list[Path]) -> None:
    tags = set()
    with changed_sources() as sources:
        for verdict in (0, 1, 2):
            (sources / "egress.c").write_text(f"int qosctl_egress(struct __sk_buff *skb) {{ return {verdict}; }}\n")
            program = bcc.BccLoader(sources).load(folder(), devices[0], ethernet=True)
            tags.add(syscall.program_info(program).tag)
            os.close(program)
    assert len(tags) == 3


def test_links_with_and_without_ethernet_get_different_programs(devices: list[Path]) -> None:
    programs = [LOADER.load(folder(), devices[0], ethernet=ethernet) for ethernet in (True, False)]
    assert len({syscall.program_info(program).tag for program in programs}) == 2
    for program in programs:
        os.close(program)
