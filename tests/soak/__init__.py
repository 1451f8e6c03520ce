"""A tunnel under mixed traffic and random faults for as long as wanted: `python -m tests.soak [--seconds N] [--seed S]`."""
