"""The supervisor as a service: killed, reloaded, watched, alone, and serving metrics."""

from __future__ import annotations

import http.client
import os
import random
import re
import signal
import socket
import time
from pathlib import Path

import pytest
from qosctl.bpf.dscp import EF, Dscp
from qosctl.bpf.flow_page.flow_pins import Owner
from qosctl.bpf.maps.flow_key import FlowKey
from qosctl.bpf.maps.namespace_maps import folder, open_state
from qosctl.bpf.maps.policy import Policy
from qosctl.bpf.maps.ring import Ring
from qosctl.supervisor.devices.attach import attach
from qosctl.supervisor.devices.follow import follow, following, unfollow
from qosctl.supervisor.devices.hooks import HookKind
from qosctl.supervisor.devices.passtos import passtos, set_passtos
from qosctl.supervisor.devices.policy import policy
from qosctl.supervisor.devices.status import DeviceState, flows, status
from qosctl.supervisor.process import privileges
from qosctl.supervisor.supervise.attach_worker import do_each
from qosctl.supervisor.supervise.watch import KernelNews

from tests.lab.qosctl import COMMAND
from tests.lab.wire import NEAR, Stand, devices, stamped
from tests.supervisor.supervise.load import loaded
from tests.supervisor.supervise.running import Supervised

ON = f'interfaces = ["{NEAR}"]\npasstos = true\n'
KILLS = 5


def test_killed_at_any_time_every_packet_is_marked(stand: Stand, tmp_path: Path) -> None:
    """With its worker, as a service manager kills; and each time another hook is wanted. Fifty times: tests.endurance."""
    chance = random.Random(2474)
    with Supervised(stand.sender, tmp_path, ON) as supervisor, loaded(stand) as load:
        supervisor.killed_often(KILLS, ON, chance, pause_s=1)
        assert devices() == {NEAR: DeviceState.ATTACHED}
        supervisor.start()
    assert load.unmarked() == 0
    assert load.lost < load.sent / 100
    assert [device.state for device in status().devices] == [DeviceState.ATTACHED], "and it marks on without one"


def test_a_reload_leaves_no_packet_unmarked(stand: Stand, tmp_path: Path) -> None:
    with Supervised(stand.sender, tmp_path, ON) as supervisor, loaded(stand) as load:
        supervisor.reload(ON + "[policy]\nfold = 4\n")
        assert policy()[Dscp.parse("CS7")].outer is Dscp.parse("CS6")
        supervisor.reload(ON + '[policy]\nallow = ["EF"]\n')
        assert policy() == Policy.allow(EF)
    assert (load.unmarked(), load.lost) == (0, 0)


def test_a_reload_with_another_hook_leaves_no_packet_unmarked(stand: Stand, tmp_path: Path) -> None:
    with Supervised(stand.sender, tmp_path, ON) as supervisor, loaded(stand) as load:
        supervisor.reload(ON + 'hook = "clsact"\n')
        assert status().devices[0].hook is HookKind.CLSACT
    assert load.unmarked() == 0


def test_a_configuration_that_makes_no_sense_leaves_the_old_one_in_force(stand: Stand, tmp_path: Path) -> None:
    with Supervised(stand.sender, tmp_path, ON) as supervisor:
        supervisor.reload("passtos = false\ninterfaces = [4]\n")
        said = f"qosctl: reload refused, the old configuration stays: {supervisor.file}:2: interfaces: must be an array"
        assert [line for line in supervisor.log if line.startswith(said)]
        assert (devices(), passtos()) == ({NEAR: DeviceState.ATTACHED}, True)


def test_the_operators_own_switching_holds_until_the_next_reload(stand: Stand, tmp_path: Path) -> None:
    with Supervised(stand.sender, tmp_path, ON) as supervisor:
        assert passtos()
        set_passtos(False)
        stand.sender.run(["ip", "link", "set", NEAR, "down"])
        stand.sender.run(["ip", "link", "set", NEAR, "up"])
        time.sleep(0.5)
        assert not passtos()
        supervisor.reload()
        assert passtos()


def test_without_a_word_on_the_switch_it_stays_as_it_is(stand: Stand, tmp_path: Path) -> None:
    attach([NEAR])
    set_passtos(True)
    with Supervised(stand.sender, tmp_path, f'interfaces = ["{NEAR}"]\n') as supervisor:
        assert passtos()
        supervisor.reload('interfaces = []\nhook = "tcx"\n')
        assert devices() == {}


def test_tunnels_of_others_are_followed_as_configured(stand: Stand, tmp_path: Path) -> None:
    """Also after somebody has given them up. What was followed by hand stays, and all of it when the supervisor ends."""
    follow(["by-hand*"])

    def now() -> set[str]:
        return {each.pattern for each in following().patterns} if following().running else set()

    with Supervised(stand.sender, tmp_path, 'follow = ["vpns*", "tun0"]\n') as supervisor:
        supervisor.wait(lambda: now() == {"by-hand*", "vpns*", "tun0"})
        unfollow(["tun0"])
        supervisor.wait(lambda: now() == {"by-hand*", "vpns*", "tun0"})
        supervisor.reload('follow = ["vpns*"]\n')
        supervisor.wait(lambda: now() == {"by-hand*", "vpns*"})
    assert now() == {"by-hand*", "vpns*"}


