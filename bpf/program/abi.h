/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What kernel and user space agree on: structs and limits, nothing else.
 * abi.py mirrors this file; tests/bpf/program/test_abi.py compares the two with the compiler's own idea of it.
 */
#ifndef QOSCTL_CONTRACT_H
#define QOSCTL_CONTRACT_H

#include <linux/types.h>

/* Raise it whenever a struct, an enum or a limit below changes its meaning or its place. */
#define LAYOUT_VERSION 2

#define DSCP_COUNT 64
#define POLICY_BANKS 2
/* Slots for flows; a flow lies within FLOW_PROBES slots of its home (flow_table.h). Half full is as full as it should get. */
#define FLOW_SLOTS_LOG2 15
#define FLOW_SLOTS (1 << FLOW_SLOTS_LOG2)
#define FLOW_PROBES 16
#define FLOW_HASH_FIRST 0x9e3779b97f4a7c15ULL
#define FLOW_HASH_SECOND 0xc2b2ae3d27d4eb4fULL

/* One word a record in flight between its mark and tc egress; a power of two, so that modulo is a mask. */
#define RING_WORDS 8192
/* Behind the marks, in the same memory: what the client says of its flow (statistics.py). One page. */
#define FLOW_INFO_WORDS 512

/* The one entry of `control`. Each field is stored and read as a whole, so no lock is needed to switch off. */
struct control {
	__u32 layout;	   /* LAYOUT_VERSION of whoever made the maps */
	__u32 passtos;	   /* 0: leave every packet alone; else since when, in ticks of the monotonic clock */
	__u32 policy_bank; /* which half of `policy` counts: 0 or 1 */
	__u32 generation;  /* raised at each change of the switch or the policy */
};

enum policy_action {
	POLICY_LEAVE = 0,
	POLICY_STAMP = 1,
};

/* policy[bank * DSCP_COUNT + inner DSCP] */
struct policy_entry {
	__u8 action;	   /* enum policy_action */
	__u8 outer_dscp;   /* 0..63 */
	__u8 set_priority; /* 0 or 1: whether `priority` goes to skb->priority */
	__u8 reserved;
	__u32 priority;
};

enum flow_state {
	FLOW_EMPTY = 0,	  /* never used, or free again with nothing behind it: a search ends here */
	FLOW_USED = 1,
	FLOW_REMOVED = 2, /* free again: a search goes on */
};

/*
 * One slot of `flow_slots`: the outer five-tuple without the protocol (always UDP), as it leaves, IPv4 as ::ffff:a.b.c.d,
 * all in network order; and whether the slot is in use. The ring of slot n is rings[n].
 */
union flow_slot {
	struct {
		__u32 source[4];
		__u32 destination[4];
		union {
			struct {
				__u16 source_port;
				__u16 destination_port;
			};
			__u32 ports;
		};
		__u32 state; /* enum flow_state */
	};
	__u64 words[5];
};

/*
 * Every way out of the program. A packet has exactly one outcome; a GSO batch counts as its segments. A number keeps its
 * meaning for ever: a new outcome takes the next free one, one that goes leaves its number unused. So an outcome more is not
 * another layout, and counters outlive an upgrade. What each means is said in outcome.py, and nowhere else.
 */
#define OUTCOME_SLOTS 48 /* room for those to come */

enum outcome {
	OUTCOME_OFF = 0,
	OUTCOME_NOT_IP = 1,
	OUTCOME_NOT_UDP = 2,
	OUTCOME_FRAGMENT = 3,
	OUTCOME_IPV6_EXT_HEADERS = 4,
	OUTCOME_TRUNCATED = 5,
	OUTCOME_NO_FLOW = 6,
	OUTCOME_NOT_DTLS = 7,
	OUTCOME_NOT_DATA = 8,
	OUTCOME_CID_OR_DTLS13 = 9,
	OUTCOME_PARTIAL_RECORD = 10,
	OUTCOME_MULTIPLE_RECORDS = 11,
	OUTCOME_NO_MARK = 12,
	OUTCOME_POLICY_LEAVE = 13,
	OUTCOME_UNCHANGED = 14,
	OUTCOME_STAMPED = 15,
	OUTCOME_WRITE_FAILED = 16,
	OUTCOME_UNMATCHED = 17,
	OUTCOME_AMBIGUOUS = 18,
};

struct class_counter {
	__u64 packets;
	__u64 bytes; /* on the wire, link header included */
};

