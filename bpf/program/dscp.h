/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * DSCP and traffic class as two types, like the kernel's dscp_t (include/net/inet_dscp.h): a compiler that checks types
 * refuses one where the other is meant. Structs of one byte cost nothing; shifting by two happens only here.
 */
#ifndef QOSCTL_DSCP_H
#define QOSCTL_DSCP_H

#include "abi.h"

#define ECN_MASK 0x03
#define DSCP_SHIFT 2

/* 0..63 */
struct dscp {
	__u8 value;
};

/* The whole byte: DSCP and ECN (RFC 2474, RFC 3168). */
struct traffic_class {
	__u8 byte;
};

static __always_inline struct dscp dscp_of(struct traffic_class whole)
{
	return (struct dscp){whole.byte >> DSCP_SHIFT};
}

/* The same traffic class with another DSCP; its ECN stays. */
static __always_inline struct traffic_class with_dscp(struct traffic_class whole, struct dscp dscp)
{
	return (struct traffic_class){(whole.byte & ECN_MASK) | (dscp.value << DSCP_SHIFT)};
}

#endif
