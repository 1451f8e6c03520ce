"""The search for what a path takes, over made-up paths with loss and delay."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qosctl.dtls.session.path_mtu import CLOSE_ENOUGH, FLOOR_BYTES, PathMtu, Probe

CEILING = 1434


class Path:
    """Echoes probes of up to `takes` bytes after `delay_s`, and the small ones beside them."""

    def __init__(
        self, takes: int, *, loss: float = 0.0, small_loss: float = 0.0, delay_s: float = 0.02, seed: int = 0
    ) -> None:
        self.takes, self.loss, self.small_loss, self.delay_s = takes, loss, small_loss, delay_s
        self.now = 0.0
        self.mtu = PathMtu(CEILING, 0.0)
        self._chance = random.Random(seed)
        self._echoes: list[tuple[float, Probe, bool]] = []
        self.probes = 0

    def run(self, seconds: float, *, busy: bool = True) -> None:
        end = self.now + seconds
        while self.now < end:
            probe = self.mtu.due(self.now, last_tx=self.now if busy else -1e9)
            if probe is not None:
                self.probes += 1
                assert probe.size <= CEILING
                if probe.size <= self.takes and self._chance.random() >= self.loss:
                    self._echoes.append((self.now + self.delay_s, probe, False))
                if self._chance.random() >= self.small_loss:
                    self._echoes.append((self.now + self.delay_s, probe, True))
            for echo in [each for each in self._echoes if each[0] <= self.now]:
                self._echoes.remove(echo)
                _, back, small = echo
                if small:
                    self.mtu.small_echoed(back.id, self.now)
                else:
                    self.mtu.echoed(back.id, back.size, self.now)
            self.now += 0.01


def test_a_good_path_is_confirmed_and_left_alone() -> None:
    path = Path(CEILING)
    path.run(20)
    assert path.mtu.size == CEILING
    assert not path.mtu.shrunk
    assert path.probes < 8


@settings(max_examples=3 * settings().max_examples // 10)
@given(st.integers(FLOOR_BYTES, CEILING - 1), st.sampled_from([0.02, 0.3, 0.6]))
def test_a_black_hole_is_found_and_its_edge_too(takes: int, delay_s: float) -> None:
    path = Path(CEILING, delay_s=delay_s)
    path.run(2)
    path.takes = takes
    path.run(40)
    assert takes - 2 * CLOSE_ENOUGH <= path.mtu.size <= takes
    assert path.mtu.shrunk
    assert path.mtu.black_holes == 1


def test_a_path_that_recovers_is_used_again() -> None:
    path = Path(CEILING)
    path.run(2)
    assert path.mtu.whole
    path.takes = 1000
    path.run(30)
    assert not path.mtu.whole
    path.takes = CEILING
    path.run(70)
    assert path.mtu.whole
    assert path.mtu.size == CEILING
    assert not path.mtu.shrunk


@pytest.mark.parametrize("takes", [FLOOR_BYTES, 1200, 1300])
def test_a_hint_that_is_true_is_believed_when_probes_have_shown_it(takes: int) -> None:
    path = Path(CEILING)
    path.run(2)
    path.takes = takes
    path.mtu.hinted(takes, path.now)
    assert path.mtu.size == CEILING
    path.run(2)
    assert (path.mtu.size, path.mtu.shrunk, path.mtu.black_holes) == (takes, True, 0)


@pytest.mark.audit
@pytest.mark.parametrize("size", [-7, 0, 1, 552, 1280, CEILING, CEILING + 1, 70000])
def test_a_hint_that_is_a_lie_changes_nothing(size: int) -> None:
    """Finding 2: "too big" may come from anywhere, as often as somebody likes."""
    path = Path(CEILING)
    path.run(2)
    before = path.probes
    for _ in range(1000):
        path.mtu.hinted(size, path.now)
        path.run(0.01)
        assert (path.mtu.size, path.mtu.whole, path.mtu.shrunk) == (CEILING, True, False)
    assert path.probes - before < 40
    assert path.mtu.black_holes == 0


@pytest.mark.audit
@pytest.mark.parametrize("seed", range(5))
def test_a_lie_about_a_full_queue_changes_nothing(seed: int) -> None:
    """Finding 2, where large packets are lost more often than small ones."""
    path = Path(CEILING, loss=0.5, small_loss=0.4, seed=seed)
    for _ in range(20):
        path.mtu.hinted(1280, path.now)
        path.run(5)
        assert path.mtu.size == CEILING


@pytest.mark.parametrize("hint", [FLOOR_BYTES + 1, 900, CEILING])
def test_a_hint_that_is_wrong_does_not_end_the_search(hint: int) -> None:
    path = Path(CEILING)
    path.run(2)
    path.takes = 1200
    path.mtu.hinted(hint, path.now)
    path.run(20)
    assert 1200 - 2 * CLOSE_ENOUGH <= path.mtu.size <= 1200


def test_a_hint_is_looked_into_even_while_nothing_is_sent() -> None:
    path = Path(CEILING)
    path.mtu.hinted(1200, 0.0)
    path.run(2, busy=False)
    assert path.probes == 1


def test_an_idle_tunnel_is_not_probed() -> None:
    path = Path(CEILING)
    path.run(60, busy=False)
    assert path.probes == 0


@pytest.mark.parametrize("delay_s", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_a_full_queue_is_no_black_hole(delay_s: float, seed: int) -> None:
    """Bulk of twice the rate of its link: half of all packets are dropped, large ones rather than small ones."""
    path = Path(CEILING, loss=0.6, small_loss=0.4, delay_s=delay_s, seed=seed)
    path.run(120)
    assert (path.mtu.size, path.mtu.black_holes) == (CEILING, 0)


@pytest.mark.parametrize("seed", range(5))
def test_a_queue_that_has_room_for_small_ones_only_is_no_black_hole(seed: int) -> None:
    path = Path(CEILING, seed=seed)
    path.run(2)
    path.loss, path.delay_s = 0.95, 0.4
    path.run(120)
    assert (path.mtu.size, path.mtu.black_holes) == (CEILING, 0)


def test_silence_is_no_black_hole() -> None:
    mtu = PathMtu(CEILING, 0.0)
    now = 0.0
    while now < 60:
        mtu.due(now, last_tx=now)
        now += 0.05
    assert (mtu.size, mtu.black_holes) == (CEILING, 0)


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(64, 2000))))
def test_echoes_of_nobodys_probes_change_nothing(echoes: list[tuple[int, int]]) -> None:
    mtu = PathMtu(CEILING, 0.0)
    mtu.due(0.0, last_tx=0.0)
    for probe, size in echoes:
        mtu.echoed(probe, size, 0.0)
    assert mtu.size == CEILING


@pytest.mark.parametrize("ceiling", [100, FLOOR_BYTES, FLOOR_BYTES + 1, 16000])
def test_any_ceiling_works(ceiling: int) -> None:
    mtu = PathMtu(ceiling, 0.0)
    now = 0.0
    while now < 30:
        probe = mtu.due(now, last_tx=now)
        assert probe is None or probe.size <= ceiling
        now += 0.05
    assert min(FLOOR_BYTES, ceiling) <= mtu.size <= ceiling
