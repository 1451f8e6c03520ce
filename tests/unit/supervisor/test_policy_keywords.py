"""The keywords of a policy are the same wherever they can be typed, and are told of wherever one looks for them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from qosctl.bpf.dscp import EF, Dscp
from qosctl.bpf.maps.policy import Policy, Rule
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
        parse(f"[policy]\n{keyword} = 0.5\n".encode(), "f")


def test_wifi_is_the_figure_of_rfc_8325_and_each_class_keeps_its_mark() -> None:
    """By access category, as figure 1 of section 4.3 has them; 256 is user priority 0 to the kernel."""
    voice, video, background = (
        ("EF", "VA"),
        ("CS5", "AF41", "AF42", "AF43", "CS4", "AF31", "AF32", "AF33", "CS3"),
        ("CS1", "LE"),
    )
    table = KEYWORDS["wifi"].change([])(Policy.identity())
    assert [rule.outer for rule in table.values()] == list(Dscp.all())
    queues = {dscp.name: (rule.priority or 0) - 256 for dscp, rule in table.items()}
    assert {name for name, queue in queues.items() if queue in (6, 7)} == set(voice)
    assert {name for name, queue in queues.items() if queue in (4, 5)} == set(video)
    assert {name for name, queue in queues.items() if queue in (1, 2)} == set(background)
    assert {name for name, queue in queues.items() if queue == 3} == {"AF21", "AF22", "AF23"}
    assert parse(b"[policy]\nwifi = true\nset = ['EF=AF41']\n", "f").policy == table.replaced(
        {EF: Rule(Dscp.parse("AF41"))}
    ), "and takes exceptions"
    with pytest.raises(ConfigError, match=r"^f:2: wifi: must be true, or not be there"):
        parse(b"[policy]\nwifi = false\n", "f")
