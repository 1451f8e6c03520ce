"""The systemd units: how much they expose, and that what they leave is enough, tried with exactly what they say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import textwrap
import time
from pathlib import Path

import pytest
from qosctl.bpf import bpffs
from qosctl.supervisor.exits import Exit

from tests.deploy.exported import DEPLOY, DOCS
from tests.lab import LabError, Namespace, Ocserv, Qosctl, end, veth
from tests.lab.qosctl import COMMAND

FOLDER = DEPLOY / "systemd"
UNITS = ("qosctl.service", "qosctl-connect@.service")
EXPOSURE_TENTHS_MAX = 20
SERVICE_ID = 64987  # stands for the user qosctl, which this machine need not have


def settings(unit: str) -> dict[str, list[str]]:
    """Every setting of a unit, in order."""
    found: dict[str, list[str]] = {}
    for line in (FOLDER / unit).read_text(encoding="utf-8").splitlines():
        if match := re.match(r"([A-Za-z]+)=(.*)", line):
            found.setdefault(match[1], []).append(match[2])
    return found


@pytest.mark.parametrize("unit", UNITS)
def test_the_exposure_is_two_at_most(unit: str) -> None:
    argv = ["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE_TENTHS_MAX}", "--no-pager"]
    done = subprocess.run([*argv, FOLDER / unit], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-400:] + done.stderr


@pytest.mark.parametrize("unit", UNITS)
def test_every_setting_is_known_to_systemd(unit: str) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", FOLDER / unit], capture_output=True, text=True, check=False
    )
    complaints = [line for line in done.stderr.splitlines() if "is not executable" not in line]  # not installed here
    assert not [line for line in complaints if "qosctl" in line], done.stderr


@pytest.mark.parametrize("unit", UNITS)
def test_the_capabilities_are_few_and_the_password_is_nowhere(unit: str) -> None:
    (bounding,), (ambient,) = settings(unit)["CapabilityBoundingSet"], settings(unit)["AmbientCapabilities"]
    assert bounding == ambient
    assert set(bounding.split()) <= {"CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_BPF"}
    assert settings(unit)["User"] == ["qosctl"]
    assert not [line for line in settings(unit)["ExecStart"] if "--password" in line or "$QOSCTL_PASS" in line]


def test_what_waits_for_a_person_is_not_begun_again() -> None:
    """QC-01, QC-29: a refused password locked the account, and who was thrown out came back every five seconds."""
    final = {int(code) for code in settings("qosctl-connect@.service")["RestartPreventExitStatus"][0].split()}
    assert final == {Exit.USAGE, Exit.LOGIN_REFUSED, Exit.DISMISSED}
    assert settings("qosctl.service")["RestartPreventExitStatus"] == [str(int(Exit.USAGE))]
    assert all(settings(unit)["Restart"] == ["always"] for unit in UNITS)


def test_users_and_folders_are_declared() -> None:
    assert "u qosctl -" in (FOLDER / "sysusers.conf").read_text()
    assert "d /sys/fs/bpf/qosctl 0700 qosctl qosctl" in (FOLDER / "tmpfiles.conf").read_text()


class AsUnit:
    """Runs qosctl in a namespace as the unit would: its user, its capabilities, no new privileges."""

    def __init__(self, namespace: Namespace, unit: str) -> None:
        self._namespace = namespace
        capabilities = [one.removeprefix("CAP_").lower() for one in settings(unit)["CapabilityBoundingSet"][0].split()]
        few = ",".join(["-all", *(f"+{name}" for name in capabilities)])
        self._prefix = [
            "setpriv", f"--reuid={SERVICE_ID}", f"--regid={SERVICE_ID}", "--clear-groups", "--no-new-privs",
            f"--inh-caps={few}", f"--ambient-caps={few}", f"--bounding-set={few}",
        ]  # fmt: skip

    def argv(self, *words: str) -> list[str]:
        return [*self._prefix, str(COMMAND), *words]

    def __call__(self, *words: str) -> str:
        return self._namespace.run(self.argv(*words)).stdout


def wait_until(true: object, what: str, seconds: float = 20) -> None:
    assert callable(true)
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise LabError(what)
        time.sleep(0.05)


@pytest.fixture(name="pins")
def pins_fixture() -> Path:
    """The folder of pins, owned by the services' user as tmpfiles makes it, with what own-pins does done."""
    bpffs.ensure_mounted()
    bpffs.ROOT.mkdir(mode=0o700, exist_ok=True)
    os.chown(bpffs.ROOT, SERVICE_ID, SERVICE_ID)
    subprocess.run([FOLDER / "own-pins"], check=True)
    return bpffs.ROOT


