"""The program and its reference agree: on the table, on what hypothesis thinks of, and on a stretch of the fuzzer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qosctl.bpf.abi import mark_word
from qosctl.bpf.dscp import EF, Dscp
from qosctl.bpf.load.bcc import BccLoader
from qosctl.bpf.outcome import Outcome

from tests.bpf.program.differential import Context, Differential, DisagreementError, on_one_cpu
from tests.bpf.program.reference import expect
from tests.bpf.program.table import ETHERNET_SHAPES, LEFT_ALONE, NUMBER, SHAPES, Left, Shape
from tests.fuzz.run import crowd, fuzz
from tests.lab.program import changed_sources, kernel

SEED = 20260131
BASES = [(shape(0xB9), shape in ETHERNET_SHAPES.values()) for shape in SHAPES.values()] + [
    (left.packet, left.ethernet) for left in LEFT_ALONE.values()
]


@pytest.fixture(scope="module")
def world() -> Iterator[Differential]:
    with on_one_cpu() as cpu, kernel() as loaded, Differential(loaded, cpu, [*crowd()]) as world:
        yield world


@pytest.fixture
def marked(world: Differential) -> Differential:
    for ring in (0, 1):
        world.set_word(ring, NUMBER, mark_word(NUMBER, EF))
    world.set_policy(IDENTITY)
    world.set_control(passtos=True, bank=0)
    return world


@pytest.mark.parametrize("case", LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_the_reference_leaves_alone_what_the_table_says(marked: Differential, case: Left) -> None:
    """Without the kernel: what the specification says of the reference itself."""
    expected = expect(case.packet, marked.maps, ethernet=case.ethernet, priority=3)
    assert (expected.outcome, expected.packet, expected.priority) == (case.outcome, case.packet, 3)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_reference_stamps_what_the_table_says(marked: Differential, shape: Shape) -> None:
    expected = expect(shape(0x02), marked.maps, ethernet=shape in ETHERNET_SHAPES.values())
    assert (expected.outcome, expected.packet, expected.outer) == (Outcome.STAMPED, shape(0xBA), EF.value)


@pytest.mark.parametrize(("packet", "ethernet"), BASES)
def test_the_program_agrees_on_the_table_cut_anywhere(marked: Differential, packet: bytes, ethernet: bool) -> None:
    for size in range(14, min(len(packet), 200) + 1):
        marked.check(packet[:size], ethernet=ethernet)


@pytest.mark.parametrize(("packet", "ethernet"), BASES)
def test_the_program_agrees_on_the_table_with_any_byte_changed(marked: Differential, packet: bytes, ethernet: bool) -> None:
    for at in range(min(len(packet), 100)):
        for value in (0x00, 0xFF, packet[at] ^ 0x01, packet[at] ^ 0x80, packet[at] + 1 & 0xFF):
            marked.check(packet[:at] + bytes([value]) + packet[at + 1 :], ethernet=ethernet)


IDENTITY = [(1, n % 64, 0, 0) for n in range(128)]
rules = st.tuples(st.sampled_from([0, 1, 1, 2, 255]), st.integers(0, 255), st.integers(0, 2), st.integers(0, 2**32 - 1))
contexts = st.builds(
    Context,
    gso_size=st.sampled_from([0, 0, 0, 1, 12, 13, 36, 37, 38, 1400]),
    gso_segs=st.integers(0, 100),
    wire_len=st.sampled_from([0, 0, 40_000]),
    priority=st.integers(0, 2**32 - 1),
)
words = st.one_of(st.integers(0, 63).map(lambda value: mark_word(NUMBER, Dscp.of(value))), st.integers(0, 2**64 - 1))
edits = st.lists(st.tuples(st.integers(0, 120), st.binary(min_size=0, max_size=4)), max_size=4)


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    base=st.sampled_from(BASES),
    edits=edits,
    tail=st.binary(max_size=20),
    cut=st.integers(0, 30),
    context=contexts,
    passtos=st.sampled_from([True, True, True, False]),
    bank=st.integers(0, 3),
    words=st.tuples(words, words),
    policy=st.dictionaries(st.integers(0, 63), rules, max_size=3),
)
def test_the_program_agrees_on_what_hypothesis_thinks_of(  # noqa: PLR0917 - given by name
    world: Differential,
    base: tuple[bytes, bool],
    edits: list[tuple[int, bytes]],
    tail: bytes,
    cut: int,
    context: Context,
    passtos: bool,
    bank: int,
    words: tuple[int, int],
    policy: dict[int, tuple[int, int, int, int]],
) -> None:
    packet, ethernet = bytearray(base[0]), base[1]
    for at, data in edits:
        packet[at : at + len(data)] = data
    whole = bytes(packet[: max(14, len(packet) - cut)] + tail)
    world.set_policy([policy.get(n, entry) for n, entry in enumerate(IDENTITY)])
    world.set_control(passtos=passtos, bank=bank)
    for ring, word in enumerate(words):
        world.set_word(ring, NUMBER, word)
    world.check(whole, ethernet=ethernet, context=context)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(packet=st.binary(min_size=14, max_size=200), ethernet=st.booleans(), context=contexts)
def test_the_program_agrees_on_noise(marked: Differential, packet: bytes, ethernet: bool, context: Context) -> None:
    marked.check(packet, ethernet=ethernet, context=context)


def test_the_program_agrees_on_a_stretch_of_the_fuzzer(world: Differential) -> None:
    fuzz(world, SEED, 100_000)
    unreached = {outcome for outcome, count in world.ran.items() if count == 0}
    of_other_programs = {Outcome.UNMATCHED, Outcome.AMBIGUOUS}  # only where something is followed: test_follow.py
    assert unreached == {Outcome.WRITE_FAILED, *of_other_programs}


MUTANTS = {
    "the_ecn_is_not_kept": ("dscp.h", "#define ECN_MASK 0x03", "#define ECN_MASK 0x01"),
    "the_checksum_loses_a_carry": ("stamp.h", "\tsum = (sum & 0xffff) + (sum >> 16);\n\treturn", "\treturn"),
    "the_flow_label_is_touched": ("stamp.h", "word & 0xf00f", "word & 0xf007"),
    "half_the_number_is_compared": (
        "parse.h",
        "*number = __be64_to_cpu(record->number)",
        "*number = (__u32)__be64_to_cpu(record->number)",
    ),
    "one_extension_header_too_many": ("parse.h", "#define EXTENSIONS_MAX 6", "#define EXTENSIONS_MAX 7"),
    "a_last_fragment_is_no_fragment": ("parse.h", "IPV4_MORE_FRAGMENTS | IPV4_FRAGMENT_OFFSET", "IPV4_MORE_FRAGMENTS"),
    "a_udp_length_may_lie": ("parse.h", "at->udp + at->length > at->end", "0"),
    "the_other_policy_bank": ("maps.h", "(bank & (POLICY_BANKS - 1))", "(~bank & (POLICY_BANKS - 1))"),
    "an_empty_word_is_a_mark": ("mark.h", "!word || ", ""),
    "a_search_ends_too_soon": ("flow_table.h", "at = (home + probe)", "at = (home + probe / 2)"),
    "a_batch_counts_once": ("mark.h", "outcomes[result] += segments", "outcomes[result] += 1"),
}


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_a_program_that_is_wrong_is_found(mutant: tuple[str, str, str]) -> None:
    """The fuzzer itself must be able to see a mistake."""
    file, right, wrong = mutant
    with changed_sources() as folder:
        source = (folder / file).read_text()
        assert source.count(right) == 1
        (folder / file).write_text(source.replace(right, wrong))
        with (
            on_one_cpu() as cpu,
            kernel(BccLoader(folder)) as broken,
            Differential(broken, cpu, [*crowd()]) as world,
            pytest.raises(DisagreementError),
        ):
            fuzz(world, SEED, 200_000)
