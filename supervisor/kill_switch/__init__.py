"""What belongs in the tunnel stays in it: policy routing that outlives the tunnel, its client and its routes.

For each IP version of which the server's routes put something inside, in this order (O, S, P and T are one tunnel's own):

    O      marked: lookup main, but not the way into TUN                     the tunnel's own packets; never in a circle
    O + 1  marked, to SERVER: unreachable
    O + 1  out of TUN, to its own ADDRESS: blackhole                         not on TUN yet, or no more: no ICMP error
    S      to SERVER: lookup T                                               all others' packets, whatever routes main has
    P      lookup main, but believe no route as short as what is inside     the machine's LAN and other routes of its own
    P + 1  lookup T:    default dev TUN        metric 2                      whatever is the default in main
                        throw EXCLUDED         metric 1                      on to the rules that follow
                        unreachable default    metric 4294967295             what is left when the device is gone
    F      from ADDRESS: lookup main, but believe no default route           answers to the machine's LANs
    F + 1  from ADDRESS: lookup T                                            answers to all others who use the tunnel
    F + 2n from ADDRESS: unreachable                                         what is left when the device is gone

The mark is on the sockets of the client (`dtls.outside`). Where the kernel drops what comes from SERVER because nothing
unmarked would go there by that device (a strict rp_filter), O holds for unmarked packets too, and S is left out.

(`default` stands for each network that the server names. Where it names some, T has a default route into TUN besides, of
which S and P + 1 believe nothing. Where they are of different lengths, P and P + 1 are for the shortest; before them
comes such a pair for each longer one, to that network alone. An ADDRESS that another device has too has none of its rules.)
The kernel takes the routes into TUN away with the device, however that ends, and `unreachable` remains. Nothing here is on
the way of a packet but the route lookup.

    plan      what there is to be, from what a session gives: no I/O
    kernel    makes it so, over rtnetlink; the state is there and nowhere else
    held      which process holds which table, and whose it was when that process is gone
    switch    one client's: hold, lift, leave
    blocked   what is held for nobody, for `qosctl unblock`, `status` and `doctor`

Numbers: tables FIRST_TABLE to FIRST_TABLE + SLOTS - 1; rules' preferences within PREFERENCES. Rules and routes are the
kernel's by their protocol (RTPROT_KERNEL): systemd-networkd removes whatever else it does not know.
"""
