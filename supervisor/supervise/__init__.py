"""The reconciler behind `qosctl supervise`: it compares a configuration with what is so, and makes the kernel agree.

    config      the file, read into frozen values        watch    netlink: something changed, no more is said
    observe     what is so, asked of the kernel           repair   what is done about it
    reconcile   from both to actions: no I/O, no clock    daemon   the loop: when to look, one attach at a time

The data plane never needs it: kill it at any time and marking goes on.
"""
