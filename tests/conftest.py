"""Tests run in a sandbox: their namespaces and BPF pins are not the machine's (see tests.lab.sandbox).

Without root the pure tests still run; those that need the kernel fail and say why.
"""

import os

from tests.lab.sandbox import enter_sandbox, unwind_on_signals

unwind_on_signals()
if os.geteuid() == 0:
    enter_sandbox()
