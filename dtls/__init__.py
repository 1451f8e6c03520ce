"""The DTLS client: AnyConnect tunnels whose records carry their class in the ring."""
