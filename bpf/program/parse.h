/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From the start of the packet to its DTLS record. Reads only; the packet is hostile until proven otherwise.
 *
 * One idiom for every read: header() gives a pointer to `size` bytes at `offset`, in the packet where they are
 * linear and in `copy` where they are not, or NULL where the packet ends before.
 */
#ifndef QOSCTL_PARSE_H
#define QOSCTL_PARSE_H

#include <asm/byteorder.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>

#include "abi.h"

#define VLAN_TAGS_MAX 2
#define EXTENSIONS_MAX 6

#define IPV4_MORE_FRAGMENTS 0x2000
#define IPV4_FRAGMENT_OFFSET 0x1fff
#define PPP_IPV4 0x0021
#define PPP_IPV6 0x0057

#define DTLS_1_2 0xfefd
#define RECORD_CHANGE_CIPHER_SPEC 20
#define RECORD_APPLICATION_DATA 23
#define RECORD_HEARTBEAT 24
#define RECORD_TLS12_CID 25
/* RFC 9147 section 4: the unified header of DTLS 1.3 begins with the bits 001. */
#define RECORD_UNIFIED_MASK 0xe0
#define RECORD_UNIFIED 0x20

struct vlan_tag {
	__be16 control;
	__be16 protocol;
};

/* RFC 2516, and the PPP protocol number that follows. */
struct pppoe_session {
	__u8 version_type;
	__u8 code;
	__be16 session;
	__be16 length; /* of what follows, the PPP protocol number included */
	__be16 protocol;
} __attribute__((packed));

struct extension_header {
	__u8 next;
	__u8 length; /* in units of 8 bytes, not counting the first 8 */
};

/* RFC 6347 section 4.1 */
struct dtls_record {
	__u8 type;
	__be16 version;
	__be64 number; /* epoch (16 bits) and sequence number (48 bits) */
	__be16 length;
} __attribute__((packed));

/* Where things are: offsets from the start of the packet. */
struct cursor {
	__u32 ip;
	__u32 udp;
	__u32 end;   /* of the IP packet, as its own length field says */
	__u32 limit; /* where it has to end at the latest, as the link says */
	__u32 length; /* of the UDP datagram, as its own length field says */
	__u8 version;
};

/* OUTCOME_SLOTS, as a parser's answer, means: go on. */
#define PARSED OUTCOME_SLOTS

static __always_inline const void *header(struct __sk_buff *skb, __u32 offset, void *copy, __u32 size)
{
#if defined(FOLLOWING) || defined(CARRYING)
	/* Else the compiler keeps the addresses of these fields in a program of this length: the verifier wants them fresh. */
	asm volatile("" : "+r"(skb));
#endif
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;

	if (data + offset + size <= end)
		return data + offset;
	if (bpf_skb_load_bytes(skb, offset, copy, size))
		return NULL;
	return copy;
}

/* A device without a link header shows the IP version in the first nibble. */
static __always_inline enum outcome find_ip_raw(struct __sk_buff *skb, struct cursor *at)
{
	__u8 copy;
	const __u8 *first = header(skb, 0, &copy, sizeof(copy));

	if (!first)
		return OUTCOME_TRUNCATED;
	at->ip = 0;
	at->limit = skb->len;
	at->version = *first >> 4;
	return at->version == 4 || at->version == 6 ? PARSED : OUTCOME_NOT_IP;
}

/* 4, 6, or 0 for what is not IP. */
static __always_inline __u8 ip_version(__be16 ethertype)
{
	if (ethertype == bpf_htons(ETH_P_IP))
		return 4;
	return ethertype == bpf_htons(ETH_P_IPV6) ? 6 : 0;
}

static __always_inline enum outcome find_ip_ethernet(struct __sk_buff *skb, struct cursor *at)
{
	struct ethhdr ethernet_copy;
	const struct ethhdr *ethernet = header(skb, 0, &ethernet_copy, sizeof(ethernet_copy));
	__be16 protocol;

	if (!ethernet)
		return OUTCOME_TRUNCATED;
	protocol = ethernet->h_proto;
	at->ip = sizeof(*ethernet);
	at->limit = skb->len;
	at->version = ip_version(protocol);
	if (at->version)
		return PARSED;

#pragma unroll
	for (int tags = 0; tags < VLAN_TAGS_MAX; tags++) {
		struct vlan_tag tag_copy;
		const struct vlan_tag *tag;

		if (protocol != bpf_htons(ETH_P_8021Q) && protocol != bpf_htons(ETH_P_8021AD))
			break;
		tag = header(skb, at->ip, &tag_copy, sizeof(tag_copy));
		if (!tag)
			return OUTCOME_TRUNCATED;
		protocol = tag->protocol;
		at->ip += sizeof(*tag);
	}

	if (protocol == bpf_htons(ETH_P_PPP_SES)) {
		struct pppoe_session session_copy;
		const struct pppoe_session *session = header(skb, at->ip, &session_copy, sizeof(session_copy));

		if (!session)
			return OUTCOME_TRUNCATED;
		at->ip += sizeof(*session);
		at->limit = at->ip - sizeof(session->protocol) + bpf_ntohs(session->length);
		if (session->protocol == bpf_htons(PPP_IPV4))
			protocol = bpf_htons(ETH_P_IP);
		else if (session->protocol == bpf_htons(PPP_IPV6))
			protocol = bpf_htons(ETH_P_IPV6);
	}

	at->version = ip_version(protocol);
	return at->version ? PARSED : OUTCOME_NOT_IP;
}

