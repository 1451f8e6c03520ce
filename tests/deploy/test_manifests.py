"""Container, Kubernetes and Ansible: they name what there is, and ask for no more than the unit does."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from qosctl.supervisor.supervise import config

from tests.deploy.exported import DEPLOY, ROOT
from tests.deploy.test_units import settings

CONTAINERFILE = (DEPLOY / "container" / "Containerfile").read_text(encoding="utf-8")
MANIFEST = (DEPLOY / "kubernetes" / "qosctl.yaml").read_text(encoding="utf-8")
ROLE = DEPLOY / "ansible" / "roles" / "qosctl"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_container_is_made_of_what_there_is() -> None:
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", CONTAINERFILE, re.MULTILINE)
    for name in " ".join(copied).split():
        assert (ROOT / name).exists(), name
    assert set(PYPROJECT["tool"]["setuptools"]["package-dir"].values()) <= set(" ".join(copied).split())


def test_the_daemon_set_has_the_units_capabilities_and_no_more() -> None:
    (added,) = re.findall(r"add: \[(.*)\]", MANIFEST)
    assert {f"CAP_{name}" for name in added.split(", ")} == set(
        settings("qosctl.service")["CapabilityBoundingSet"][0].split()
    )
    assert "drop: [ALL]" in MANIFEST
    assert "privileged: false" in MANIFEST
    assert "allowPrivilegeEscalation: false" in MANIFEST
    assert "readOnlyRootFilesystem: true" in MANIFEST


def test_the_daemon_sets_configuration_makes_sense() -> None:
    (block,) = re.findall(r"qosctl\.toml: \|\n((?:    .*\n)+)", MANIFEST)
    parsed = config.parse(re.sub(r"^    ", "", block, flags=re.MULTILINE).encode(), "qosctl.yaml")
    assert parsed.passtos is None
    assert parsed.interfaces == ()


def test_the_role_sets_the_keys_that_the_supervisor_knows() -> None:
    template = (ROLE / "templates" / "qosctl.toml.j2").read_text(encoding="utf-8")
    assert set(re.findall(r"^([a-z]+) =", template, re.MULTILINE)) == {"interfaces", "hook", "passtos", "listen", "names"}
    assert set(re.findall(r"^\[([a-z]+)\]", template, re.MULTILINE)) == {"policy", "metrics"}
    used = set(re.findall(r"qosctl_[a-z_]+", template)) | set(
        re.findall(r"qosctl_[a-z_]+", (ROLE / "tasks" / "present.yml").read_text())
    )
    defaults = set(re.findall(r"^(qosctl_[a-z_]+):", (ROLE / "defaults" / "main.yml").read_text(), re.MULTILINE))
    assert used <= defaults


@pytest.mark.parametrize("file", ["control", "rules", "build", "test", "test-inside", "qosctl.postrm", "qosctl.prerm"])
def test_the_package_has_its_parts(file: str) -> None:
    assert Path(DEPLOY / "debian" / file).exists()
    changelog = (DEPLOY / "debian" / "changelog").read_text()
    assert changelog.startswith(f"qosctl ({PYPROJECT['project']['version']})")
