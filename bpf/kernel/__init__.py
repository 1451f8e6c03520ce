"""What the kernel is asked for, as thin as it gets: bpf(2), pins, namespaces, folders, a grace period."""
