"""The words of the page behind a ring's marks, in which a client says how it fares: statistics, and its cipher's name.

The kernel never reads this page. One 64-bit word a statistic; words only grow, or are set as a whole, so a reader needs no
lock. Behind them the name of the cipher suite, what each class has carried (by_dscp.py), and the page's last words,
for requests to the client (rtt_request.py). New words go where there is room: 0 must mean that there is nothing to say,
since older clients leave it there.

A client that was taken over can store anything here. It is shown, and nothing is decided by it: whose a flow is, and
whether its owner lives, is kept where only the privileged write (flow_pins.py).
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence

from qosctl.bpf.abi import WORD
from qosctl.bpf.flow_page.statistics import Statistic
from qosctl.bpf.printable import one_line

_STATISTICS_AT = 16  # words; those before are unused
_SUITE_AT, _SUITE_BYTES = 119, 64  # words, and up to by_dscp.CLASSES_WORD
STATISTICS_MAX = _SUITE_AT - _STATISTICS_AT
_STATISTICS_WORDS = struct.Struct(f"={len(Statistic)}Q")


def statistics_of(info: bytes | memoryview) -> Sequence[int]:
    """Read all statistics of a flow: by Statistic, which is an index."""
    return _STATISTICS_WORDS.unpack_from(info, _STATISTICS_AT * WORD.size)


def statistics_in(page: memoryview) -> memoryview:
    """Return the words that the owner stores its statistics in: view[Statistic.X] = value. `page` is given as words."""
    return page[_STATISTICS_AT:]


def page_words(info: memoryview) -> memoryview:
    """Return all words of a flow's page (a byte view): statistics_in, write_suite and write_classes take them."""
    return info.cast("Q")


def write_suite(page: memoryview, suite: str) -> None:
    """Store the name of the cipher suite, up to 64 bytes of it."""
    raw = suite.encode()[:_SUITE_BYTES].ljust(_SUITE_BYTES, b"\0")
    for at, (word,) in enumerate(WORD.iter_unpack(raw), _SUITE_AT):
        page[at] = word


def suite_in(info: bytes | memoryview) -> str:
    """Read back what write_suite stored, fit to be shown. Never raises, whatever is there."""
    start = _SUITE_AT * WORD.size
    return _suite(bytes(info[start : start + _SUITE_BYTES]))


@functools.lru_cache(maxsize=64)
def _suite(raw: bytes) -> str:
    """Take the bytes apart: there are few suites, and many flows that have one."""
    return _text(raw)


def _text(raw: bytes) -> str:
    """Read a client's words. Any bytes may be in them."""
    return one_line(raw.split(b"\0", 1)[0].decode("utf-8", "replace"))
