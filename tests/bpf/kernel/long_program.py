"""A program that runs for some ten milliseconds, and a policy change in its middle: run by test_grace.py, in a child.

It says 1 when it begins and 1 when it ends, in memory that we see. Prints how often it was caught in its middle, and how
often it had ended when the policy change returned. membarrier(2) is refused, as on a kernel with nohz_full=.
"""

from __future__ import annotations

import errno
import mmap
import os
import sysconfig
import threading
from importlib import resources

from bcc import BPF
from qosctl.bpf.kernel import syscall
from qosctl.bpf.maps.namespace_maps import CONTROL_SHAPE, POLICY_SHAPE
from qosctl.bpf.maps.policy import Policy, PolicyTable
from qosctl.bpf.maps.switch import Control

from tests.lab.refusing import refuse

CAUGHT, TRIES = 3, 200
_BEGUN, _ENDED = 0, 1

_SOURCE = """
struct words { u64 begun, ended; };
struct page { u8 bytes[1 << 18]; };
BPF_F_TABLE("array", u32, struct words, said, 1, BPF_F_MMAPABLE);
BPF_ARRAY(pages, struct page, 2);

int run(struct __sk_buff *packet)
{
    u32 first = 0, second = 1;
    struct words *words = said.lookup(&first);
    struct page *page = pages.lookup(&first);
    if (!words || !page)
        return 0;
    words->begun = 1;
    for (int i = 0; i < 4000; i++)
        pages.update(&second, page);
    words->ended = 1;
    return 0;
}
"""


def main() -> None:
    """Try until the program was caught CAUGHT times."""
    os.environ["BCC_KERNEL_SOURCE"] = str(resources.files("qosctl.bpf") / "program")  # as bcc.py does
    headers = ["-I/usr/include", f"-I/usr/include/{sysconfig.get_config_var('MULTIARCH')}"]
    module = BPF(text=_SOURCE, cflags=headers)
    program = module.load_func(b"run", BPF.SCHED_CLS).fd
    said = memoryview(mmap.mmap(module[b"said"].map_fd, mmap.PAGESIZE)).cast("Q")
    control = Control(syscall.map_create(CONTROL_SHAPE, "control"))
    table = PolicyTable(syscall.map_create(POLICY_SHAPE, "policy"), control)
    refuse("membarrier", errno.EINVAL)
    caught = ended = tries = 0
    while caught < CAUGHT and tries < TRIES:
        tries += 1
        said[_BEGUN] = said[_ENDED] = 0
        thread = threading.Thread(target=syscall.program_test_run, args=(program, bytes(64)))
        thread.start()
        while not said[_BEGUN] and thread.is_alive():
            pass
        in_its_middle = not said[_ENDED]
        table.write(Policy.identity())
        if in_its_middle:
            caught += 1
            ended += said[_ENDED]
        thread.join()
    print(caught, ended)


if __name__ == "__main__":
    main()
