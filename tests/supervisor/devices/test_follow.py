"""Follow and unfollow as people call them: what they refuse, what they leave, and what a kill at any step leaves."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from qosctl.bpf.errors import NotAttachedError, RefusedError, UsageError
from qosctl.bpf.kernel import btf, syscall
from qosctl.bpf.load import kernel_layout
from qosctl.bpf.load.bcc import BccLoader
from qosctl.bpf.maps import following as following_maps
from qosctl.bpf.maps.device_pins import pins_of
from qosctl.bpf.maps.following import follow_pins, open_patterns
from qosctl.bpf.maps.namespace_maps import folder
from qosctl.supervisor.devices.attach import attach as attach_by
from qosctl.supervisor.devices.attach import detach, detach_all
from qosctl.supervisor.devices.follow import follow as follow_by
from qosctl.supervisor.devices.follow import following
from qosctl.supervisor.devices.follow import unfollow as unfollow_by
from qosctl.supervisor.devices.follow import unfollow_all as unfollow_all_by
from qosctl.supervisor.devices.status import DeviceState, status

from tests.lab import Qosctl
from tests.lab.program import changed_sources
from tests.lab.wire import NEAR, Stand, devices
from tests.supervisor.devices.test_kill import _STAND_IN, each_death

_READS_STAND_IN = """
#include <linux/bpf.h>
#include "maps.h"

