"""The configuration file: what it says, and what is said of what is wrong with it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qosctl.bpf.dscp import EF, Dscp
from qosctl.bpf.maps.folding import fold
from qosctl.bpf.maps.policy import Policy, Rule
from qosctl.metrics.listen import Listen
from qosctl.supervisor.devices.hooks import HookKind
from qosctl.supervisor.supervise.config import Config, ConfigError, load, parse
from qosctl.supervisor.supervise.toml_lines import line_of

EXAMPLE = Path(__file__).parent.parent.parent.parent.parent / "deploy" / "qosctl.toml"
CS6 = Dscp.parse("CS6")

FINE = {
    "": Config(),
    'interfaces = ["eth0", "wl*"]': Config(interfaces=("eth0", "wl*")),
    'hook = "tcx"\npasstos = false': Config(hook=HookKind.TCX, passtos=False),
    "[policy]": Config(policy=Policy.identity()),
    "policy.fold = 3": Config(policy=fold(3)),
    '[policy]\nallow = ["EF"]': Config(policy=Policy.allow(EF)),
    '[policy]\nset = ["CS6=leave", "EF=EF,priority=6"]': Config(
        policy=Policy.identity().replaced({CS6: Rule(None), EF: Rule(EF, 6)})
    ),
    '[policy]\nfold = 2\nset = ["CS6=CS6"]': Config(policy=fold(2).replaced({CS6: Rule(CS6)})),
    '[metrics]\nlisten = "[::1]:9"': Config(listen=Listen("::1", 9)),
    '[metrics]\nlisten = "24740"': Config(listen=Listen("127.0.0.1", 24740)),
    '[metrics]\nlisten = "9"\nnames = ["A.example."]': Config(listen=Listen("127.0.0.1", 9, frozenset({"a.example"}))),
    "[metrics]": Config(),
    'follow = ["vpns*", "tun0"]': Config(follow=("vpns*", "tun0")),
    "follow = []": Config(follow=()),
}

WRONG = {
    'interface = ["eth0"]': "x:1: unknown key 'interface' (try: interfaces)",
    "\n\nPassTOS = true": "x:3: unknown key 'PassTOS' (try: passtos)",
    "[metrics]\n# where\nlisen = 1": "x:3: unknown key 'lisen' in [metrics] (try: listen)",
    "[polcy]\nfold = 2": "x:1: unknown key 'polcy' (try: policy)",
    "zebra = 1": "x:1: unknown key 'zebra' (try: interfaces, hook, passtos, follow, policy, metrics)",
    "metrics.zebra = 1": "x:1: unknown key 'zebra' in [metrics] (try: listen, names)",
    '[metrics]\nnames = ["a:1"]': "x:2: names: 'a:1' is no host name (try: node1.example, without a scheme or a port)",
    'interfaces = "eth0"': 'x:1: interfaces: must be an array of strings, not a string (try: ["eth0"])',
    'interfaces = [\n  "eth0",\n  4,\n]': 'x:1: interfaces: must be an array of strings, not an array with an integer '
    '(try: ["...", "..."])',
    'interfaces = ["a/b"]': 'x:1: interfaces: \'a/b\' is no interface\'s name (try: "eth0", or a pattern such as "wl*")',
    'interfaces = ["averylonginterfacename"]': "x:1: interfaces: 'averylonginterfacename' is no interface's name "
    '(try: "eth0", or a pattern such as "wl*")',
    'follow = ["t?n0"]': "x:1: follow: 't?n0': a pattern is how names begin, and a star behind "
    "(try: qosctl follow 'vpns*')",
    r'follow = ["tun\u0000"]': r"x:1: follow: 'tun\x00' is no name of a device (try: ip link)",
    f"follow = {[f'a{n}*' for n in range(33)]}": "x:1: follow: no more than 32 names and patterns can be followed "
    '(try: a pattern, "vpns*" say)',
    'hook = "clsat"': "x:1: hook: 'clsat' is no hook (try: clsact)",
    "hook = 4": 'x:1: hook: must be a string, not an integer (try: "4")',
    'passtos = "on"': "x:1: passtos: must be true or false, not a string (try: true)",
    "passtos = 1979-05-27": "x:1: passtos: must be true or false, not a date or time (try: true)",
    "policy = 2": "x:1: policy must be a table, not an integer (try: [policy])",
    "[policy]\nfold = 5": "x:2: fold: 5 is not one of 2, 3, 4 (try: fold = 2)",
    "[policy]\nfold = true": "x:2: fold: True is not one of 2, 3, 4 (try: fold = 2)",
    '[policy]\nfold = 2\nallow = ["EF"]': "x:3: allow: does not go with fold "
    "(try: one of the two, and `set` for exceptions)",
    '[policy]\nallow = ["EG"]': "x:2: allow: 'EG' is not a DSCP: use a name such as EF, AF41, CS1 or 0 to 63",
    '[policy]\nset = [\n"EF=LE",\n"LE=EF"]': "x:2: set: LE must not become EF: it promises to yield (RFC 8622) "
    "(try: LE=leave)",
    '[metrics]\nlisten = "eth0:9"': "x:2: listen: 'eth0:9' does not begin with a numeric address "
    '(try: listen = "127.0.0.1:24740")',
    "passtos = tru": "x:1: invalid value",
    'hook = "auto"\nhook = "tcx"': "x:2: cannot overwrite a value",
}  # fmt: skip


@pytest.mark.parametrize("text", FINE)
def test_what_it_says_is_meant(text: str) -> None:
    assert parse(text.encode(), "x") == FINE[text]


@pytest.mark.parametrize("text", WRONG)
def test_mistakes_are_shown_with_their_line_and_a_suggestion(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text.encode(), "x")
    assert str(caught.value) == WRONG[text]


def test_not_utf8_has_a_line_too() -> None:
    with pytest.raises(ConfigError, match=r"^x:2: not UTF-8$"):
        parse(b"# fine\n# \xff\n", "x")


@given(st.binary(max_size=200) | st.text(alphabet='intersopacy[]{}="*#.,\n 24', max_size=60).map(str.encode))
def test_any_bytes_are_a_configuration_or_a_mistake(raw: bytes) -> None:
    try:
        parse(raw, "x")
    except ConfigError as error:
        assert str(error).startswith("x:")


@given(st.integers(0, 4), st.integers(0, 4))
def test_a_keys_line_is_where_it_begins(above: int, between: int) -> None:
    text = "# hook = 1\n" * above + 'a = """\nhook = 2\n"""\n' + "\n" * between + "hook = [\n1,\n2]\n[t]\nk = 1\n"
    assert tomllib.loads(text)["hook"] == [1, 2]
    assert line_of(text, ["hook"]) == above + 3 + between + 1
    assert line_of(text, ["t", "k"]) == above + 3 + between + 5
    assert line_of(text, ["nothing"]) is None


@pytest.mark.parametrize(
    ("name", "wanted"), [("eth0", True), ("wlan0", True), ("eth01", False), ("Eth0", False), ("lo", False)]
)
def test_names_and_patterns(name: str, wanted: bool) -> None:
    assert Config(interfaces=("eth0", "wl*")).wants(name) is wanted


def test_the_example_means_what_its_comments_say() -> None:
    text = EXAMPLE.read_text()
    assert load(EXAMPLE) == Config(listen=Listen("127.0.0.1", 24740))
    settings = [line for line in text.splitlines() if line.startswith("# ") and ("= " in line or line.startswith("# ["))]
    for line in settings:  # each setting that is commented out would be taken as it stands
        setting = line.removeprefix("# ")
        within = "[policy]\n" if setting.startswith(("fold", "allow", "wifi", "set")) else ""
        within = '[metrics]\nlisten = "9"\n' if setting.startswith("names") else within
        assert parse((within + setting).encode(), "x") != Config(), line


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory"):
        load(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="Is a directory"):
        load(tmp_path)
    huge = tmp_path / "huge"
    huge.write_bytes(b"#" * 70000)
    with pytest.raises(ConfigError, match="longer than"):
        load(huge)


@pytest.mark.audit
@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_a_file_that_others_can_change_is_not_read(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "qosctl.toml"
    path.write_text("passtos = true\n")
    path.chmod(mode)
    with pytest.raises(ConfigError, match="others than its owner can change it"):
        load(path)
    path.chmod(0o644)
    assert load(path).passtos
