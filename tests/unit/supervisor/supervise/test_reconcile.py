"""From the configuration and the current state to actions: a table, and what holds whatever happens."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qosctl.dtls.backoff import KeyedBackoff
from qosctl.supervisor.devices.hooks import HookKind
from qosctl.supervisor.supervise.config import Config
from qosctl.supervisor.supervise.reconcile import (
    GONE_KEPT,
    GONE_KEPT_S,
    Action,
    ApplySettings,
    Attach,
    Attachment,
    Detach,
    DropPins,
    Follow,
    Link,
    Memory,
    Observed,
    Pinned,
    Reattach,
    plan,
)

TCX, CLSACT, AUTO = HookKind.TCX, HookKind.CLSACT, HookKind.AUTO
WANTS_ETH = Config(interfaces=("eth*",))
NOTHING = Pinned(None, intact=False)
THERE = Pinned(TCX, intact=True)


def so(names: dict[int, str], pinned: dict[int, Pinned], config: Config = WANTS_ETH, maps: int | None = 1) -> Observed:
    """The current state; links are Ethernet unless their name begins with `ethr` (raw)."""
    links = {i: Link(name, not name.startswith("ethr")) for i, name in names.items() if config.wants(name)}
    return Observed(names, links, pinned, maps)


def followed(*patterns: str) -> Observed:
    """Nothing is attached, and these are followed."""
    return Observed({}, {}, {}, 1, frozenset(patterns))


def known(index: int, name: str = "eth0", hook: HookKind = TCX) -> Memory:
    """A memory of having attached to it."""
    return Memory(current={index: Attachment(Link(name, True), hook)}, managed=frozenset({index}))


TABLE: dict[str, tuple[Config, Observed, Memory, list[Action]]] = {
    "all is as it shall be": (WANTS_ETH, so({7: "eth0"}, {7: THERE}), known(7), []),
    "what is followed as configured": (Config(follow=("vpns*",)), followed("vpns*", "by-hand"), Memory(), []),
    "something is to be followed": (
        Config(follow=("vpns*", "tun0")), followed("tun0"), Memory(), [Follow(("vpns*", "tun0"), ())]),
    "a configuration that says nothing of it, or that it is for others to say": (
        Config(), followed("tun0"), Memory(followed=frozenset({"tun0"})), []),
    "followed until now, and not in the configuration any more": (
        Config(follow=()), followed("tun0", "by-hand"), Memory(followed=frozenset({"tun0"})), [Follow((), ("tun0",))]),
    "a WireGuard device has come, and is followed by hand": (
        Config(), replace(followed("wg*"), unserved=frozenset({7})), Memory(), [Follow((), ())]),
    "a WireGuard device has come, and is followed as configured": (
        Config(follow=("wg*",)), replace(followed("wg*"), unserved=frozenset({7})), Memory(), [Follow(("wg*",), ())]),
    "nothing is wanted": (Config(), so({7: "eth0"}, {}, Config()), Memory(), []),
    "a wanted device": (WANTS_ETH, so({7: "eth0"}, {}), Memory(), [Attach(7, "eth0", AUTO, True)]),
    "one that was attached before this supervisor began may be of an older version": (
        WANTS_ETH, so({7: "eth0"}, {7: THERE}), Memory(), [Attach(7, "eth0", AUTO, True)]),
    "clsact deleted": (WANTS_ETH, so({7: "eth0"}, {7: NOTHING}), known(7, hook=CLSACT), [Reattach(7, "eth0", CLSACT)]),
    "another program in our place": (
        WANTS_ETH, so({7: "eth0"}, {7: Pinned(TCX, intact=False)}), known(7), [Reattach(7, "eth0", TCX)]),
    "made anew under its number, with another link type": (
        WANTS_ETH, so({7: "ethr"}, {7: NOTHING}), known(7, "ethr"), [Attach(7, "ethr", AUTO, False)]),
    "back under a new number": (
        WANTS_ETH, so({8: "eth0"}, {7: NOTHING}), known(7), [Attach(8, "eth0", AUTO, True)]),
    "renamed away from its pattern": (WANTS_ETH, so({7: "lan0"}, {7: THERE}), known(7), [Detach(7, "lan0")]),
    "renamed within its pattern": (WANTS_ETH, so({7: "eth9"}, {7: THERE}), known(7), []),
    "attached by hand": (WANTS_ETH, so({7: "lan0"}, {7: THERE}), Memory(), []),
    "another hook wanted": (
        replace(WANTS_ETH, hook=CLSACT), so({7: "eth0"}, {7: THERE}), known(7), [Attach(7, "eth0", CLSACT, True)]),
    "any hook will do": (WANTS_ETH, so({7: "eth0"}, {7: Pinned(CLSACT, True)}), known(7, hook=CLSACT), []),
    "settings at the start": (replace(WANTS_ETH, passtos=True), so({7: "eth0"}, {7: THERE}), known(7), [ApplySettings()]),
    "settings wait for the maps": (replace(WANTS_ETH, passtos=True), so({}, {}, maps=None), Memory(), []),
    "no settings": (WANTS_ETH, so({}, {}), Memory(), []),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_what_is_done(name: str) -> None:
    config, observed, memory, actions = TABLE[name]
    assert plan(config, observed, memory.after_look(observed, 0), 0) == actions


def test_settings_are_set_once_for_the_same_maps_and_configuration() -> None:
    config = replace(WANTS_ETH, passtos=True)
    observed = so({}, {}, maps=5)
    memory = Memory().after_settings(5, config)
    assert plan(config, observed, memory, 0) == [], "so that `qosctl passtos off` holds"
    assert plan(config, replace(observed, maps=6), memory, 0) == [ApplySettings()], "maps made anew know nothing"
    assert plan(replace(config, passtos=False), observed, memory, 0) == [ApplySettings()]
    assert plan(config, observed, memory.after_reload(), 0) == [ApplySettings()]


def test_the_counters_of_a_deleted_device_stay_for_a_while() -> None:
    observed = so({}, {7: NOTHING})
    memory = known(7).after_look(observed, 100)
    assert plan(WANTS_ETH, observed, memory, 100 + GONE_KEPT_S) == []
    assert plan(WANTS_ETH, observed, memory, 101 + GONE_KEPT_S) == [DropPins(7)]


def test_only_so_many_deleted_devices_are_kept_and_the_oldest_go_first() -> None:
    memory = Memory()
    for n in range(GONE_KEPT + 2):
        memory = memory.after_look(so({}, {100 - i: NOTHING for i in range(n + 1)}), n)
    observed = so({}, {100 - i: NOTHING for i in range(GONE_KEPT + 2)})
    assert plan(WANTS_ETH, observed, memory, GONE_KEPT + 2) == [DropPins(100), DropPins(99)]


PINNED = st.builds(Pinned, st.sampled_from([None, TCX, CLSACT]), st.booleans())
NAMES = st.dictionaries(st.integers(1, 6), st.sampled_from(["eth0", "eth1", "ethr", "lan0"]), max_size=4)
OBSERVED = st.builds(so, NAMES, st.dictionaries(st.integers(1, 6), PINNED, max_size=4))
CONFIGS = st.builds(replace, st.just(WANTS_ETH), hook=st.sampled_from([AUTO, TCX, CLSACT]))


def carried_out(observed: Observed, memory: Memory, actions: list[Action], config: Config) -> tuple[Observed, Memory]:
    """The current state after all of them went well."""
    pinned = dict(observed.pinned)
    for action in actions:
        match action:
            case Attach(index, _, hook, _):
                hook = TCX if hook is AUTO else hook
                pinned[index] = Pinned(hook, intact=True)
                memory = memory.after_attach(action, hook)
            case Reattach(index, _, hook):
                pinned[index] = Pinned(hook, intact=True)
            case Detach(index) | DropPins(index):
                del pinned[index]
            case ApplySettings():
                memory = memory.after_settings(observed.maps or 1, config)
    return replace(observed, pinned=pinned), memory


@given(st.lists(OBSERVED, min_size=1, max_size=5), CONFIGS)
def test_whatever_happened_one_round_is_enough_and_then_there_is_peace(history: list[Observed], config: Config) -> None:
    memory = Memory()
    for now, seen in enumerate(history):
        memory = memory.after_look(seen, now)
        actions = plan(config, seen, memory, now)
        assert not {a.index for a in actions if isinstance(a, Detach)} & set(seen.links), "a wanted device stays"
        observed, memory = carried_out(seen, memory, actions, config)
        memory = memory.after_look(observed, now)
        assert plan(config, observed, memory, now) == []
        assert all(observed.pinned[index].hook is not None for index in observed.links)


def test_the_pace() -> None:
    pace = KeyedBackoff(free=2, first_s=1, longest_s=4, calm_s=30)
    waits, now = [], 100.0
    for _ in range(7):
        waits.append(pace.due("eth0", now) - now)
        now = pace.due("eth0", now)
        pace.tried("eth0", now)
    assert waits == [0, 0, 1, 2, 4, 4, 4]
    assert pace.due("eth1", now) == now
    now += 31
    pace.tried("eth1", now)
    assert pace.due("eth0", now) == now, "calm again"


def test_what_was_followed_as_configured_is_known_after_a_reload() -> None:
    """Then it is given up when it is configured no more; what was followed by hand stays."""
    before = Memory().with_followed(Config(follow=("tun0",)), followed("tun0", "by-hand"))
    after = before.with_followed(Config(follow=()), followed("tun0", "by-hand"))
    assert plan(Config(follow=()), followed("tun0", "by-hand"), after, 0) == [Follow((), ("tun0",))]
    assert after.with_followed(Config(follow=()), followed("by-hand")).followed == frozenset()
