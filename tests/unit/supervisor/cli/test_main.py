"""What a command leaves on the terminal when it is interrupted."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import asyncio, sys
from qosctl.supervisor.cli import main

async def request():
    await asyncio.sleep(60)

def interrupted(*_):
    loop = asyncio.new_event_loop()
    pending, never_awaited = loop.create_task(request()), request()
    loop.run_until_complete(asyncio.sleep(0))
    raise KeyboardInterrupt("interrupted; nothing is left behind")

main._run = interrupted
sys.exit(main.main())
"""


def test_an_interrupt_amid_a_request_to_the_kernel_is_one_line() -> None:
    """pyroute2 runs each as a coroutine, and Python says of those that are cut off that they were."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, "status"], capture_output=True, text=True, check=False)
    assert (done.stderr, done.returncode) == ("qosctl: interrupted; nothing is left behind\n", 130)
