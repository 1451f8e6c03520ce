"""The reconciler behind `qosctl supervise`: it compares a configuration with the current state, and makes the kernel agree.

    config      the file, read into frozen values        watch    netlink: that something has changed
    observe     the current state, asked of the kernel    repair   carries out the actions
    reconcile   both to actions: no I/O, no clock         daemon   the loop: when to look, one attach at a time

The data plane never needs it: kill it at any time and marking goes on.
"""
