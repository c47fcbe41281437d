/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* What tap.c, mux.c and sink.c share: marks, and how a tunnel packet is recognised. */
#pragma once
#include "kernel.h"

/*
 * The mark of copies (skb->mark): the upper half says that it is one, the lower which tap's; COPY_DELIVERED has been handed to
 * a device. It lives as long as the packet stays in the network namespace. A copy is never copied again.
 */
#define COPY_MAGIC 0x7a900000u
#define COPY_MASK 0xffff0000u
#define COPY_DELIVERED (COPY_MAGIC | 0xffffu)

/*
 * skb->tc_index of a copy on its way to mux.c: the direction, and a number that all segments of one super-packet share and
 * that is not zero; zero for a packet that is not one.
 */
#define COPY_OUT 0x8000u
#define COPY_NUMBER 0x7fffu

enum encap { VXLAN = 1, GRE, ERSPAN, GENEVE };

/* A tunnel's packets as they are told apart. IPv4 addresses are mapped into IPv6 (RFC 4291 section 2.5.5.2). */
struct tunnel {
	__u32 addr[4];
	__u32 id;
	__u16 port; /* of UDP; 0 with GRE */
	__u8 encap;
	__u8 zero;
};

/* The addresses of a packet, and what tunnel it is in. */
struct tunnel_packet {
	__u32 src[4], dst[4];
	__u32 id;
	__u16 port;
	__u8 encap;
	__u8 v6;
	__u32 inner; /* offset of the inner frame */
};

/* Reads a packet's outer headers. 0 if it is in a tunnel of a form that is ours. */
INLINE int tunnel_of(struct __sk_buff *skb, struct tunnel_packet *t)
{
	__u32 off, word[4];
	__u8 proto;

	if (skb->vlan_present)
		return -1; /* it is of the VLAN's device */
	if (skb->protocol == BE16(ETH_IPV4)) {
		__u32 ip[5]; /* RFC 791 section 3.1 */

		if (bpf_skb_load_bytes(skb, ETH, ip, sizeof(ip)))
			return -1;
		proto = BE32(ip[2]) >> 16;
		if (proto != IP_UDP && proto != IP_GRE)
			return -1;
		if (ip[1] & BE32(0x3fff)) /* a fragment */
			return -1;
		off = ETH + ((BE32(ip[0]) >> 24) & 15) * 4;
		t->v6 = 0;
		t->src[0] = t->src[1] = t->dst[0] = t->dst[1] = 0;
		t->src[2] = t->dst[2] = BE32(0xffff);
		t->src[3] = ip[3];
		t->dst[3] = ip[4];
	} else if (skb->protocol == BE16(ETH_IPV6)) {
		__u32 ip[10]; /* RFC 8200 section 3 */

		if (bpf_skb_load_bytes(skb, ETH, ip, sizeof(ip)))
			return -1;
		proto = BE32(ip[1]) >> 8;
		if (proto != IP_UDP && proto != IP_GRE)
			return -1;
		off = ETH + 40;
		t->v6 = 1;
		for (int i = 0; i < 4; i++) {
			t->src[i] = ip[2 + i];
			t->dst[i] = ip[6 + i];
		}
	} else {
		return -1;
	}

	if (bpf_skb_load_bytes(skb, off, word, sizeof(word)))
		return -1;
	if (proto == IP_UDP) {
		t->port = BE32(word[0]);
		/* VXLAN has the I flag and nothing else (RFC 7348 section 5), Geneve version 0 and Ethernet inside (RFC 8926 section 3.4). */
		if (word[2] == BE32(0x08000000)) {
			t->encap = VXLAN;
			t->inner = off + 16;
		} else if ((word[2] & BE32(0xc000ffff)) == BE32(ETH_TEB)) {
			t->encap = GENEVE;
			t->inner = off + 16 + ((BE32(word[2]) >> 24) & 63) * 4;
		} else {
			return -1;
		}
		t->id = BE32(word[3]) >> 8;
		return 0;
	}
	t->port = 0;
	if (word[0] == BE32(0x20000000 | ETH_TEB)) { /* key present, RFC 2890 section 2 */
		t->encap = GRE;
		t->id = BE32(word[1]);
		t->inner = off + 8;
	} else if (word[0] == BE32(0x10000000 | ETH_ERSPAN) && (word[2] & BE32(0xf0000000)) == BE32(0x10000000)) {
		/* sequence number present, version 1: draft-foschiano-erspan-03 section 4.2 */
		t->encap = ERSPAN;
		t->id = BE32(word[2]) & 0x3ff;
		t->inner = off + 16;
	} else {
		return -1;
	}
	return 0;
}

INLINE void tunnel_key(struct tunnel *k, const struct tunnel_packet *t, const __u32 addr[4])
{
	for (int i = 0; i < 4; i++)
		k->addr[i] = addr[i];
	k->id = t->id;
	k->port = t->port;
	k->encap = t->encap;
	k->zero = 0;
}
