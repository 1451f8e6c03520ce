"""Lets pyroute2 bring what is used of it, and no more.

Its own __init__ imports all that it can do: conntrack, WireGuard, a database of interfaces. That is a sixth of the time in
which a command starts, and 5 MB in each client. Here the package is there before its __init__ has run, which it does when
somebody asks for a name that is none of its modules: so whoever else imports it in this process finds all of it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyroute2.config import log
    from pyroute2.iproute import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError
    from pyroute2.netlink.rtnl.rtmsg import rtmsg

__all__ = ["IPRoute", "NetlinkError", "log", "rtmsg"]
_NAME = "pyroute2"


def _put_in_place() -> None:
    """Do nothing where somebody has imported it already, or it is not installed: the import that follows says so."""
    spec = importlib.util.find_spec(_NAME)
    if _NAME in sys.modules or spec is None or spec.loader is None:
        return
    package = importlib.util.module_from_spec(spec)
    run = spec.loader.exec_module

    def find(name: str) -> Any:
        """Called for what the package does not have, or not yet (PEP 562)."""
        if importlib.util.find_spec(f"{_NAME}.{name}") is not None:
            return importlib.import_module(f"{_NAME}.{name}")
        del package.__getattr__
        run(package)
        return getattr(package, name)

    package.__getattr__ = find  # type: ignore[method-assign]
    sys.modules[_NAME] = package


def __getattr__(name: str) -> Any:
    """Import what is asked for here, at the first time (PEP 562): a command that talks to nobody need not wait for it."""
    if name not in __all__:
        raise AttributeError(name)
    _put_in_place()
    from pyroute2.config import log  # noqa: PLC0415 - as the package does: else its warnings are printed
    from pyroute2.iproute import IPRoute  # noqa: PLC0415 - as said
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415 - as said
    from pyroute2.netlink.rtnl.rtmsg import rtmsg  # noqa: PLC0415 - as said

    globals().update(IPRoute=IPRoute, NetlinkError=NetlinkError, log=log, rtmsg=rtmsg)
    return globals()[name]
