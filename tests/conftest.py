"""Tests run in a sandbox: their namespaces and BPF pins are not the machine's (see tests.lab.sandbox).

Without root the pure tests still run; those that need the kernel fail and say why.
"""

import os
import signal

from tests.lab.sandbox import enter_sandbox, unwind_on_signals

# Run under nohup, all clients of the tests would keep to it and not end by SIGHUP.
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
unwind_on_signals()
if os.geteuid() == 0:
    enter_sandbox()
