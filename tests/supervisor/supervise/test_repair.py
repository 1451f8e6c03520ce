"""What others do to a device that is looked after, and that it is mended."""

from __future__ import annotations

import os
import re
from pathlib import Path

from qosctl.bpf.dscp import EF
from qosctl.bpf.kernel import syscall
from qosctl.bpf.maps.device_pins import pins_of
from qosctl.supervisor.devices import clsact
from qosctl.supervisor.devices.hooks import HookKind
from qosctl.supervisor.devices.passtos import passtos, set_passtos
from qosctl.supervisor.devices.status import DeviceState, status

from tests.lab.wire import NEAR, Stand, both_hooks, devices, foreign_program, pinned, stamped
from tests.supervisor.supervise.load import loaded
from tests.supervisor.supervise.running import Supervised

ATTACHED = {NEAR: DeviceState.ATTACHED}


def config(hook: str, interfaces: str = NEAR) -> str:
    return f'interfaces = ["{interfaces}"]\nhook = "{hook}"\npasstos = true\n'


def test_a_deleted_clsact_comes_back_with_everything_in_it(stand: Stand, tmp_path: Path) -> None:
    with Supervised(stand.sender, tmp_path, config("clsact")) as supervisor:
        before = clsact.our_program(stand.index)
        stand.sender.run(["tc", "qdisc", "del", "dev", NEAR, "clsact"])
        assert supervisor.wait(lambda: devices() == ATTACHED) < 5  # a fifth of a second, most of it this test's own
        assert clsact.our_program(stand.index) == before, "the very program that was there"
        assert stamped(stand) == [EF.value]
        supervisor.wait(lambda: "put back (clsact)" in supervisor.log[-1])


def test_tcx_is_not_touched_by_it(stand: Stand, tmp_path: Path) -> None:
    stand.sender.run(["tc", "qdisc", "add", "dev", NEAR, "clsact"])
    with Supervised(stand.sender, tmp_path, config("tcx")) as supervisor, loaded(stand) as load:
        before = syscall.tcx_programs(stand.index)
        stand.sender.run(["tc", "qdisc", "del", "dev", NEAR, "clsact"])
        assert syscall.tcx_programs(stand.index) == before
        supervisor.wait(lambda: load.sent > 100)
        assert not [line for line in supervisor.log if "put back" in line]
    assert load.unmarked() == 0


def test_a_link_that_someone_detaches_is_found_without_news(stand: Stand, tmp_path: Path) -> None:
    with Supervised(stand.sender, tmp_path, config("tcx")) as supervisor:
        link = syscall.obj_get(str(pins_of(stand.index).link))
        syscall.link_detach(link)
        os.close(link)
        assert devices() == {NEAR: DeviceState.DETACHED}
        supervisor.wait(lambda: devices() == ATTACHED)
        assert stamped(stand) == [EF.value]


@both_hooks
def test_another_program_in_our_very_place_is_replaced(stand: Stand, tmp_path: Path, kind: HookKind) -> None:
    with Supervised(stand.sender, tmp_path, config(kind.value)) as supervisor:
        program = foreign_program(ttl=77)
        if kind is HookKind.TCX:
            link = syscall.obj_get(str(pins_of(stand.index).link))
            syscall.link_update(link, program)
            os.close(link)
        else:
            clsact.replace_filter(stand.index, program)
        os.close(program)
        supervisor.wait(lambda: any("put back" in line for line in supervisor.log))
        assert stamped(stand) == [EF.value]


def test_a_neighbours_filter_in_our_place_is_respected_and_auto_goes_round_it(stand: Stand, tmp_path: Path) -> None:
    with Supervised(stand.sender, tmp_path, config("clsact")) as supervisor:
        program = foreign_program(ttl=77)
        path = pinned(program, "foreign_filter")
        stand.sender.run(["tc", "qdisc", "del", "dev", NEAR, "clsact"])
        stand.sender.run(["tc", "qdisc", "replace", "dev", NEAR, "clsact"])
        place = ["prio", str(clsact.PRIORITY), "handle", hex(clsact.HANDLE)]
        stand.sender.run(["tc", "filter", "replace", "dev", NEAR, "egress", *place, "bpf", "da", "pinned", str(path)])
        supervisor.wait(lambda: any("somebody else's egress filter" in line for line in supervisor.log))
        supervisor.reload(config("auto"))
        assert status().devices[0].hook is HookKind.TCX
        assert stamped(stand) == [EF.value]
        filters = stand.sender.run(["tc", "filter", "show", "dev", NEAR, "egress"]).stdout
        assert "foreign_filter" in filters
        os.close(program)
        path.unlink()


