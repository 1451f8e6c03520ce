"""The client: one call that connects, carries packets until it is told to stop, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import time
from collections.abc import Callable

from qosctl.dtls.control import Control
from qosctl.dtls.establish import establish
from qosctl.dtls.gateway import Gateway
from qosctl.dtls.loop import Loop
from qosctl.dtls.marker import Marker
from qosctl.dtls.options import ConnectedInfo, ConnectOptions
from qosctl.dtls.record import RecordOpener, RecordSealer
from qosctl.dtls.session import IPV6_MTU_MIN
from qosctl.dtls.stop import Stop, StopRequestedError
from qosctl.dtls.tally import Statistics, Tally
from qosctl.dtls.tun import Tun
from qosctl.dtls.uplink import Uplink


def connect(
    options: ConnectOptions,
    stop: Stop,
    *,
    marker: Marker | None = None,
    on_connected: Callable[[ConnectedInfo], None] = lambda _: None,
    on_statistics: Callable[[Statistics], None] | None = None,
) -> Statistics:
    """Connect, and carry packets until `stop.request()` is called (from a signal handler, say) or the session ends.

    `on_connected` is called once, when the tunnel device is up and the flow is known to `marker`; without a marker, or
    where it cannot mark, the tunnel works unmarked. `on_statistics` is called about once a second as long as there is
    traffic, and must not block. Returns what was counted after a stop, which the server is told of.

    UsageError for options that make no sense, RefusedError when the server or the kernel refuses, NotAttachedError
    when the server cannot be reached or the session ends by other means than `stop`, NoPermissionError without
    CAP_NET_ADMIN. However it ends, the tunnel device, the flow's entry and the sockets are gone.
    """
    tally = Tally()
    with contextlib.ExitStack() as cleanup:
        try:
            made = establish(options, stop, cleanup)
        except StopRequestedError:
            return tally.snapshot({}, socket_full=0)
        keys = made.finished.keys
        sealer = RecordSealer(keys.cipher, keys.client_key, keys.client_iv)
        opener = RecordOpener(keys.cipher, keys.server_key, keys.server_iv)
        udp = made.udp
        outer = ipaddress.ip_address(udp.remote[0].partition("%")[0])
        mtu = made.session.tunnel_mtu(outer, sealer.overhead)
        addresses = tuple(each for each in made.session.addresses if each.version == 4 or mtu >= IPV6_MTU_MIN)
        tun = Tun.create(options.tunnel_name, mtu, addresses)
        cleanup.callback(tun.close)
        marks = None
        if marker is not None:
            cleanup.callback(marker.flow_closed)
            marks = marker.flow_opened(udp.local, udp.remote, tun.name)
        numbering = options.numbering(made.finished.first_number)
        uplink = Uplink(sealer, numbering, marks)

        def statistics() -> Statistics:
            return tally.snapshot(
                {
                    **{k: v for k, v in dataclasses.asdict(opener.counts).items() if k != "opened"},
                    "udp_lost": udp.counts.lost,
                    "tun_refused": tun.write_lost,
                },
                udp.counts.full,
            )

        name = str(Gateway.parse(options.url))
        control = Control(
            name=name,
            channel=made.channel,
            udp=udp,
            uplink=uplink,
            numbering=numbering,
            session=made.session,
            tally=tally,
            now=time.monotonic(),
        )
        loop = Loop(
            stop=stop,
            channel=made.channel,
            udp=udp,
            tun=tun,
            uplink=uplink,
            opener=opener,
            control=control,
            tally=tally,
            report=None if on_statistics is None else lambda: on_statistics(statistics()),
        )
        on_connected(
            ConnectedInfo(
                tunnel=tun.name,
                addresses=addresses,
                mtu=mtu,
                local=udp.local,
                remote=udp.remote,
                tls=made.channel.description,
                dtls=made.finished.suite,
                server=made.session.server,
                marked=marks is not None,
                statistics=statistics,
            )
        )
        loop.run(made.early_stream, made.early_datagrams)
        return statistics()
