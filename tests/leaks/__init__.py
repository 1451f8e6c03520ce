"""Each row of docs/faults.md with everything inside, IPv4 and IPv6, and a tap on the wire for what leaves by another way.

clients     qosctl and openconnect, as a person starts them: with vpnc-script, and all routes into the tunnel
stage       a laboratory of its own for each fault: client, router, server, steady traffic, the tap
faults      what happens, by the names of the rows
__main__    both clients through all of it, into docs/leaks.md
"""
