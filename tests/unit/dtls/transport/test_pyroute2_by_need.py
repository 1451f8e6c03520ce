"""Of pyroute2 a command imports what it uses; whoever asks for more of it gets all."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[4]


def python(program: str) -> str:
    done = subprocess.run([sys.executable, "-I", "-c", program], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_no_command_imports_what_it_never_uses() -> None:
    commands = (path.stem for path in (ROOT / "supervisor/cli/commands").glob("[a-z]*.py"))
    imports = "; ".join(f"import qosctl.supervisor.cli.commands.{name}" for name in commands)
    assert "pyroute2.ndb" not in python(f"{imports}; import sys; print(*sys.modules)").split()


def test_who_asks_the_kernel_nothing_imports_none_of_it() -> None:
    names = ("attach", "flows", "passtos", "policy", "status")
    imports = "; ".join(f"import qosctl.supervisor.cli.commands.{name}" for name in names)
    assert "pyroute2" not in python(f"{imports}; import sys; print(*sys.modules)").split()


def test_only_one_module_imports_it() -> None:
    """Whoever imported it first would get all of it. Below the package there is no order: its modules stand alone."""
    importing = re.compile(r"^ *(from pyroute2 import|import pyroute2)", re.MULTILINE)
    files = (path for package in ("bpf", "dtls", "metrics", "supervisor") for path in (ROOT / package).rglob("*.py"))
    assert [str(path) for path in files if importing.search(path.read_text(encoding="utf-8"))] == []


def test_whoever_asks_for_more_gets_all_of_it() -> None:
    ours = "from qosctl.dtls.transport.pyroute2_by_need import IPRoute"
    for more in (
        "import pyroute2; assert pyroute2.netlink.nlmsg and pyroute2.IPRoute is IPRoute and pyroute2.netns.listnetns",
        "from pyroute2 import netns, NDB, IPRoute as same; assert netns.listnetns and same is IPRoute",
    ):
        python(f"{ours}; {more}")


def test_who_has_all_of_it_already_keeps_it() -> None:
    ours = "from qosctl.dtls.transport.pyroute2_by_need import IPRoute"
    python(f"import pyroute2; NDB = pyroute2.NDB; {ours}; assert pyroute2.IPRoute is IPRoute; assert pyroute2.NDB is NDB")
