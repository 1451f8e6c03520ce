"""The configuration: /etc/qosctl/qosctl.toml, read into frozen values. Strings die here.

Every mistake is a ConfigError with the file, the line and a suggestion: a key that is not known would otherwise have no
effect, and nobody would be told.
"""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import functools
import os
import re
import stat
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from qosctl.bpf.abi import FOLLOW_PATTERNS
from qosctl.bpf.errors import NoPermissionError, QosctlError, UsageError
from qosctl.bpf.maps.policy import Policy
from qosctl.metrics.hosts import parse_names
from qosctl.metrics.listen import DEFAULT, Listen, parse_listen
from qosctl.supervisor.devices.follow import check_pattern
from qosctl.supervisor.devices.hooks import HookKind
from qosctl.supervisor.devices.interfaces import NAME_BYTES_MAX
from qosctl.supervisor.devices.policy_keywords import CONFIGURABLE, KEYWORDS
from qosctl.supervisor.supervise.toml_lines import line_of

T = TypeVar("T")

DEFAULT_PATH = Path("/etc/qosctl/qosctl.toml")
_BYTES_MAX = 1 << 16
_AT_LINE = re.compile(r"(.*) \(at line (\d+), column \d+\)", re.DOTALL)  # of tomllib's messages
_AT_END = " (at end of document)"


class ConfigError(UsageError):
    """The configuration makes no sense; the message begins with file and line."""


@dataclass(frozen=True)
class Config:
    """What shall be so. `passtos`, `policy`, `listen` and `follow` are None where the file says nothing of them.

    `interfaces` are names or patterns of fnmatch, in the file's order.
    """

    interfaces: tuple[str, ...] = ()
    hook: HookKind = HookKind.AUTO
    passtos: bool | None = None
    policy: Policy | None = None
    listen: Listen | None = None
    follow: tuple[str, ...] | None = None

    def wants(self, name: str) -> bool:
        """Whether the device of this name shall be attached."""
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.interfaces)


def load(path: Path) -> Config:
    """Read the file; ConfigError, also where there is none, or where others than its owner can change it."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise ConfigError(f"{path}: others than its owner can change it", f"chmod go-w {path}")
            raw = file.read(_BYTES_MAX + 1)
    except PermissionError as error:
        raise NoPermissionError(f"{path}: {error.strerror}", "run it as root") from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", f"ls -l {path}") from error
    if len(raw) > _BYTES_MAX:
        raise ConfigError(f"{path}: longer than {_BYTES_MAX} bytes")
    return parse(raw, str(path))


def parse(raw: bytes, source: str) -> Config:
    """Read the file's content. Raises ConfigError alone, which begins with `source` and a line."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{source}:{line}: not UTF-8") from None
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(_located(source, text, str(error))) from None
    except RecursionError:
        raise ConfigError(f"{source}: nested too deeply") from None
    reader = _Reader(text, source)
    top = reader.table((), table, ("interfaces", "hook", "passtos", "follow", "policy", "metrics"))
    return Config(
        interfaces=tuple(reader.read(("interfaces",), top, _interfaces, ())),
        hook=reader.read(("hook",), top, _hook, HookKind.AUTO),
        passtos=reader.read(("passtos",), top, _boolean, None),
        policy=_policy(reader, top),
        listen=_listen(reader, top),
        follow=reader.read(("follow",), top, _followed, None),
    )


@dataclass(frozen=True)
class _Reader:
    """Takes values out of tables, and says of what is wrong where it stands."""

    text: str
    source: str

    def table(self, path: tuple[str, ...], value: Any, known: Sequence[str]) -> Mapping[str, Any]:
        """Return `value` as a table with no keys but `known`."""
        if not isinstance(value, dict):
            raise self._error(path, f"{path[-1]} must be a table, not {_kind(value)}", f"[{path[-1]}]")
        for key in value:
            if key not in known:
                near = difflib.get_close_matches(key.lower(), known, 1, 0.5)
                where = f" in [{'.'.join(path)}]" if path else ""
                raise self._error((*path, key), f"unknown key {key!r}{where}", near[0] if near else ", ".join(known))
        return value

    def read(self, path: tuple[str, ...], table: Mapping[str, Any], convert: Callable[[Any], T], default: T) -> T:
        """Return the converted value of the last key of `path` in `table`; `convert` raises UsageError."""
        if path[-1] not in table:
            return default
        try:
            return convert(table[path[-1]])
        except UsageError as error:
            raise self._error(path, f"{path[-1]}: {error.message}", error.hint) from None

    def _error(self, path: Sequence[str], message: str, hint: str) -> QosctlError:
        line = line_of(self.text, path)
        return ConfigError(f"{self.source}{f':{line}' if line else ''}: {message}", hint)


