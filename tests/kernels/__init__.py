"""The same tests on another kernel: Debian's, under qemu with software emulation, on this machine's own file tree.

    this machine                                      guest
    /            --- 9p, read-only ---------->  lower \\
                                                       overlay = /    (its changes stay in the guest's memory)
                                     tmpfs -->  upper /
    build/kernels/out  <--- 9p ------------>  /mnt/out                what came of it

The kernel, its modules and a few tools are unpacked from Debian's packages into build/kernels, never installed.
"""
