"""Getting the program into the kernel: one module a loader. Each is asked for `load(state, device, ethernet)`."""
