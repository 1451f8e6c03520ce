"""Record keys out of a finished handshake: the TLS 1.2 pseudo-random function and how its output is cut.

The key block of an AEAD suite holds no MAC keys (RFC 5246 6.3, RFC 5288 3, RFC 7905 2):

    | client key | server key | client IV | server IV |

DTLS 1.2 shares all of this with TLS 1.2 (RFC 6347 4.1.2). No I/O here, and nothing here prints a secret.
"""

from __future__ import annotations

import enum
import hmac
from dataclasses import dataclass

from qosctl.bpf.errors import RefusedError

MASTER_SECRET_BYTES = 48
RANDOM_BYTES = 32


class Cipher(enum.Enum):
    """The record ciphers we seal with: (end of OpenSSL's suite name, key bytes, IV bytes, hash of the PRF)."""

    AES_128_GCM = ("AES128-GCM-SHA256", 16, 4, "sha256")
    AES_256_GCM = ("AES256-GCM-SHA384", 32, 4, "sha384")
    CHACHA20_POLY1305 = ("CHACHA20-POLY1305", 32, 12, "sha256")

    def __init__(self, suite_ending: str, key_bytes: int, iv_bytes: int, prf_hash: str) -> None:
        self.suite_ending = suite_ending
        self.key_bytes = key_bytes
        self.iv_bytes = iv_bytes
        self.prf_hash = prf_hash

    @classmethod
    def from_suite(cls, name: str) -> Cipher:
        """Return the cipher of OpenSSL's suite `name`, e.g. "PSK-AES256-GCM-SHA384"; RefusedError for any other."""
        for cipher in cls:
            if name == cipher.suite_ending or name.endswith(f"-{cipher.suite_ending}"):
                return cipher
        raise RefusedError(
            f"the server chose the cipher suite {name!r}, which qosctl cannot seal",
            "allow AES-GCM or ChaCha20-Poly1305 on the server",
        )


@dataclass(frozen=True, repr=False)
class RecordKeys:
    """Keys and IVs of both directions; `iv` is the implicit part of the nonce. Deliberately without a repr."""

    cipher: Cipher
    client_key: bytes
    client_iv: bytes
    server_key: bytes
    server_iv: bytes


def derive_keys(cipher: Cipher, master_secret: bytes, client_random: bytes, server_random: bytes) -> RecordKeys:
    """Cut the key block for `cipher` (RFC 5246 6.3).

    `master_secret` is 48 bytes, the randoms 32 each; ValueError for other sizes, since a short secret would give
    keys that look as good as any.
    """
    if len(master_secret) != MASTER_SECRET_BYTES:
        raise ValueError(f"a master secret has {MASTER_SECRET_BYTES} bytes, not {len(master_secret)}")
    if len(client_random) != RANDOM_BYTES or len(server_random) != RANDOM_BYTES:
        raise ValueError(f"client and server randoms have {RANDOM_BYTES} bytes each")
    key, iv = cipher.key_bytes, cipher.iv_bytes
    # The server's random goes first here, and second where the master secret is made.
    block = prf(cipher.prf_hash, master_secret, b"key expansion", server_random + client_random, 2 * (key + iv))
    ivs = block[2 * key :]
    return RecordKeys(
        cipher=cipher,
        client_key=block[:key],
        server_key=block[key : 2 * key],
        client_iv=ivs[:iv],
        server_iv=ivs[iv:],
    )


def prf(hash_name: str, secret: bytes, label: bytes, seed: bytes, size: int) -> bytes:
    """Return `size` bytes of PRF(secret, label, seed), the P_hash construction of RFC 5246 section 5."""
    label_and_seed = label + seed
    chain = label_and_seed
    output = b""
    while len(output) < size:
        chain = hmac.digest(secret, chain, hash_name)
        output += hmac.digest(secret, chain + label_and_seed, hash_name)
    return output[:size]
