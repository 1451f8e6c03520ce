"""The keywords of a policy are the same wherever they can be typed, and are told of wherever one looks for them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from qosctl.supervisor.devices.policy_keywords import CONFIGURABLE, KEYWORDS
from qosctl.supervisor.supervise.config import ConfigError, parse

ROOT = Path(__file__).resolve().parents[3]


def test_the_readme_names_them() -> None:
    (named,) = re.findall(r"`qosctl policy \[([^]]+)\]`", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert named.split(r"\|") == list(KEYWORDS)


def test_the_configuration_as_shipped_has_a_line_for_each() -> None:
    shipped = (ROOT / "deploy" / "qosctl.toml").read_text(encoding="utf-8")
    (section,) = re.findall(r"^#? ?\[policy\]\n(.*?)(?:\n\n|\n#? ?\[|\Z)", shipped, re.MULTILINE | re.DOTALL)
    assert re.findall(r"^# (\w+) = ", section, re.MULTILINE) == list(CONFIGURABLE)


def test_exceptions_come_behind_what_they_are_exceptions_of() -> None:
    whole = [keyword.whole for keyword in CONFIGURABLE.values()]
    assert whole == sorted(whole, reverse=True)


@pytest.mark.parametrize("keyword", CONFIGURABLE)
def test_the_configuration_takes_each(keyword: str) -> None:
    """Nothing fits all of them, but each says of nonsense that it is wrong where it stands, and not that it is unknown."""
    with pytest.raises(ConfigError, match=rf"^f:2: {keyword}: "):
        parse(f"[policy]\n{keyword} = true\n".encode(), "f")
