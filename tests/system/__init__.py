"""The whole of qosctl on real parts: namespaces, a TUN device, a real server, and what is seen on the outer wire.

`line` builds it, `inside` sends through the tunnel, `wiretap` reads the outer wire with the server's keys, and
`traces` says what a command left behind.
"""
