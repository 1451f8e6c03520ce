"""The house itself: which way imports point, and what a person gets who installs the package."""

import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata, resources
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("bpf", "dtls", "metrics", "supervisor")


def sources(package: str) -> set[Path]:
    """The files of a package, relative to the package's folder."""
    folder = ROOT / package
    files = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    return {path for path in files if not any(part == "__pycache__" or part.startswith(".") for part in path.parts)}


def copy_of_the_tree(folder: Path) -> Path:
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "COPYING"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check the import direction of the tree in `folder`, whatever is installed."""
    seen_as = folder / "seen_as" / "qosctl"
    seen_as.mkdir(parents=True)
    for name in PACKAGES:
        (seen_as / name).symlink_to(folder / name)
    program = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); from importlinter.cli import lint_imports_command as main; main()"
    )
    argv = [sys.executable, "-c", program, str(seen_as.parent), "--no-cache", "--config", str(folder / "pyproject.toml")]
    return subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    tree = copy_of_the_tree(tmp_path_factory.mktemp("tree"))
    argv = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", "out", "."]
    subprocess.run(argv, cwd=tree, check=True)
    (path,) = (tree / "out").glob("*.whl")
    return zipfile.ZipFile(path)


def test_imports_point_one_way(tmp_path: Path) -> None:
    done = lint_imports(copy_of_the_tree(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 kept, 0 broken" in done.stdout


WRONG_WAYS = {
    ("bpf", "qosctl.dtls"),
    ("dtls", "qosctl.metrics"),
    ("metrics", "qosctl.dtls"),
    ("dtls", "qosctl.supervisor"),
    ("bpf.kernel", "qosctl.bpf.maps.flows"),
    ("dtls.numbering", "qosctl.dtls.record.keys"),
    ("dtls.transport", "qosctl.dtls.session.loop"),
    ("dtls.session", "qosctl.dtls.anyconnect.frames"),
    ("dtls.packets", "qosctl.dtls.anyconnect.frames"),
    ("dtls.anyconnect", "qosctl.dtls.transport.udp"),
    ("dtls.session", "qosctl.bpf.flow_page.rtt_request"),
    ("supervisor.devices", "qosctl.supervisor.tunnel.flow_marker"),
}


def test_an_import_the_other_way_is_found(tmp_path: Path) -> None:
    """One wrong import for each boundary, all in one tree: the linter reads it once, and names each."""
    tree = copy_of_the_tree(tmp_path)
    for number, (room, high) in enumerate(sorted(WRONG_WAYS)):
        (tree / room.replace(".", "/") / f"wrong_way{number}.py").write_text(f"import {high}\n")
    done = lint_imports(tree)
    assert done.returncode != 0
    for number, (room, high) in enumerate(sorted(WRONG_WAYS)):
        assert f"qosctl.{room}.wrong_way{number} -> {high}" in done.stdout


def test_the_architecture_names_each_room_and_no_file_that_is_not_there() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rooms = {path.parent for package in PACKAGES for path in (ROOT / package).glob("*/__init__.py")}
    assert [room.name for room in rooms if f"{room.name}/`" not in text] == []
    named = re.findall(r"`((?:bpf|deploy|docs|dtls|metrics|supervisor|tests)/[\w./-]*)`", text)
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_the_wheel_holds_every_source_with_types_and_c_files(wheel: zipfile.ZipFile, package: str) -> None:
    inside = {
        Path(name).relative_to(f"qosctl/{package}") for name in wheel.namelist() if name.startswith(f"qosctl/{package}/")
    }
    assert inside == sources(package)
    assert Path("py.typed") in inside


def test_the_wheel_brings_the_program_and_the_command_but_no_tests(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert [name for name in names if name.endswith(".c")]
    assert [name for name in names if name.endswith(".h")]
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"qosctl"}
    (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
    assert b"qosctl = qosctl.supervisor.cli.main:main" in wheel.read(entry_points)


@pytest.mark.parametrize("package", PACKAGES)
def test_what_is_tested_is_what_the_tree_says(package: str) -> None:
    """An installed package that is older than the tree would make every other test a lie."""
    installed = resources.files(f"qosctl.{package}")
    stale = [
        str(path)
        for path in sources(package)
        if installed.joinpath(str(path)).read_bytes() != (ROOT / package / path).read_bytes()
    ]
    assert stale == []


def test_the_package_never_asks_for_the_other_bcc() -> None:
    """On PyPI that name is an unrelated project; ours is the distribution's."""
    try:
        needs = metadata.requires("qosctl") or []
    except metadata.PackageNotFoundError:  # run from the tree while developing
        needs = (ROOT / "pyproject.toml").read_text().splitlines()
    assert not [need for need in needs if need.strip().strip('"').lower().startswith("bcc")]
