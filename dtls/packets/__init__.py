"""An inner packet between the TUN device and the socket: its class, its place, its record. No I/O."""
