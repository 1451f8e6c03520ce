"""A short run of the parsers' fuzzer; `python -m tests.fuzz.parsers` is the long one."""

import pytest

from tests.fuzz.parsers import TARGETS, BrokenPromiseError, fuzz

INPUTS = 100_000


def test_parsers_give_values_or_declared_errors() -> None:
    taken = fuzz(20261123, INPUTS)
    # Were nothing understood any more, mutations would only test the first line of each parser.
    assert all(taken[name] > INPUTS / len(TARGETS) / 100 for name in TARGETS), taken


def test_the_fuzzer_sees_a_parser_that_breaks_its_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.parsers.decode_dtls", lambda data: data[3])
    with pytest.raises(BrokenPromiseError, match=r"^dtls, seed 1, input \d+: .*IndexError"):
        fuzz(1, 5_000)
