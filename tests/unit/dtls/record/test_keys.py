import pytest
from qosctl.bpf.errors import RefusedError
from qosctl.dtls.record.keys import Cipher, derive_keys, prf

# Test vectors that circulated with the TLS 1.2 drafts: (hash, secret, seed, output), label "test label".
PRF_VECTORS = [
    (
        "sha256",
        "9bbe436ba940f017b17652849a71db35",
        "a0ba9f936cda311827a6f796ffd5198c",
        "e3f229ba727be17b8d122620557cd453c2aab21d07c3d495329b52d4e61edb5a6b301791e90d35c9c9a46b4e14baf9af"
        "0fa022f7077def17abfd3797c0564bab4fbc91666e9def9b97fce34f796789baa48082d122ee42c5a72e5a5110fff701"
        "87347b66",
    ),
    (
        "sha384",
        "b80b733d6ceefcdc71566ea48e5567df",
        "cd665cf6a8447dd6ff8b27555edb7465",
        "7b0c18e9ced410ed1804f2cfa34a336a1c14dffb4900bb5fd7942107e81c83cde9ca0faa60be9fe34f82b1233c9146a0"
        "e534cb400fed2700884f9dc236f80edd8bfa961144c9e8d792eca722a7b32fc3d416d473ebc2c5fd4abfdad05d918425"
        "9b5bf8cd4d90fa0d31e2dec479e4f1a26066f2eea9a69236a3e52655c9e9aee691c8f3a26854308d5eaa3be85e099070"
        "3d73e56f",
    ),
]
SUITES = {
    "PSK-AES128-GCM-SHA256": Cipher.AES_128_GCM,
    "PSK-AES256-GCM-SHA384": Cipher.AES_256_GCM,
    "PSK-CHACHA20-POLY1305": Cipher.CHACHA20_POLY1305,
    "ECDHE-PSK-CHACHA20-POLY1305": Cipher.CHACHA20_POLY1305,
    "AES128-GCM-SHA256": Cipher.AES_128_GCM,
}


@pytest.mark.parametrize(("hash_name", "secret", "seed", "output"), PRF_VECTORS)
def test_the_prf_gives_the_published_output_at_every_length(hash_name: str, secret: str, seed: str, output: str) -> None:
    expected = bytes.fromhex(output)
    for size in range(len(expected) + 1):
        made = prf(hash_name, bytes.fromhex(secret), b"test label", bytes.fromhex(seed), size)
        assert made == expected[:size]


@pytest.mark.parametrize(("suite", "cipher"), SUITES.items())
def test_openssl_suite_names_give_their_cipher(suite: str, cipher: Cipher) -> None:
    assert Cipher.from_suite(suite) is cipher


@pytest.mark.parametrize("suite", ["PSK-AES256-CBC-SHA384", "PSK-AES128-CCM8", "", "XAES128-GCM-SHA256", "GCM"])
def test_another_suite_is_refused_by_name(suite: str) -> None:
    with pytest.raises(RefusedError) as caught:
        Cipher.from_suite(suite)
    assert repr(suite) in caught.value.message


@pytest.mark.parametrize("cipher", Cipher)
def test_the_key_block_is_cut_without_gap_or_overlap(cipher: Cipher) -> None:
    master, client, server = b"m" * 48, b"c" * 32, b"s" * 32
    keys = derive_keys(cipher, master, client, server)
    parts = keys.client_key + keys.server_key + keys.client_iv + keys.server_iv
    assert parts == prf(
        cipher.prf_hash, master, b"key expansion", server + client, 2 * (cipher.key_bytes + cipher.iv_bytes)
    )
    assert (len(keys.client_key), len(keys.client_iv)) == (cipher.key_bytes, cipher.iv_bytes)
    assert (len(keys.server_key), len(keys.server_iv)) == (cipher.key_bytes, cipher.iv_bytes)


def test_keys_are_not_shown() -> None:
    keys = derive_keys(Cipher.AES_256_GCM, bytes(range(48)), b"c" * 32, b"s" * 32)
    shown = repr(keys)
    assert repr(keys.client_key)[2:10] not in shown
    assert keys.client_key.hex()[:8] not in shown


@pytest.mark.parametrize(("master", "client", "server"), [(47, 32, 32), (0, 32, 32), (48, 31, 32), (48, 32, 33)])
def test_secrets_of_another_size_are_no_keys(master: int, client: int, server: int) -> None:
    with pytest.raises(ValueError, match="bytes"):
        derive_keys(Cipher.AES_128_GCM, bytes(master), bytes(client), bytes(server))