@pytest.mark.usefixtures("stand")
def test_what_somebody_has_given_up_already_keeps_nothing_else_followed() -> None:
    follow(["vpns*", "by-hand*"])
    list(do_each([{"device": "what is followed", "follow": [], "unfollow": ["given-up*", "vpns*"]}]))
    assert [each.pattern for each in following().patterns] == ["by-hand*"]


def test_what_was_attached_by_hand_is_left_alone(stand: Stand, tmp_path: Path) -> None:
    attach(["lo"])
    with Supervised(stand.sender, tmp_path, ON):
        pass
    assert devices() == {"lo": DeviceState.ATTACHED, NEAR: DeviceState.ATTACHED}, "also when it has ended"


def test_flows_of_dead_clients_are_reaped(stand: Stand, tmp_path: Path) -> None:
    with Supervised(stand.sender, tmp_path, ON) as supervisor, stand.tunnel() as living:
        ring = Ring(Owner(os.getpid(), 1, "tun9", "gone.example"))
        with open_state() as state:
            state.flows.add(FlowKey(("10.92.0.1", 1), ("10.92.0.2", 2)), ring)
        ring.close()
        supervisor.reload()
        supervisor.wait(lambda: [flow.key for flow in flows()] == [living.key])
        supervisor.wait(lambda: "qosctl: 1 flow of dead clients removed" in supervisor.log)


def test_it_tells_its_manager_how_it_is(stand: Stand, tmp_path: Path) -> None:
    with Supervised(stand.sender, tmp_path, ON, watchdog_s=0.3) as supervisor:
        assert supervisor.count(f"STATUS=attached to {NEAR}") > 0
        supervisor.wait(lambda: supervisor.count("WATCHDOG=1") > 3)
        supervisor.reload()
        order = [notice.splitlines()[0] for notice in supervisor.notices if "WATCHDOG=1" not in notice]
        assert order == ["READY=1", "RELOADING=1", "READY=1"]
        os.kill(supervisor.process.pid, signal.SIGTERM)
        assert supervisor.process.wait() == 0
        assert supervisor.count("STOPPING=1") == 1
    assert devices() == {NEAR: DeviceState.ATTACHED}


def test_a_second_one_is_refused_but_another_namespaces_is_not(stand: Stand, tmp_path: Path) -> None:
    with Supervised(stand.sender, tmp_path, ON) as supervisor:
        said = stand.sender.run([str(COMMAND), "supervise", "--config", str(supervisor.file)], check=False)
        assert said.returncode == 2
        assert said.stderr.startswith("qosctl: another supervisor works in this network namespace (try: ")
        other = tmp_path / "other"
        other.mkdir()
        with Supervised(stand.watcher, other, "interfaces = []\n"):
            pass