def test_the_supervisors_capabilities_are_enough(pins: Path, tmp_path: Path) -> None:
    config = tmp_path / "qosctl.toml"
    config.write_text('interfaces = ["eth0"]\n')
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o111)
    with Namespace("unit") as here, Namespace("peer") as peer, veth(here, "eth0", peer, "eth0"):
        unit = AsUnit(here, "qosctl.service")
        process = here.popen(unit.argv("supervise", "--config", str(config)))
        try:
            qosctl = Qosctl(here)
            wait_until(
                lambda: "eth0: attached" in qosctl("status", check=False).stdout or process.poll() is not None,
                "never attached",
            )
            assert process.poll() is None
            assert "eth0: attached" in unit("status")
            unit("passtos", "on")
            unit("policy", "fold", "2")
        finally:
            end(process)
            unit("detach", "--all")
    assert pins.stat().st_uid == SERVICE_ID


@pytest.mark.parametrize("tunnels", [1, 2], ids=["alone", "beside another tunnel"])
def test_the_clients_capabilities_are_enough(tunnels: int, pins: Path) -> None:
    """Another's flow can only be opened with CAP_SYS_ADMIN: it must not be in the way of one's own."""
    with (
        Namespace("client") as client,
        Namespace("server") as server,
        veth(client, "eth0", server, "eth0"),
    ):
        client.run(["ip", "address", "add", "10.91.8.1/24", "dev", "eth0"])
        server.run(["ip", "address", "add", "10.91.8.2/24", "dev", "eth0"])
        with Ocserv(server, ["10.91.8.2"]) as ocserv:
            words = ["connect", f"https://10.91.8.2:{ocserv.port}", "-u", "alice", "--passwd-on-stdin"]
            argv = AsUnit(client, "qosctl-connect@.service").argv(*words, "--servercert", ocserv.pin, "--script", "none")
            for number in range(1, tunnels + 1):
                with ocserv.password_file("alice").open() as password:  # as StandardInput=file: hands it over
                    process = client.popen(argv, stdin=password)
                wait_until(lambda: flows(client) == number or process.poll() is not None, "no marked tunnel")  # noqa: B023
                assert process.poll() is None
    assert pins.exists()


def test_the_pages_script_sets_routes_with_the_clients_capabilities(pins: Path, tmp_path: Path) -> None:
    page = (DOCS / "deploy-systemd.md").read_text(encoding="utf-8")
    (body,) = re.findall(r"cat >/etc/qosctl/routes <<'END'\n(.*?)    END\n", page, re.DOTALL)
    script = tmp_path / "routes"
    script.write_text(textwrap.dedent(body))
    script.chmod(0o755)
    for parent in script.parents[:4]:
        parent.chmod(parent.stat().st_mode | 0o111)
    with Namespace("client") as client, Namespace("server") as server, veth(client, "eth0", server, "eth0"):
        client.run(["ip", "address", "add", "10.91.8.1/24", "dev", "eth0"])
        server.run(["ip", "address", "add", "10.91.8.2/24", "dev", "eth0"])
        with Ocserv(server, ["10.91.8.2"]) as ocserv, ocserv.password_file("alice").open() as password:
            words = ["connect", "--script", "none", "--user", "alice", "--passwd-on-stdin", "--servercert", ocserv.pin]
            words += ["-i", "office0", "--script", str(script), f"https://10.91.8.2:{ocserv.port}"]  # as QOSCTL_OPTIONS
            process = client.popen(AsUnit(client, "qosctl-connect@.service").argv(*words), stdin=password)
            wait_until(lambda: "192.168.0.0/16 dev office0" in routes(client) or process.poll() is not None, "no route")
            assert process.poll() is None
            client.run(["ping", "-c", "1", "-W", "5", ocserv.inner4])
    assert pins.exists()


def routes(namespace: Namespace) -> str:
    return namespace.run(["ip", "route"]).stdout


def flows(namespace: Namespace) -> int:
    done = Qosctl(namespace)("flows", "--json", check=False)
    return len(json.loads(done.stdout)["flows"])
