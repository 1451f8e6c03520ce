"""For how long one set of keys is used. No I/O, no clock.

A server may ask for new keys after two days (ocserv as shipped), or never. By then one AES-GCM key could have sealed 2^33
records, where RFC 8446 section 5.5 and RFC 9147 section 4.5.3 advise 2^24.5 of full length, so that what an observer gains
by comparing ciphertexts stays below 2^-57. So we ask first.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class KeyLife:
    """The bounds of one set of keys.

    `records` of either direction: 2^24 leaves room for what is not counted (probes, answers) and for some attempts that
    fail. `seconds` of a DTLS channel, an hour as IPsec daemons have it: what a stolen key opens is an hour's.
    """

    records: int = 1 << 24
    seconds: float = 3600.0


KEY_LIFE = KeyLife()
