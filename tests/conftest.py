"""Tests run in a sandbox: their namespaces and BPF pins are not the machine's (see tests.lab.sandbox).

Without root the pure tests still run; those that need the kernel fail and say why.
"""

import gc
import os
import signal

from hypothesis import HealthCheck, settings

from tests.lab.sandbox import enter_sandbox, show_few_kernel_symbols, unwind_on_signals

# A machine that is busy with something else takes its time: that is no failure. `quick` is what `make unit` runs with.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", settings.get_profile("untimed"), max_examples=20)
settings.load_profile("untimed")

# Run under nohup, all clients of the tests would keep to it and not end by SIGHUP.
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
unwind_on_signals()
if os.geteuid() == 0:
    enter_sandbox()
    show_few_kernel_symbols()


def pytest_collection() -> None:
    """Look for no garbage while the tests are collected: there is none, and each worker would look for a second."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Nor among what was collected: it stays to the end."""
    gc.enable()
    gc.freeze()
