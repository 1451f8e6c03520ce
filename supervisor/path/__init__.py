"""Does the mark survive on the way to a host, and where does it die?

probe.py     sends one UDP datagram with a small TTL, waits for the router that complains
icmp_quote.py     bytes of an ICMP error to what a router received (total, no I/O)
traceroute.py     hop after hop, slowly enough for routers that limit their answers
verdict.py   what became of the mark, where, and by which of the known bad habits (no I/O)
"""
