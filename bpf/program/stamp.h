/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writing the six bits of the DSCP, and nothing else. This file knows where the traffic class lies in each header, dscp.h
 * where the DSCP lies in the traffic class.
 *
 * The header is written with one bpf_skb_store_bytes: it makes a shared header private first, and a failure leaves the
 * packet as it was. Direct packet writes would let the verifier put an unclone in front of the whole program, which copies
 * every TCP packet's header even while passtos is off, and drops the packet when memory is short.
 */
#ifndef QOSCTL_STAMP_H
#define QOSCTL_STAMP_H

#include "dscp.h"
#include "parse.h"

/* Of the first 16 bits of an IPv4 header: version (4), header length (4), traffic class (8). */
static __always_inline struct traffic_class traffic_class_ipv4(__u16 first)
{
	return (struct traffic_class){first & 0xff};
}

/* The same of an IPv6 header: version (4), traffic class (8), top of the flow label (4). */
static __always_inline struct traffic_class traffic_class_ipv6(__u16 first)
{
	return (struct traffic_class){first >> 4 & 0xff};
}

/* RFC 1624, equation 3: HC' = ~(~HC + ~m + m'), for one 16-bit word m of the header. */
static __always_inline __u16 checksum_update(__u16 checksum, __u16 old_word, __u16 new_word)
{
	__u32 sum = (__u16)~checksum + (__u16)~old_word + new_word;

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

union header_word {
	__u32 whole;
	__u16 half[2];
};

static __always_inline enum outcome stamp_ipv4(struct __sk_buff *skb, __u32 at_ip, struct dscp wanted)
{
	/* Version to checksum, the part that changes, as the 32-bit words it consists of; each as two halves on the wire. */
	union header_word words[3], copy[3];
	const union header_word *ip = header(skb, at_ip, copy, sizeof(copy));
	struct traffic_class current;
	__u16 first;

	if (!ip)
		return OUTCOME_TRUNCATED;
	words[0].whole = ip[0].whole;
	first = bpf_ntohs(words[0].half[0]);
	current = traffic_class_ipv4(first);
	if (dscp_of(current).value == wanted.value)
		return OUTCOME_UNCHANGED;
	words[1].whole = ip[1].whole;
	words[2].whole = ip[2].whole;
	words[0].half[0] = bpf_htons((first & 0xff00) | with_dscp(current, wanted).byte);
	/* The ones' complement sum does not depend on byte order (RFC 1071 section 2B). */
	words[2].half[1] = checksum_update(words[2].half[1], bpf_htons(first), words[0].half[0]);
	return bpf_skb_store_bytes(skb, at_ip, words, sizeof(words), 0) ? OUTCOME_WRITE_FAILED : OUTCOME_STAMPED;
}

static __always_inline enum outcome stamp_ipv6(struct __sk_buff *skb, __u32 at_ip, struct dscp wanted)
{
	__u16 copy, word;
	const __u16 *ip = header(skb, at_ip, &copy, sizeof(copy));
	struct traffic_class current;

	if (!ip)
		return OUTCOME_TRUNCATED;
	word = bpf_ntohs(*ip);
	current = traffic_class_ipv6(word);
	if (dscp_of(current).value == wanted.value)
		return OUTCOME_UNCHANGED;
	word = bpf_htons((word & 0xf00f) | (with_dscp(current, wanted).byte << 4));
	return bpf_skb_store_bytes(skb, at_ip, &word, sizeof(word), BPF_F_RECOMPUTE_CSUM) ? OUTCOME_WRITE_FAILED
											   : OUTCOME_STAMPED;
}

#endif