def test_check_only_checks(stand: Stand, tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text(ON)
    said = stand.sender.run([str(COMMAND), "supervise", "--check", "--config", str(file)])
    assert said.stdout == f"{file}: fine: {NEAR}; hook auto; passtos on; policy left as it is; metrics not served\n"
    assert not folder().exists()
    file.write_text("interfacess = []")
    said = stand.sender.run([str(COMMAND), "supervise", "--check", "--config", str(file)], check=False)
    assert (said.returncode, said.stdout) == (1, "")
    assert said.stderr == f"qosctl: supervise: {file}:1: unknown key 'interfacess' (try: interfaces)\n"


def _scrape(stand: Stand, port: int) -> str | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with stand.sender.entered():
        try:
            connection.request("GET", "/metrics")
            return connection.getresponse().read().decode()
        except ConnectionError:  # nobody there, or going just now
            return None
        finally:
            connection.close()


def test_it_serves_the_metrics_where_it_is_told_to(stand: Stand, tmp_path: Path) -> None:
    with Supervised(stand.sender, tmp_path, ON + '[metrics]\nlisten = "2001"\n') as supervisor:
        supervisor.wait(lambda: any("serving http://127.0.0.1:2001/metrics" in line for line in supervisor.log))
        assert f'qosctl_program_attached{{device="{NEAR}"}} 1.0' in (_scrape(stand, 2001) or "")
        supervisor.reload(ON + '[metrics]\nlisten = "2002"\n')
        supervisor.wait(lambda: _scrape(stand, 2002) is not None)
        assert _scrape(stand, 2001) is None
        supervisor.reload(ON)
        assert _scrape(stand, 2002) is None
        os.kill(supervisor.process.pid, signal.SIGTERM)
        assert supervisor.process.wait() == 0
        assert not [line for line in supervisor.log if "Traceback" in line]


def _exporters(supervisor: Supervised) -> list[int]:
    """The processes that it has begun to answer scrapes."""
    threads = Path(f"/proc/{supervisor.process.pid}/task").iterdir()
    children = [int(child) for thread in threads for child in (thread / "children").read_text().split()]
    return [child for child in children if b"metrics_worker" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.mark.audit
def test_who_answers_scrapes_can_load_no_program_and_goes_with_the_supervisor(stand: Stand, tmp_path: Path) -> None:
    """Finding 17: HTTP met a process that could read the kernel's memory."""
    with Supervised(stand.sender, tmp_path, ON + '[metrics]\nlisten = "2004"\n') as supervisor:
        supervisor.wait(lambda: _scrape(stand, 2004) is not None)
        (exporter,) = _exporters(supervisor)
        said = Path(f"/proc/{exporter}/status").read_text()
        masks = re.findall(r"^Cap(?:Inh|Prm|Eff|Bnd|Amb):\t(\w+)$", said, re.MULTILINE)
        allowed = sum(1 << number for number in privileges.LOOKERS)
        assert [int(mask, 16) & ~allowed for mask in masks] == [0] * 5
        assert "NoNewPrivs:\t1\n" in said
        listening = [os.readlink(path) for path in Path(f"/proc/{supervisor.process.pid}/fd").iterdir()]  # noqa: PTH115
        rows = [row.split() for row in stand.sender.read("/proc/net/tcp").splitlines()]
        (inode,) = {row[9] for row in rows if row[1].endswith(f":{2004:04X}") and row[3] == "0A"}
        assert f"socket:[{inode}]" not in listening

        os.kill(exporter, signal.SIGKILL)
        supervisor.wait(lambda: any("what serves them has ended" in line for line in supervisor.log))
        supervisor.wait(lambda: bool(_exporters(supervisor)) and _scrape(stand, 2004) is not None)
        (exporter,) = _exporters(supervisor)
        supervisor.process.kill()
        supervisor.process.wait()
        deadline = time.monotonic() + 10
        while Path(f"/proc/{exporter}/cwd").exists() and _scrape(stand, 2004) is not None:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_taken_address_does_not_stop_the_marking(stand: Stand, tmp_path: Path) -> None:
    wanted = ON + '[metrics]\nlisten = "2003"\n'
    with socket.create_server(("127.0.0.1", 2003)), Supervised(stand.sender, tmp_path, wanted) as supervisor:
        supervisor.wait(lambda: any("2003: something listens there already" in line for line in supervisor.log))
        assert stamped(stand) == [EF.value]
        os.kill(supervisor.process.pid, signal.SIGTERM)
        assert supervisor.process.wait() == 0


def test_more_news_than_fit_lead_to_a_full_look(stand: Stand, tmp_path: Path) -> None:
    pairs = 150
    with Supervised(stand.sender, tmp_path, ON.replace(NEAR, "lan*")) as supervisor, KernelNews() as news:
        os.kill(supervisor.process.pid, signal.SIGSTOP)
        batch = "".join(f"link add x{n} type ifb\nlink del x{n}\n" for n in range(pairs)) + "link add lan-1 type ifb\n"
        stand.sender.run(["ip", "-batch", "-"], stdin=batch)
        os.kill(supervisor.process.pid, signal.SIGCONT)
        assert news.drain(), "the socket of the same size overran"
        supervisor.wait(lambda: devices() == {"lan-1": DeviceState.ATTACHED})


@pytest.mark.parametrize("command", [["supervise"], ["supervise", "--check"]])
def test_no_configuration_is_said(stand: Stand, command: list[str]) -> None:
    said = stand.sender.run([str(COMMAND), *command, "--config", "/nowhere/at.toml"], check=False)
    assert (said.returncode, said.stderr) == (
        1, "qosctl: supervise: /nowhere/at.toml: No such file or directory (try: ls -l /nowhere/at.toml)\n",
    )  # fmt: skip


def test_the_journal_gets_a_level_with_each_line(stand: Stand, tmp_path: Path) -> None:
    wanted = ON + '[metrics]\nlisten = "2004"\n'
    taken = socket.create_server(("127.0.0.1", 2004))
    with taken, Supervised(stand.sender, tmp_path, wanted, journal=True) as supervisor:
        supervisor.wait(lambda: any("something listens there already" in line for line in supervisor.log))
        supervisor.reload("nonsense")
        heard = {line[3:].split()[0]: line[:3] for line in supervisor.log}
    assert heard == {"supervising:": "<5>", f"{NEAR}:": "<5>", "switch": "<5>", "metrics:": "<4>", "reload": "<3>"}


@pytest.mark.audit
def test_a_device_name_that_is_no_text_ends_nothing(stand: Stand, tmp_path: Path) -> None:
    """Finding 19: a traceback, exit status 1, and no device guarded any more."""
    name = os.fsdecode(b"ev\xff")
    stand.sender.run(["ip", "link", "add", name, "type", "veth", "peer", "name", "peer0"])
    try:
        with Supervised(stand.sender, tmp_path, f'interfaces = ["{NEAR}", "ev*"]\n') as supervised:
            supervised.wait(lambda: set(devices()) == {NEAR, name})
            assert supervised.process.poll() is None
    finally:
        stand.sender.run(["ip", "link", "del", "peer0"])
