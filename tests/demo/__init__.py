"""`make demo`: from nothing to stamped packets, on the terminal, with every figure taken from a wire.

stage     the namespaces, the server, qosctl attached and connected, the capture on the outer wire
probe     inner packets whose length says what they were, and what became of them outside
switch    the moment of switching off, under traffic
uplink    a call beside bulk through a slow uplink
watch     what the command and the metrics endpoint say of it
terminal  how it is told
"""
