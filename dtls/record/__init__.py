"""DTLS 1.2 (RFC 6347): handshake, keys, records sealed and opened. No sockets."""
