/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The tc-egress program as BCC loads it: gives each DTLS record of a tunnel the outer DSCP that its flow's ring and the
 * operator's policy say. Whatever is in doubt leaves as it was, under a counter that says why; always TC_ACT_UNSPEC, so
 * that everybody else's filters run after it.
 *
 * bcc.py hands over the maps (maps.h) and LINK_ETHERNET; and, where tunnels of others are marked, too, FOLLOWING for those of
 * programs, CARRYING for those of the kernel. Where none is followed, none of it is in the program.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include "abi.h"

#include "maps.h"
#include "mark.h"

int qosctl_egress(struct __sk_buff *skb)
{
	mark_and_count(skb);
	return TC_ACT_UNSPEC;
}
