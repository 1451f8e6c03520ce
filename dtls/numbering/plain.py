"""Which number a record gets, and the promise that no number is ever used twice.

A record number is one int, as on the wire: epoch << 48 | sequence number (RFC 6347 section 4.1). It is the nonce
of the record's AEAD, so a repeated number breaks the cipher; here that is an error before it is a record. One
object owns all numbers of a session's epoch. It does no I/O and reads no clock: `now` comes in, in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Protocol

from qosctl.bpf.dscp import Dscp
from qosctl.bpf.errors import RefusedError

EPOCH_SHIFT = 48
SEQUENCE_COUNT = 1 << EPOCH_SHIFT

WINDOW = 64
"""Numbers that a receiver is sure to remember (RFC 6347 section 4.1.2.6 recommends 64, ocserv has 64)."""

FIRST_EPOCH = 1
"""The epoch that the handshake's ChangeCipherSpec begins."""
FIRST_SEQUENCE = 16
"""Well above what the handshake may have used in its epoch: the Finished and its retransmissions."""
FIRST_NUMBER = FIRST_EPOCH << EPOCH_SHIFT | FIRST_SEQUENCE


class NumbersExhaustedError(RefusedError):
    """The epoch has no unused record number left; only a new handshake helps (RFC 6347 section 4.1)."""


class Numbering(Protocol):
    """Hands out record numbers: unique, in send order within a class."""

    @property
    def good_until(self) -> float:
        """Until when the numbers taken last may be sent; inf for as long as one likes. After that, take others."""
        ...

    def take(self, dscp: Dscp, count: int, now: float) -> Sequence[int]:
        """Return `count` unused record numbers for records of one class, in the order they are sent.

        `now` is a monotonic time in seconds. Raises NumbersExhaustedError rather than repeat a number or leave
        the epoch.
        """
        ...


def end_of_epoch(number: int) -> int:
    """Return the first number of the next epoch: the bound that numbers of this one stay below."""
    return ((number >> EPOCH_SHIFT) + 1) << EPOCH_SHIFT


def exhausted(limit: int) -> NumbersExhaustedError:
    """Make the error for an epoch that ends at `limit`."""
    return NumbersExhaustedError(
        f"all record numbers of epoch {(limit - 1) >> EPOCH_SHIFT} are used", "connect again for new keys"
    )


class PlainNumbering:
    """Consecutive numbers, whatever the class: what every other DTLS sender does."""

    good_until = inf

    def __init__(self, first: int = FIRST_NUMBER) -> None:
        self._next = first
        self._limit = end_of_epoch(first)

    def take(self, dscp: Dscp, count: int, now: float) -> range:  # noqa: ARG002  (the class makes no difference here)
        """Return the next `count` numbers; see Numbering.take."""
        start = self._next
        end = start + count
        if end > self._limit:
            raise exhausted(self._limit)
        self._next = end
        return range(start, end)

    @property
    def newest(self) -> int:
        """The highest number used, or what lies below the first."""
        return self._next - 1