def test_who_undoes_us_again_and_again_does_not_make_us_busy(stand: Stand, tmp_path: Path) -> None:
    with Supervised(stand.sender, tmp_path, config("clsact")) as supervisor:
        for _ in range(4):
            lines = len(supervisor.log)
            stand.sender.run(["tc", "qdisc", "del", "dev", NEAR, "clsact"])
            supervisor.says_more_than(lines)  # it is told after it is done
            assert "put back" in supervisor.log[-1]
            assert devices() == ATTACHED


def test_a_device_that_comes_goes_and_comes_back(stand: Stand, tmp_path: Path) -> None:
    with Supervised(stand.sender, tmp_path, config("auto", "lan*")) as supervisor:
        assert devices() == {}
        stand.sender.run(["ip", "link", "add", "lan-1", "index", "71", "type", "ifb"])
        supervisor.wait(lambda: devices() == {"lan-1": DeviceState.ATTACHED})
        supervisor.wait(passtos)
        set_passtos(False)  # by hand: it holds, whatever comes
        stand.sender.run(["ip", "link", "del", "lan-1"])
        stand.sender.run(["ip", "link", "add", "lan-1", "index", "72", "type", "ifb"])
        supervisor.wait(lambda: devices() == {"lan-1": DeviceState.ATTACHED})
        assert [device.index for device in status().devices] == [72], "nothing is left of the first"
        stand.sender.run(["ip", "link", "del", "lan-1"])
        stand.sender.run(["ip", "link", "add", "lan-1", "index", "72", "type", "ifb"])
        supervisor.wait(lambda: devices() == {"lan-1": DeviceState.ATTACHED})
        assert not passtos()


def test_a_renamed_device_is_held_by_its_new_name(stand: Stand, tmp_path: Path) -> None:
    stand.sender.run(["ip", "link", "add", "lan-1", "type", "ifb"])
    with Supervised(stand.sender, tmp_path, config("auto", "lan*")) as supervisor:
        stand.sender.run(["ip", "link", "set", "lan-1", "name", "lan-2"])
        stand.sender.run(["ip", "link", "set", "lan-2", "up"])
        supervisor.reload()
        assert devices() == {"lan-2": DeviceState.ATTACHED}
        stand.sender.run(["ip", "link", "set", "lan-2", "down"])
        stand.sender.run(["ip", "link", "set", "lan-2", "name", "wan-2"])
        supervisor.wait(lambda: devices() == {})
        stand.sender.run(["ip", "link", "set", "wan-2", "name", "lan-3"])
        supervisor.wait(lambda: devices() == {"lan-3": DeviceState.ATTACHED})


def test_a_device_that_refuses_does_not_stop_the_others(stand: Stand, tmp_path: Path) -> None:
    stand.sender.run(["tc", "qdisc", "add", "dev", "lo", "ingress"])
    wanted = f'interfaces = ["lo", "{NEAR}"]\nhook = "clsact"\n'
    with Supervised(stand.sender, tmp_path, wanted) as supervisor:
        assert devices() == ATTACHED
        assert [line for line in supervisor.log if re.match("qosctl: lo: .*refused", line)]
        stand.sender.run(["tc", "qdisc", "del", "dev", "lo", "ingress"])
        supervisor.wait(lambda: devices() == {**ATTACHED, "lo": DeviceState.ATTACHED})


def test_flaps_leave_nothing_behind(stand: Stand, tmp_path: Path) -> None:
    """The full length, 200 in a minute, is tests.endurance's."""
    with Supervised(stand.sender, tmp_path, config("clsact", "lan*")) as supervisor:
        descriptors = supervisor.descriptors
        for _ in range(10):
            stand.sender.run(["ip", "link", "add", "lan-1", "type", "ifb"])
            stand.sender.run(["ip", "link", "set", "lan-1", "up"])
            stand.sender.run(["ip", "link", "del", "lan-1"])
        stand.sender.run(["ip", "link", "add", "lan-1", "type", "ifb"])
        supervisor.wait(lambda: devices() == {"lan-1": DeviceState.ATTACHED})
        supervisor.wait(lambda: supervisor.descriptors == descriptors)
        assert len(status().devices) == 1
