"""What is fetched to run, to build and to carry qosctl: declared bounds, locked releases, hashes (finding 16)."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from cryptography.hazmat.backends.openssl import backend
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.deploy.exported import DEPLOY, ROOT
from tests.lab.qosctl import COMMAND
from tests.minima import constraints, oldest, requirements

RUNTIME, BUILD = DEPLOY / "requirements.txt", DEPLOY / "build-requirements.txt"


def locked(path: Path) -> dict[str, tuple[Version, int]]:
    """The release of each library, and how many files' hashes are known."""
    blocks = re.findall(
        r"^([\w.-]+)==(\S+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", path.read_text(), re.MULTILINE
    )
    return {canonicalize_name(name): (Version(version), hashes.count("--hash=")) for name, version, hashes in blocks}


def pip_calls(text: str) -> list[str]:
    """Each pip command in a script that gets something, as one line."""
    calls = re.findall(r"pip\W+(?:install|download|wheel)\b[^\n&]*", text.replace("\\\n", " "))
    return [call for call in calls if "--no-index" not in call and "--no-build-isolation" not in call]


@pytest.mark.parametrize("need", requirements(), ids=str)
def test_what_is_locked_is_what_the_project_allows(need: Requirement) -> None:
    version, hashes = {**locked(RUNTIME), **locked(BUILD)}[canonicalize_name(need.name)]
    assert need.specifier.contains(version)
    assert hashes


def test_each_line_of_a_lock_file_is_one_release_with_hashes() -> None:
    for path in (RUNTIME, BUILD):
        rest = [line for line in path.read_text().splitlines() if line[0] not in "# "]
        assert len(rest) == len(locked(path)), path.name
    assert set(locked(BUILD)) == {"setuptools"}, "and nothing that builds is carried"


SCRIPTS = {
    name: (DEPLOY / name).read_text(encoding="utf-8")
    for name in ("wheel", "debian/build", "debian/rules", "container/Containerfile")
}
(SCRIPTS["make install"],) = re.findall(r"^install:.*\n(?:\t.*\n)+", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.audit
@pytest.mark.parametrize("script", SCRIPTS)
def test_what_root_will_run_takes_nothing_from_the_network_without_its_hash(script: str) -> None:
    """Finding 16."""
    for call in pip_calls(SCRIPTS[script]):
        assert "--require-hashes" in call
        assert "--only-binary :all:" in call, "a source archive would run its own build, with what it likes"


def test_these_are_the_calls_that_get_something() -> None:
    counted = {script: len(pip_calls(text)) for script, text in SCRIPTS.items()}
    assert counted == {"wheel": 1, "debian/build": 1, "debian/rules": 0, "container/Containerfile": 2, "make install": 1}


def test_pip_refuses_what_has_another_hash(tmp_path: Path) -> None:
    """The pip that we build with does what we rely on."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "pycparser-3.12-py3-none-any.whl").write_bytes(b"something else")
    argv = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-index",
        "--no-deps",
        "--require-hashes",
        "--target",
        str(tmp_path),
    ]
    lines = tmp_path / "requirements.txt"
    lines.write_text("pycparser==3.12 --hash=sha256:" + "0" * 64 + "\n")
    done = subprocess.run(
        [*argv, "--find-links", str(wheels), "-r", str(lines)], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr


def test_the_minima_are_the_lower_bounds_of_pyproject() -> None:
    assert list(constraints()) == [f"{need.name}=={oldest(need)}" for need in requirements()]
    for need in requirements():
        assert need.specifier.contains(oldest(need)), need


@pytest.mark.parametrize("name", ["cryptography", "pyOpenSSL", "pyroute2", "waitress"])
def test_what_is_used_below_its_public_face_is_bounded_above(name: str) -> None:
    """Finding 16: a release may take away what it promised to nobody."""
    (need,) = (need for need in requirements() if need.name == name)
    assert [clause for clause in need.specifier if clause.operator == "<"]


def test_the_openssl_in_use_is_told() -> None:
    """No update of the system's mends it, so an operator has to be able to see it (finding 16)."""
    first, second = subprocess.run([COMMAND, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()
    assert first == f"qosctl {metadata.version('qosctl')}"
    assert second == f"{backend.openssl_version_text()}, in cryptography {metadata.version('cryptography')}"


def test_the_makefile_builds_with_what_pyproject_asks_for() -> None:
    (need,) = (need for need in requirements() if need.name == "setuptools")
    assert f"'{need}'" in (ROOT / "Makefile").read_text(encoding="utf-8")