static __always_inline enum outcome parse_ipv4(struct __sk_buff *skb, struct cursor *at, union flow_slot *key)
{
	struct iphdr copy;
	const struct iphdr *ip = header(skb, at->ip, &copy, sizeof(copy));

	if (!ip)
		return OUTCOME_TRUNCATED;
	if (ip->version != 4)
		return OUTCOME_NOT_IP;
	if (ip->protocol != IPPROTO_UDP)
		return OUTCOME_NOT_UDP;
	if (ip->frag_off & bpf_htons(IPV4_MORE_FRAGMENTS | IPV4_FRAGMENT_OFFSET))
		return OUTCOME_FRAGMENT;
	if (ip->ihl < 5)
		return OUTCOME_TRUNCATED;
	key->source[2] = bpf_htonl(0xffff);
	key->source[3] = ip->saddr;
	key->destination[2] = bpf_htonl(0xffff);
	key->destination[3] = ip->daddr;
	at->end = at->ip + bpf_ntohs(ip->tot_len);
	at->udp = at->ip + ip->ihl * 4;
	return PARSED;
}

static __always_inline enum outcome parse_ipv6(struct __sk_buff *skb, struct cursor *at, union flow_slot *key)
{
	struct ipv6hdr copy;
	const struct ipv6hdr *ip = header(skb, at->ip, &copy, sizeof(copy));
	__u8 next;

	if (!ip)
		return OUTCOME_TRUNCATED;
	if (ip->version != 6)
		return OUTCOME_NOT_IP;
	__builtin_memcpy(key->source, &ip->saddr, sizeof(key->source));
	__builtin_memcpy(key->destination, &ip->daddr, sizeof(key->destination));
	at->end = at->ip + sizeof(*ip) + bpf_ntohs(ip->payload_len);
	at->udp = at->ip + sizeof(*ip);
	next = ip->nexthdr;

#pragma unroll
	for (int extensions = 0; extensions <= EXTENSIONS_MAX; extensions++) {
		struct extension_header extension_copy;
		const struct extension_header *extension;

		if (next == IPPROTO_UDP)
			return PARSED;
		if (next == IPPROTO_FRAGMENT)
			return OUTCOME_FRAGMENT;
		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS)
			return OUTCOME_NOT_UDP;
		extension = header(skb, at->udp, &extension_copy, sizeof(extension_copy));
		if (!extension)
			return OUTCOME_TRUNCATED;
		next = extension->next;
		at->udp += (extension->length + 1) * 8;
	}
	return OUTCOME_IPV6_EXT_HEADERS;
}

static __always_inline enum outcome parse_ports(struct __sk_buff *skb, struct cursor *at, union flow_slot *key)
{
	struct udphdr copy;
	const struct udphdr *udp = header(skb, at->udp, &copy, sizeof(copy));

	if (!udp)
		return OUTCOME_TRUNCATED;
	key->source_port = udp->source;
	key->destination_port = udp->dest;
	at->length = bpf_ntohs(udp->len);
	return PARSED;
}

/* Every length in the packet must fit into the one that encloses it. Asked only of tunnels of ours. */
static __always_inline enum outcome check_lengths(struct __sk_buff *skb, struct cursor *at, __u32 *payload)
{
	if (at->limit > skb->len || at->end > at->limit || at->length < sizeof(struct udphdr) ||
	    at->udp + at->length > at->end)
		return OUTCOME_TRUNCATED;
	*payload = at->length - sizeof(struct udphdr);
	return PARSED;
}

static __always_inline enum outcome parse_record(struct __sk_buff *skb, struct cursor *at, __u32 payload,
						 __u64 *number)
{
	struct dtls_record copy;
	const struct dtls_record *record;
	__u32 segment = skb->gso_size;
	__u32 datagram = segment && segment < payload ? segment : payload;
	__u32 whole;

	if (payload < sizeof(*record))
		return OUTCOME_NOT_DTLS;
	record = header(skb, at->udp + sizeof(struct udphdr), &copy, sizeof(copy));
	if (!record)
		return OUTCOME_TRUNCATED;
	if ((record->type & RECORD_UNIFIED_MASK) == RECORD_UNIFIED || record->type == RECORD_TLS12_CID)
		return OUTCOME_CID_OR_DTLS13;
	if (record->type < RECORD_CHANGE_CIPHER_SPEC || record->type > RECORD_HEARTBEAT)
		return OUTCOME_NOT_DTLS;
	if (record->type != RECORD_APPLICATION_DATA)
		return OUTCOME_NOT_DATA;
	if (record->version != bpf_htons(DTLS_1_2))
		return OUTCOME_NOT_DTLS;
	whole = sizeof(*record) + bpf_ntohs(record->length);
	if (whole > datagram)
		return OUTCOME_PARTIAL_RECORD;
	if (whole < datagram)
		return OUTCOME_MULTIPLE_RECORDS;
	*number = __be64_to_cpu(record->number);
	return PARSED;
}

#endif
