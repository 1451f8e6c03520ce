"""A laboratory of network namespaces for tests, the demo and the bench.

    +--------+ eth0            toclient +--------+ toserver           eth0 +--------+
    | client |--------------------------| router |-------------------------| server |
    +--------+ 10.91.1.2     10.91.1.1  +--------+ 10.91.2.1     10.91.2.2 +--------+
               fd91:1::2     fd91:1::1             fd91:2::1     fd91:2::2

Each piece is a context manager and stands alone: `Namespace`, `veth`, `Topology`, `Ocserv`, `Capture`, `Tap`, `Bottleneck`,
`TwoWays`, the command under test as `Qosctl`, and the loads `call`, `bulk_udp`, `bulk_bursts`, `bulk_tcp`.

Nothing outlives the process that built it, however it ends: `enter_sandbox` moves the process into a mount
namespace of its own, where the names in /run/netns and the pins in /sys/fs/bpf live, and every process started in a
namespace is asked to stop by the kernel when its parent dies. Leaving the context managers merely does the same
sooner and in order.
"""

from tests.lab.bottleneck import Bottleneck
from tests.lab.capture import Capture, Frame
from tests.lab.load import BulkResult, CallResult, Load, bulk_bursts, bulk_tcp, bulk_udp, call
from tests.lab.namespace import LabError, Namespace, end, veth
from tests.lab.ocserv import Ocserv
from tests.lab.qosctl import Connection, Qosctl
from tests.lab.sandbox import enter_sandbox, unwind_on_signals
from tests.lab.tap import Tap, TappedRecord
from tests.lab.topology import Topology
from tests.lab.two_ways import TwoWays

__all__ = [
    "Bottleneck",
    "BulkResult",
    "CallResult",
    "Capture",
    "Connection",
    "Frame",
    "LabError",
    "Load",
    "Namespace",
    "Ocserv",
    "Qosctl",
    "Tap",
    "TappedRecord",
    "Topology",
    "TwoWays",
    "bulk_bursts",
    "bulk_tcp",
    "bulk_udp",
    "call",
    "end",
    "enter_sandbox",
    "unwind_on_signals",
    "veth",
]
