"""The demo keeps its promises, and leaves nothing behind whenever it is interrupted."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lab import LabError

ROOT = Path(__file__).parent.parent
PATIENCE_SECONDS = 60


@pytest.fixture
def folder() -> Iterator[Path]:
    """For temporary files; unlike tmp_path it lets the server's unprivileged workers pass."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o711)
        yield Path(name)


@contextmanager
def demo(folder: Path, figures: Path) -> Iterator[subprocess.Popen[str]]:
    """Run it with its temporary files in `folder`, in a session of its own as a terminal would."""
    argv = [sys.executable, "-m", "tests.demo", "--seconds", "1", "--json", str(figures)]
    environment = {**os.environ, "TMPDIR": str(folder)}
    with subprocess.Popen(
        argv, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def text_until(process: subprocess.Popen[str], marker: str) -> str:
    """Read the demo's output up to the line that holds `marker`."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if marker in line:
            return seen
    raise LabError(f"the demo ended before it said {marker!r}:\n{seen}")


def processes_within(mounts: str) -> set[int]:
    """The processes whose mount namespace is `mounts`. With the last of them go its namespaces' names and its pins."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(folder / "ns/mnt") == mounts:  # noqa: PTH115 - the text of a link that names no path
                found.add(int(folder.name))
        except OSError:  # it ended meanwhile
            continue
    return found


def snapshot(folder: Path) -> dict[str, object]:
    """What a neighbour could see of a demo: names, pins, queues, devices, temporary files."""
    return {
        "names": sorted(path.name for path in Path("/run/netns").iterdir()),
        "pins": sorted(str(path) for path in Path("/sys/fs/bpf").rglob("*")),
        "qdiscs": subprocess.run(["tc", "qdisc"], capture_output=True, text=True, check=True).stdout,
        "links": subprocess.run(["ip", "-o", "-br", "link"], capture_output=True, text=True, check=True).stdout,
        "files": sorted(folder.rglob("*")),
    }


def test_the_demo_holds_its_promises_and_writes_its_figures(tmp_path: Path, folder: Path) -> None:
    before = snapshot(folder)
    with demo(folder, tmp_path / "demo.json") as process:
        said, _ = process.communicate(timeout=2 * PATIENCE_SECONDS)
    assert process.returncode == 0, said
    assert snapshot(folder) == before
    figures = json.loads((tmp_path / "demo.json").read_text())
    assert figures["off"] == {"checked": 512, "marked": 0}
    assert {name: figures["on"][name] for name in ("checked", "mismatched", "ecn_changed")} == {
        "checked": 512,
        "mismatched": 0,
        "ecn_changed": 0,
    }
    assert isinstance(figures["toggle_off_ms"], float)
    for state in ("off", "on_plain", "on"):
        assert set(figures["bottleneck"][state]) == {"ef_p50_ms", "ef_p99_ms", "ef_lost", "bulk_mbit", "replay_dropped"}


MOMENTS = [
    ("three machines", signal.SIGINT),
    ("qosctl attach", signal.SIGINT),
    ("qosctl connect", signal.SIGINT),
    ("qosctl connect", signal.SIGTERM),
    ("1  Marking", signal.SIGINT),
    ("qosctl passtos on", signal.SIGINT),
    ("qosctl passtos off", signal.SIGINT),
    ("4  What", signal.SIGINT),
    ("4  What", signal.SIGTERM),
    ("5  What", signal.SIGINT),
]


@pytest.mark.parametrize(("moment", "sign"), MOMENTS)
def test_interrupted_at_any_moment_it_leaves_nothing(
    tmp_path: Path, folder: Path, moment: str, sign: signal.Signals
) -> None:
    before = snapshot(folder)
    with demo(folder, tmp_path / "demo.json") as process:
        text_until(process, moment)
        mounts = os.readlink(f"/proc/{process.pid}/ns/mnt")  # noqa: PTH115 - the text of a link that names no path
        assert mounts != os.readlink("/proc/self/ns/mnt")  # noqa: PTH115 - the same
        time.sleep(0.1)
        os.killpg(process.pid, sign)
        said, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert processes_within(mounts) == set()
    assert snapshot(folder) == before
    assert not (tmp_path / "demo.json").exists()