int qosctl_tun_reads(struct bpf_raw_tracepoint_args *ctx)
{
	return !control_now() + !pattern_at(VERSION);
}
"""


_FOLLOWED = """
#include "abi.h"
#ifdef FOLLOWING
#define FOLLOWED 46
#else
#define FOLLOWED 45
#endif
"""


@pytest.fixture(name="stand_ins", scope="module")
def stand_ins_fixture() -> Iterator[Path]:
    """Small programs in place of ours: this is about the supervisor, and ours take the verifier a second each time."""
    with changed_sources() as sources:
        told_apart = _STAND_IN.replace("ef = 46 << 2", "ef = FOLLOWED << 2").replace('#include "abi.h"', _FOLLOWED)
        (sources / "egress.c").write_text(told_apart)
        (sources / "tun_reads.c").write_text(_READS_STAND_IN.replace("VERSION", "0"))
        yield sources


@dataclass(frozen=True)
class Commands:
    """Commands that load the small programs."""

    loader: BccLoader

    def attach(self, names: list[str]) -> None:
        attach_by(names, loader=self.loader)

    def follow(self, patterns: list[str]) -> list[bool]:
        return follow_by(patterns, loader=self.loader)

    def unfollow(self, patterns: list[str]) -> None:
        unfollow_by(patterns, loader=self.loader)

    def unfollow_all(self) -> None:
        unfollow_all_by(loader=self.loader)


@pytest.fixture
def run(stand_ins: Path) -> Commands:
    return Commands(BccLoader(stand_ins))


def egress_tag() -> str:
    (device,) = status().devices
    assert device.program is not None
    return device.program.tag


def complete(pattern: str) -> bool:
    """Whether a pattern is followed, with both programs where they belong."""
    now = following()
    return now.running and [each.pattern for each in now.patterns] == [pattern]


@pytest.mark.usefixtures("stand")
def test_each_kill_is_mended_by_the_same_command(run: Commands) -> None:
    run.attach([NEAR])
    plain = egress_tag()
    run.follow(["tun*"])
    with_following = egress_tag()
    run.unfollow_all()
    assert egress_tag() == plain != with_following
    for _ in each_death(lambda: run.follow(["tun*"]), lambda: run.unfollow_all() if follow_pins().path.exists() else None):
        assert devices() == {NEAR: DeviceState.ATTACHED}
        run.follow(["tun*"])
        assert complete("tun*")
        assert egress_tag() == with_following
    for _ in each_death(run.unfollow_all, lambda: run.follow(["tun*"])):
        assert devices() == {NEAR: DeviceState.ATTACHED}
        run.follow(["tun*"])
        assert complete("tun*")
        run.unfollow_all()
        assert (following().patterns, egress_tag()) == ((), plain)
    detach_all()
    assert not folder().exists()


@pytest.mark.usefixtures("stand")
def test_an_attach_mends_what_a_killed_follow_has_left(run: Commands) -> None:
    run.attach([NEAR])
    run.follow(["tun*"])
    for _ in each_death(lambda: run.follow(["tun*"]), follow_pins().link.unlink):
        run.attach([NEAR])
        assert complete("tun*")


def test_the_order_of_follow_and_attach_is_free(run: Commands, stand: Stand) -> None:
    run.follow(["tun*"])
    assert complete("tun*"), "with nothing attached"
    assert status().devices == ()
    run.attach([NEAR])
    before = egress_tag()
    detach([NEAR])
    assert complete("tun*"), "as the policy stays"
    run.attach([NEAR])
    assert egress_tag() == before
    detach_all()
    assert not folder().exists()
    assert not pins_of(stand.index).path.exists()


@pytest.mark.usefixtures("stand")
def test_an_upgrade_brings_the_tracepoint_up_to_date(run: Commands, stand_ins: Path) -> None:
    run.attach([NEAR])
    run.follow(["tun*", "vpns*"])

    def standing() -> str:
        fd = syscall.obj_get(str(follow_pins().program))
        try:
            return syscall.program_info(fd).tag
        finally:
            os.close(fd)

    before = standing()
    run.attach([NEAR])
    assert standing() == before
    (stand_ins / "tun_reads.c").write_text(_READS_STAND_IN.replace("VERSION", "1"))
    run.attach([NEAR])
    assert standing() != before
    assert [each.pattern for each in following().patterns] == ["tun*", "vpns*"]


@pytest.mark.usefixtures("stand")
def test_maps_of_another_layout_are_made_anew_and_what_was_followed_stays(
    run: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.attach([NEAR])
    with monkeypatch.context() as other:
        other.setitem(following_maps._SHAPES, "queues", syscall.MapShape(syscall.MAP_TYPE_LRU_HASH, 8, 64, 16))
        run.follow(["tun*"])
    assert not follow_pins().are_of_this_layout()
    run.attach([NEAR])
    assert follow_pins().are_of_this_layout()
    assert complete("tun*")


def test_devices_that_cannot_be_followed_are_refused_with_what_to_do(stand: Stand) -> None:
    """Nothing is done then, not even for those named beside."""
    ip = stand.sender.run
    ip(["ip", "tuntap", "add", "dev", "tap0", "mode", "tap"])
    ip(["ip", "tuntap", "add", "dev", "many0", "mode", "tun", "vnet_hdr"])
    ip(["ip", "tuntap", "add", "dev", "tun0", "mode", "tun"])
    ip(["ip", "link", "add", "vx0", "type", "vxlan", "id", "7", "dstport", "4789", "remote", "192.0.2.9", "dev", NEAR])
    qosctl = Qosctl(stand.sender)
    for name, said in (
        ("no0", "qosctl: no0: no such device (try: ip link; or for devices to come: qosctl follow 'no0*')\n"),
        (NEAR, f"qosctl: {NEAR}: no tunnel (try: ip -details link)\n"),
        ("tap0", "qosctl: tap0: a TAP: what is in it are Ethernet frames, whose lengths no format is known for\n"),
        (
            "vx0",
            "qosctl: vx0: the kernel itself copies the mark, when told to (try: ip link set vx0 type vxlan tos inherit)\n",
        ),
    ):
        done = qosctl("follow", "tun0", name, check=False)
        assert (done.returncode, done.stderr) == (2, said)
    many = qosctl("follow", "many0", check=False)
    assert many.returncode == 2
    assert "IFF_VNET_HDR" in many.stderr
    assert not folder().exists()
    done = qosctl("follow", "t*")
    assert done.stdout.startswith("t*: followed, now tun0\n")
    assert done.stderr.startswith("qosctl: tap0: not followed: a TAP")
    document = json.loads(qosctl("status", "--json", check=False).stdout)["following"]
    assert [(d["device"], d["refusal"] is None) for d in document["patterns"][0]["devices"]] == [
        ("tap0", False),
        ("tun0", True),
    ]


@pytest.mark.parametrize("pattern", ["*n0", "t?n", "t*n", "a/b", "a:b", "a b*", "a\0*", "", "a-name-that-is-too-long"])
@pytest.mark.usefixtures("stand")
def test_what_is_no_pattern_is_a_usage_error(run: Commands, pattern: str) -> None:
    with pytest.raises(UsageError):
        run.follow([pattern])
    assert not folder().exists()


@pytest.mark.usefixtures("stand")
def test_what_is_not_followed_cannot_be_given_up(run: Commands) -> None:
    with pytest.raises(NotAttachedError, match="nothing is followed"):
        run.unfollow_all()
    run.follow(["tun*"])
    with pytest.raises(NotAttachedError, match="vpns0: not followed"):
        run.unfollow(["tun*", "vpns0"])
    assert complete("tun*")
    assert run.follow(["tun*", "vpns*"]) == [False, True]
    run.unfollow(["tun*"])
    assert complete("vpns*")
    run.unfollow(["vpns*"])
    assert not folder().exists()


@pytest.mark.usefixtures("stand")
def test_without_btf_nothing_is_done(run: Commands, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run.attach([NEAR])
    tag = egress_tag()
    kernel_layout.following.cache_clear()
    monkeypatch.setattr(btf.Btf.__init__, "__defaults__", (tmp_path / "vmlinux",))
    with pytest.raises(RefusedError, match="this kernel does not describe itself: no BTF"):
        run.follow(["tun*"])
    assert (egress_tag(), following().patterns) == (tag, ())


@pytest.mark.usefixtures("stand")
def test_more_patterns_than_there_is_room_for(run: Commands) -> None:
    """All or none: what is refused leaves nothing of itself behind."""
    with pytest.raises(RefusedError, match="no more than 32 names and patterns"):
        run.follow([f"a{n}*" for n in range(33)])
    assert not folder().exists()
    run.follow([f"a{n}*" for n in range(31)])
    with pytest.raises(RefusedError, match="no more than 32 names and patterns"):
        run.follow(["b*", "c*"])
    assert len(following().patterns) == 31
    assert run.follow(["a0*", "b*", "b*"]) == [False, True, False]
    with pytest.raises(RefusedError, match="no more than 32 names and patterns"):
        run.follow(["c*"])


@pytest.mark.usefixtures("stand")
def test_who_looks_while_others_change_what_is_followed_sees_one_or_the_other(run: Commands) -> None:
    run.follow(["a*"])
    child = os.fork()
    if child == 0:
        with open_patterns(follow_pins()) as patterns:
            while os.getppid() != 1:
                patterns.add("b*")
                patterns.remove("b*")
    try:
        seen = {tuple(each.pattern for each in following().patterns) for _ in range(200)}
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert seen <= {("a*",), ("a*", "b*")}
