"""What a client is handed for its flow: a ring to mark in, and the operator's switch to look at and no more."""

from __future__ import annotations

import mmap
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from qosctl.bpf.abi import CONTROL
from qosctl.bpf.kernel import syscall
from qosctl.bpf.maps.namespace_maps import open_state
from qosctl.supervisor.tunnel.flow_marker import FlowMarker
from qosctl.supervisor.tunnel.helper import Helper
from qosctl.supervisor.tunnel.helper_client import HelperClient, RemoteDevice, RemoteMarker
from qosctl.supervisor.tunnel.helper_device import HelperDevice

from tests.lab.wire import ADDRESSES, Stand

AnyMarker = FlowMarker | RemoteMarker


def warn(line: str) -> None:
    print(line, file=sys.stderr)


@contextmanager
def near_marker() -> Iterator[FlowMarker]:
    marker = FlowMarker("vpn.example:443", os.getpid(), warn)
    try:
        yield marker
    finally:
        marker.flow_closed()


@contextmanager
def remote_marker() -> Iterator[RemoteMarker]:
    helper = Helper.start(HelperDevice("vpn0"), FlowMarker("vpn.example:443", os.getpid(), warn), None, None, warn)
    try:
        remote = HelperClient(helper.connection, warn)
        device, _ = RemoteDevice(remote).create("vpn0", 1400, [], assign=True)
        yield RemoteMarker(remote)
        os.close(device)
    finally:
        helper.end()


@pytest.fixture(params=[near_marker, remote_marker], ids=["here", "by another process"])
def marker(request: pytest.FixtureRequest, stand: Stand) -> Iterator[AnyMarker]:
    del stand  # it is where the flow belongs
    with request.param() as made:
        yield made


@pytest.fixture
def outer(stand: Stand) -> Iterator[socket.socket]:
    """A socket that is connected to somebody, as a tunnel's is."""
    del stand
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.connect((ADDRESSES[4][1], 4443))
        yield made


def register(marker: AnyMarker, outer: socket.socket) -> None:
    """Have a flow registered, and wait for it."""
    marker.flow_opened(outer.fileno(), "vpn0")
    deadline = time.monotonic() + 10
    while marker.memory() is None:
        assert marker.waiting
        assert time.monotonic() < deadline
        time.sleep(0.005)


def switch(*, on: bool) -> None:
    with open_state() as state:
        state.control.passtos = on


def test_a_client_sees_the_switch_whenever_it_looks(marker: AnyMarker, outer: socket.socket) -> None:
    register(marker, outer)
    assert not marker.passtos()
    for on in (True, False, True):
        switch(on=on)
        assert marker.passtos() is on
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as another:
        another.connect((ADDRESSES[6][1], 4443))
        register(marker, another)
    assert marker.passtos(), "the next flow's is the same switch"


def test_without_a_flow_there_is_nothing_to_switch(marker: AnyMarker, outer: socket.socket) -> None:
    assert not marker.passtos()
    register(marker, outer)
    switch(on=True)
    marker.flow_closed()
    assert not marker.passtos()


@pytest.mark.audit
def test_who_may_look_at_the_switch_cannot_turn_it(marker: AnyMarker, outer: socket.socket) -> None:
    """Finding 12: the switch is the operator's, not the client's."""
    register(marker, outer)
    reader = marker.switch
    assert reader is not None
    with pytest.raises(PermissionError):
        syscall.map_update(reader.fd, bytes(4), CONTROL.pack(1, 1, 0, 0))
    for way in (mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE):
        with pytest.raises(OSError, match=r"Invalid argument|Permission denied"):
            mmap.mmap(reader.fd, mmap.PAGESIZE, mmap.MAP_SHARED, way)
    assert not marker.passtos()
