"""The systemd units: how much they expose, and that what they leave is enough, tried with exactly what they say.

Findings 3 and 12: every pin is root's, and the user that a tunnel runs as can neither switch nor change the policy.
"""

from __future__ import annotations

import json
import re
import subprocess
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from qosctl.bpf.kernel import bpffs
from qosctl.supervisor.output.exit_codes import Exit

from tests.deploy.exported import DEPLOY, DOCS
from tests.lab import LabError, Namespace, Ocserv, Qosctl, end, veth
from tests.lab.qosctl import COMMAND

FOLDER = DEPLOY / "systemd"
UNITS = ("qosctl.service", "qosctl-connect@.service")
EXPOSURE_TENTHS_MAX = 20
SERVICE = "nobody"  # stands for the user qosctl, which this machine need not have
CAPABILITIES = {
    "qosctl.service": {"CAP_NET_ADMIN", "CAP_BPF", "CAP_PERFMON"},
    "qosctl-connect@.service": {"CAP_NET_ADMIN", "CAP_BPF", "CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"},
}
NO_PERMISSION = 4


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
    (bounding,) = settings(unit)["CapabilityBoundingSet"]
    assert set(bounding.split()) == CAPABILITIES[unit]
    assert "AmbientCapabilities" not in settings(unit)
    assert not [line for line in settings(unit)["ExecStart"] if "--password" in line or "$QOSCTL_PASS" in line]


def test_what_waits_for_a_person_is_not_begun_again() -> None:
    """QC-01, QC-29: a refused password locked the account, and who was thrown out came back every five seconds."""
    final = {int(code) for code in settings("qosctl-connect@.service")["RestartPreventExitStatus"][0].split()}
    assert final == {Exit.USAGE, Exit.LOGIN_REFUSED, Exit.DISMISSED}
    assert settings("qosctl.service")["RestartPreventExitStatus"] == [str(int(Exit.USAGE))]
    assert all(settings(unit)["Restart"] == ["always"] for unit in UNITS)


@pytest.mark.audit
def test_all_pins_are_roots_and_nothing_gives_them_away() -> None:
    assert "u qosctl -" in (FOLDER / "sysusers.conf").read_text()
    folders = [line.split() for line in (FOLDER / "tmpfiles.conf").read_text().splitlines() if line.startswith("d ")]
    assert [folder[1:5] for folder in folders] == [
        ["/sys/fs/bpf/qosctl", "0700", "root", "root"],
        ["/run/qosctl", "0755", "root", "root"],
    ]
    assert not [name for unit in UNITS for name in settings(unit) if name in ("ExecStartPre", "ExecStartPost")]
    scripts = [path for path in DEPLOY.rglob("*") if path.is_file() and path.read_bytes()[:2] == b"#!"]
    assert len(scripts) > 5
    assert not [path for path in scripts if re.search(r"\bl?chown\b", path.read_text(encoding="utf-8"))]


@pytest.mark.audit
def test_what_reads_the_network_is_not_root() -> None:
    (start,) = settings("qosctl-connect@.service")["ExecStart"]
    assert start.startswith("!/usr/bin/qosctl connect --setuid qosctl ")  # begun as root, and gives it up by itself
    assert settings("qosctl-connect@.service")["User"] == ["qosctl"]
    assert "User" not in settings("qosctl.service")


class AsUnit:
    """Runs qosctl in a namespace as the unit would: as root, with its capabilities and no new privileges."""

    def __init__(self, namespace: Namespace, unit: str) -> None:
        self._namespace = namespace
        self._prefix = limited(settings(unit)["CapabilityBoundingSet"][0].split())

    def argv(self, *words: str) -> list[str]:
        return [*self._prefix, str(COMMAND), *words]

    def __call__(self, *words: str) -> str:
        return self._namespace.run(self.argv(*words)).stdout


def limited(capabilities: Sequence[str], user: int = 0) -> list[str]:
    """What runs a command with these capabilities and no others."""
    few = ",".join(["-all", *(f"+{name.lower().removeprefix('cap_')}" for name in capabilities)])
    become = [f"--reuid={user}", f"--regid={user}", "--clear-groups", f"--ambient-caps={few}"] if user else []
    return ["setpriv", "--no-new-privs", f"--inh-caps={few}", f"--bounding-set={few}", *become]


