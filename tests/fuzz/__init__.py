"""The differential fuzzer: `python -m tests.fuzz [--packets N] [--seed S]`."""
