"""The filters of a client, its helper and an exporter. On real ones: tests/system/test_system_calls.py."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence

import pytest
import seccomp
from qosctl.supervisor.process.system_calls import HELPERS, Given, clients, exporters, fill

LISTS = {"client": clients(os.getpid()), "exporter": exporters(os.getpid()), "helper": HELPERS}
GIVE_UP = """
import ctypes, errno, os, sys
import seccomp
from qosctl.supervisor.process.system_calls import HELPERS, clients, exporters, give_up

given = {"client": clients, "exporter": exporters, "helper": lambda pid: HELPERS}[sys.argv[1]](os.getpid())
give_up(given, foreign=sys.argv[1] == "helper")
libc = ctypes.CDLL(None, use_errno=True)
for each in given:
    if not each.comparison:
        result = libc.syscall(seccomp.resolve_syscall(seccomp.Arch.NATIVE, each.call), *[ctypes.c_long(-1)] * 6)
        assert (result, ctypes.get_errno()) == (-1, each.error), each
"""


@pytest.mark.parametrize("who", LISTS)
def test_each_call_fails(who: str) -> None:
    subprocess.run([sys.executable, "-c", GIVE_UP, who], check=True)


@pytest.mark.parametrize("architecture", ["X86_64", "AARCH64"])
@pytest.mark.parametrize("who", LISTS)
def test_every_processor_that_the_package_is_for_has_a_filter(who: str, architecture: str) -> None:
    said = written(LISTS[who], architecture, foreign=who == "helper")
    for call in ("ptrace", "perf_event_open", "bpf", *(("execve", "clone", "setns", "kill") if who != "helper" else ())):
        assert said.count(f'"{call}"') == (2 if who == "helper" else 1), call


def written(given: Sequence[Given], architecture: str, *, foreign: bool) -> str:
    """Return the filter for a processor, as libseccomp writes it for people."""
    rules = seccomp.SyscallFilter(seccomp.ALLOW)
    wanted = getattr(seccomp.Arch, architecture)
    if not rules.exist_arch(wanted):
        rules.add_arch(wanted)
        rules.remove_arch(seccomp.Arch.NATIVE)
    fill(rules, given, foreign=foreign)
    with tempfile.TemporaryFile("w+") as file:
        rules.export_pfc(file)
        file.seek(0)
        return file.read()


def test_the_upper_half_of_a_register_hides_nothing() -> None:
    """The kernel reads 32 bits of these arguments."""
    program = """
import ctypes, errno, os, socket
import seccomp
from qosctl.supervisor.process.system_calls import clients, give_up

give_up(clients(os.getpid()), foreign=False)
libc = ctypes.CDLL(None, use_errno=True)
calls = [("socket", 38, 5, 0), ("socket", 9, 5, 0), ("ioctl", 0, 0x5412, 0), ("kill", os.getppid(), 0), ("clone", 17, 0)]
for name, *words in calls:
    for place in range(2):
        odd = [word | (1 << 32 if at == place else 0) for at, word in enumerate(words)]
        number = seccomp.resolve_syscall(seccomp.Arch.NATIVE, name)
        assert libc.syscall(number, *map(ctypes.c_long, odd)) == -1, name
        assert ctypes.get_errno() == errno.EPERM, (name, odd)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("architecture", ["X86_64", "AARCH64"])
@pytest.mark.parametrize("who", LISTS)
def test_the_other_instruction_set_has_a_filter_too_or_no_calls(who: str, architecture: str) -> None:
    said = written(LISTS[who], architecture, foreign=who == "helper")
    assert said.count("# filter for arch ") == (2 if who == "helper" else 1)
    assert f"# invalid architecture action\naction ERRNO({errno.EPERM});" in said


BY_INT_0X80 = """
import ctypes, mmap, os, sys
from qosctl.supervisor.process.system_calls import HELPERS, clients, give_up

code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(bytes.fromhex("53 89f8 31db 31c9 31d2 31f6 cd80 5b c3"))  # push rbx; eax = edi; all arguments 0; int 0x80
begin = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
before = begin(20)
if sys.argv[1] == "client":
    give_up(clients(os.getpid()), foreign=False)
else:
    give_up(HELPERS, foreign=True)
print(before == os.getpid(), begin(20) == os.getpid(), begin(20), begin(26))
"""

# On 64-bit Arm no instruction makes a call of the 32-bit set, so there is nothing to try.
if os.uname().machine == "x86_64":

    def test_the_instruction_of_i386_is_no_way_round() -> None:
        """getpid by `int 0x80`: a client gets EPERM; a script an answer, but none to ptrace, which is 26 there."""
        said = [
            subprocess.run(
                [sys.executable, "-c", BY_INT_0X80, who], check=True, capture_output=True, text=True
            ).stdout.split()
            for who in ("client", "helper")
        ]
        assert said[0][1:] == ["False", str(-errno.EPERM), str(-errno.EPERM)]
        assert said[1][1] == said[1][0]  # a kernel without i386 has no answer before either
        assert int(said[1][3]) < 0