def wait_until(true: Callable[[], object], what: str, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise LabError(what)
        time.sleep(0.05)


@pytest.fixture(name="pins")
def pins_fixture() -> Path:
    """The folder of pins, as tmpfiles makes it."""
    bpffs.ensure_mounted()
    bpffs.ROOT.mkdir(mode=0o700, exist_ok=True)
    return bpffs.ROOT


def strangers(pins: Path) -> list[Path]:
    """What is not root's, or can be changed by others."""
    found = [pins, *pins.rglob("*")]
    return [path for path in found if path.lstat().st_uid or (not path.is_symlink() and path.lstat().st_mode & 0o022)]


def test_the_supervisors_capabilities_are_enough(pins: Path, tmp_path: Path) -> None:
    config = tmp_path / "qosctl.toml"
    config.write_text('interfaces = ["eth0"]\n')
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
            assert strangers(pins) == []
            unit("detach", "--all")


@pytest.mark.parametrize("tunnels", [1, 2], ids=["alone", "beside another tunnel"])
def test_the_clients_capabilities_are_enough(tunnels: int, pins: Path) -> None:
    with (
        Namespace("client") as client,
        Namespace("server") as server,
        veth(client, "eth0", server, "eth0"),
    ):
        client.run(["ip", "address", "add", "10.91.8.1/24", "dev", "eth0"])
        server.run(["ip", "address", "add", "10.91.8.2/24", "dev", "eth0"])
        with Ocserv(server, ["10.91.8.2"]) as ocserv:
            words = ["connect", f"https://10.91.8.2:{ocserv.port}", "-u", "alice", "--passwd-on-stdin", "--setuid", SERVICE]
            argv = AsUnit(client, "qosctl-connect@.service").argv(*words, "--servercert", ocserv.pin, "--script", "none")
            for number in range(1, tunnels + 1):
                with ocserv.password_file("alice").open() as password:  # as StandardInput=file: hands it over
                    process = client.popen(argv, stdin=password)
                wait_until(lambda: flows(client) == number or process.poll() is not None, "no marked tunnel")  # noqa: B023
                assert process.poll() is None
            assert strangers(pins) == []


@pytest.mark.audit
@pytest.mark.usefixtures("pins")
def test_a_client_that_was_taken_over_can_neither_switch_nor_change_the_policy() -> None:
    """With all that its process has: user and capabilities are read from it while its tunnel is up."""
    with (
        Namespace("client") as client,
        Namespace("server") as server,
        veth(client, "eth0", server, "eth0"),
    ):
        client.run(["ip", "address", "add", "10.91.8.1/24", "dev", "eth0"])
        server.run(["ip", "address", "add", "10.91.8.2/24", "dev", "eth0"])
        qosctl = Qosctl(client)
        qosctl("attach", "eth0")
        qosctl("policy", "allow", "EF")
        with Ocserv(server, ["10.91.8.2"]) as ocserv, ocserv.password_file("alice").open() as password:
            words = ["connect", f"https://10.91.8.2:{ocserv.port}", "-u", "alice", "--passwd-on-stdin", "--setuid", SERVICE]
            argv = AsUnit(client, "qosctl-connect@.service").argv(*words, "--servercert", ocserv.pin, "--script", "none")
            process = client.popen(argv, stdin=password, stdout=subprocess.PIPE)
            assert process.stdout is not None
            assert process.stdout.readline().startswith("connected ")
            as_client = limited(*standing_of(process.pid))
            for tried in (["passtos", "on"], ["policy", "reset"], ["detach", "--all"], ["flows"], ["status"]):
                done = client.run([*as_client, str(COMMAND), *tried], check=False)
                assert (done.returncode, done.stdout) == (NO_PERMISSION, ""), tried
            assert client.run([*as_client, "ls", str(bpffs.ROOT)], check=False).returncode != 0
            assert client.run([*as_client, "flock", "--nonblock", str(bpffs.ROOT), "true"], check=False).returncode != 0
            said = qosctl("status").stdout
            assert "passtos off   policy custom   flows 1" in said
        qosctl("detach", "--all")


def test_the_pages_script_sets_routes_with_the_clients_capabilities(pins: Path, tmp_path: Path) -> None:
    page = (DOCS / "deploy-systemd.md").read_text(encoding="utf-8")
    (body,) = re.findall(r"cat >/etc/qosctl/routes <<'END'\n(.*?)    END\n", page, re.DOTALL)
    script = tmp_path / "routes"
    script.write_text(textwrap.dedent(body))
    script.chmod(0o755)
    with Namespace("client") as client, Namespace("server") as server, veth(client, "eth0", server, "eth0"):
        client.run(["ip", "address", "add", "10.91.8.1/24", "dev", "eth0"])
        server.run(["ip", "address", "add", "10.91.8.2/24", "dev", "eth0"])
        with Ocserv(server, ["10.91.8.2"]) as ocserv, ocserv.password_file("alice").open() as password:
            words = ["connect", "--setuid", SERVICE, "--script", "none", "--user", "alice", "--passwd-on-stdin"]
            words += ["--servercert", ocserv.pin]
            words += ["-i", "office0", "--script", str(script), f"https://10.91.8.2:{ocserv.port}"]  # as QOSCTL_OPTIONS
            process = client.popen(AsUnit(client, "qosctl-connect@.service").argv(*words), stdin=password)
            wait_until(lambda: "192.168.0.0/16 dev office0" in routes(client) or process.poll() is not None, "no route")
            assert process.poll() is None
            client.run(["ping", "-c", "1", "-W", "5", ocserv.inner4])
    assert pins.exists()


def standing_of(pid: int) -> tuple[list[str], int]:
    """The capabilities and the user of a process."""
    rows = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = {name: values.split() for name, _, values in (row.partition(":") for row in rows)}
    names = subprocess.run(["capsh", f"--decode={status['CapEff'][0]}"], capture_output=True, text=True, check=True).stdout
    return [name for name in names.strip().partition("=")[2].split(",") if name], int(status["Uid"][1])


def routes(namespace: Namespace) -> str:
    return namespace.run(["ip", "route"]).stdout


def flows(namespace: Namespace) -> int:
    done = Qosctl(namespace)("flows", "--json", check=False)
    return len(json.loads(done.stdout)["flows"])
