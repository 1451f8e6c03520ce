#ifndef K
#define K
#define CONFIG_BPF_SYSCALL 1
typedef unsigned long size_t;
typedef unsigned long uintptr_t;
#define NULL ((void *)0)
#define __always_inline inline __attribute__((always_inline))
#endif
