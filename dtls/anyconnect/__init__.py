"""What the AnyConnect protocol says: login, CONNECT, frames. Bytes in, values out; no I/O."""
