"""Getting the programs into the kernel: one module a loader. `loader.Loader` says what each can load."""