/* The one entry, per CPU, of each device's `counters`. */
struct device_counters {
	__u64 outcomes[OUTCOME_SLOTS];
	struct class_counter outer[DSCP_COUNT]; /* stamped or unchanged, by outer DSCP */
};

/*
 * Tunnels that programs of others run over TUN devices: follow.h says how their packets are known.
 */

/* Which devices are followed, by name: bytes that `mask` has are those of `name`. Each word is stored as a whole. */
struct follow_pattern {
	__u64 name[2];
	__u64 mask[2];
	__u32 since; /* in ticks of the monotonic clock; 0: not in use */
	__u32 ways;  /* FOLLOW_BY_*, as bits: of the devices that were there when it was last looked at. For user space */
};

#define FOLLOW_BY_READS 1
#define FOLLOW_BY_HASH 2

#define FOLLOW_PATTERNS 32
/* Packets read and not sent yet, a task; openconnect reads 32 at most before it sends. A power of two. */
#define QUEUE_ENTRIES 64
/* Tasks; the least recently used one goes when there are more. */
#define QUEUES 4096

/*
 * How far behind the highest number of a session a receiver takes a packet: RFC 6347 section 4.1.2.6, and OpenVPN's
 * --replay-window where nobody has set it. A power of two.
 */
#define REPLAY_WINDOW 64

/* When a packet left, and with which DSCP: of one in REPLAY_WINDOW numbers, the last. */
struct sent_packet {
	__u32 session;	     /* whose numbers they are; 0: none yet */
	__u32 when_and_dscp; /* in units of 2^20 ns, 25 bits; below them the DSCP, DSCP_COUNT where it is not ours */
};

struct read_packet {
	__u32 length;
	__u16 tick; /* the low bits */
	__u8 dscp;
	__u8 reserved;
};

/* What a task has read and not sent yet. Of the kernel alone: user space knows its size. */
struct read_queue {
	__u64 start_time; /* of the task */
	__u32 passtos;	  /* control.passtos at the first read */
	__u32 pattern;
	__u32 since;
	__u32 trusted_from; /* in ticks */
	__u32 formats;	    /* that the task's datagrams may have; 0: not known yet */
	__u32 misfits;
	__u32 sent;  /* whether a packet has left since the last read */
	__u32 doubt; /* whether an entry may be of a packet that left in another way */
	__u32 first;
	__u32 count;
	/* Of the search for one datagram's packet. */
	__u32 found; /* its place, counted from 1 */
	__u32 several;
	__u32 fits;
	__u32 dscp;
	__u32 ip;
	__u32 version;
	/* Of the datagram before: what tells it from others, and what became of it (enum outcome). */
	__u32 answer;
	__u32 differ; /* of the search: whether two that it may be are of different classes */
	__u64 last;
	__u64 number; /* of that datagram: a DTLS record's, an OpenVPN packet's id */
	__u32 session; /* of that number */
	__u32 reserved;
	struct sent_packet sent_before[REPLAY_WINDOW]; /* by number */
	struct read_packet packets[QUEUE_ENTRIES];
};

/* Per CPU and pattern. */
struct follow_counters {
	__u64 reads;
	__u64 batches;	   /* reads that held more than one packet */
	__u64 forgotten;   /* entries that made room for others */
	__u64 passed_over; /* entries whose packets left in another way, or not at all */
	__u64 dtls;	   /* packets found in datagrams of this protocol */
	__u64 openvpn;
	__u64 beyond_window; /* datagrams that left soon after one of another DSCP, REPLAY_WINDOW numbers or more below */
};

/*
 * Tunnels in the kernel, WireGuard: carried.h says how a packet's own hash tells its class.
 */

#define UDP_PORTS 65536
/* In `port_of`, in place of a port: the device's UDP socket is in another network namespace. */
#define PORT_ELSEWHERE UDP_PORTS
/* Devices are told apart by the low bits of their index. */
#define CARRIERS 65536
/* As much of a flow's hash is kept. With the class it is the code; what is left of the 32 bits is the check. */
#define CARRIED_FLOW_BITS 12
#define CARRIED_CODES (DSCP_COUNT << CARRIED_FLOW_BITS)

/* The one entry of `carried`. A port is a device's where both arrays say so. */
struct carried {
	__u32 device_at[UDP_PORTS];    /* the index of the device that was last seen with this port; 0: none */
	__u32 port_of[CARRIERS];       /* the port that the device was last seen with; 0: none, or not followed any more */
	__u16 given_at[CARRIED_CODES]; /* when a packet was last given this code, in ticks, the low bits; 0: never */
};

#endif