def _policy(reader: _Reader, top: Mapping[str, Any]) -> Policy | None:
    if "policy" not in top:
        return None
    table = reader.table(("policy",), top["policy"], tuple(CONFIGURABLE))
    policy, chosen = Policy.identity(), ""
    for name, keyword in CONFIGURABLE.items():
        against = chosen if keyword.whole else ""
        policy = reader.read(("policy", name), table, functools.partial(_keyword, name, against, policy), policy)
        if keyword.whole and name in table:
            chosen = name
    return policy


def _listen(reader: _Reader, top: Mapping[str, Any]) -> Listen | None:
    if "metrics" not in top:
        return None
    table = reader.table(("metrics",), top["metrics"], ("listen", "names"))
    names = reader.read(("metrics", "names"), table, _names, parse_names([]))
    listen = reader.read(("metrics", "listen"), table, _address, None)
    return None if listen is None else dataclasses.replace(listen, names=names)


def _interfaces(value: Any) -> list[str]:
    names = _words(value)
    for name in names:
        plain = not any(c in name for c in "*?[")
        if not name or any(c.isspace() or c == "/" for c in name) or (plain and len(name) > NAME_BYTES_MAX):
            raise UsageError(f"{name!r} is no interface's name", '"eth0", or a pattern such as "wl*"')
    return names


def _followed(value: Any) -> tuple[str, ...]:
    patterns = tuple(_words(value))
    for pattern in patterns:
        check_pattern(pattern)
    if len(set(patterns)) > FOLLOW_PATTERNS:
        raise UsageError(f"no more than {FOLLOW_PATTERNS} names and patterns can be followed", 'a pattern, "vpns*" say')
    return patterns


def _hook(value: Any) -> HookKind:
    text = _string(value)
    try:
        return HookKind(text)
    except ValueError:
        known = [kind.value for kind in HookKind]
        near = difflib.get_close_matches(text.lower(), known, 1)
        raise UsageError(f"{text!r} is no hook", near[0] if near else ", ".join(known)) from None


def _address(value: Any) -> Listen:
    try:
        return parse_listen(_string(value))
    except UsageError as error:
        raise UsageError(error.message, f'listen = "{DEFAULT}"') from None


def _names(value: Any) -> frozenset[str]:
    return parse_names(_words(value))


def _keyword(name: str, against: str, before: Policy, value: Any) -> Policy:
    """Return what the keyword makes of `before`; `against`, if not empty, names one that has said all already."""
    if against:
        raise UsageError(f"does not go with {against}", "one of the two, and `set` for exceptions")
    keyword = KEYWORDS[name]
    if keyword.numbers:
        words = [str(_one_of(name, keyword.numbers, value))]
    else:
        words = _words(value) if keyword.words else _none(name, value)
    return keyword.change(words)(before)


def _none(name: str, value: Any) -> list[str]:
    if value is not True:
        raise UsageError(f"must be true, or not be there, not {_kind(value)}", f"{name} = true")
    return []


def _one_of(name: str, numbers: Sequence[int], value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value not in numbers:
        raise UsageError(f"{value!r} is not one of {', '.join(map(str, numbers))}", f"{name} = {numbers[0]}")
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"must be true or false, not {_kind(value)}", "true")
    return value


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise UsageError(f"must be a string, not {_kind(value)}", f'"{value}"')
    return value


def _words(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        hint = f'["{value}"]' if isinstance(value, str) else '["...", "..."]'
        raise UsageError(f"must be an array of strings, not {_kind(value)}", hint)
    return value


_KINDS: dict[type, str] = {
    bool: "a boolean", int: "an integer", float: "a float", str: "a string", list: "an array", dict: "a table",
}  # fmt: skip


def _kind(value: Any) -> str:
    if isinstance(value, list) and value:
        return f"an array with {_kind(next((item for item in value if not isinstance(item, str)), value[0]))}"
    return _KINDS.get(type(value), "a date or time")


def _located(source: str, text: str, message: str) -> str:
    """Put the line of tomllib's message where ours have it: "Invalid value (at line 1, column 11)"."""
    said = _AT_LINE.fullmatch(message)
    what, line = said.groups() if said else (message.removesuffix(_AT_END), str(max(1, len(text.splitlines()))))
    return f"{source}:{line}: {what[:1].lower()}{what[1:]}"
