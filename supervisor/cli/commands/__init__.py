"""The commands of qosctl, one module each: `add_arguments(parser)` and `run(arguments, out) -> exit code`.

A module imports only what its own command needs: `qosctl passtos off` must not pay for netlink.
"""
