// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
/*
 * Cuts copies, and puts them into tunnels. It runs at the egress of tapmux1: copies are sent to tapmux0, a bridge of which it is
 * the only port, and which has no offloads, so that the kernel has segmented them, filled their checksums in and put their tag into the frame. Whose a copy
 * is says its mark.
 */
#include "tunnel.h"

char _license[] SEC("license") = "Dual MIT/GPL";

enum { OUTER = 80 }; /* octets of the longest outer headers, rounded */
enum { L4 = 24 }; /* of them after the IP header */
enum { MAX_TAGS = 3 }; /* that a copy has */
enum { MUX_DROP_LONG = 1 }; /* drop what is too long, rather than cut it */

/* A tap's way. The header is all that comes before the inner frame, with an empty Ethernet header, no lengths and no checksum. */
struct mux_config {
	__u32 local; /* the frames go to the device in mux_devices, in no tunnel */
	__u32 snap;   /* octets of a frame that are kept; 0 = all */
	__u32 flags;
	__u32 number; /* of the next ERSPAN packet */
	__u32 longest; /* local: octets of the longest frame that the device takes; 0 = any */
	__u32 src[4], dst[4];
	__u8 header[OUTER];
	__u8 octets; /* of header */
	__u8 v6;
	__u8 encap;
	__u8 index; /* of ERSPAN: say the direction in the index */
	__u32 sum;  /* of the IPv4 header's 16-bit words, without its length */
};

enum { MUX_TOO_LONG, MUX_NO_ROUTE, MUX_SUPER, MUX_CHANGE, MUX_DEVICE, MUX_LOSSES };

struct mux_stats {
	__u64 sent, truncated, short_of; /* short_of: octets that the path is too short by, the most there was */
	__u64 lost_octets;
	__u64 lost[MUX_LOSSES];
	__u32 last; /* number of the super-packet that was lost last */
	__u32 zero;
};

struct {
	UINT(type, MAP_HASH);
	UINT(max_entries, 65535);
	UINT(map_flags, NO_PREALLOC);
	TYPE(key, __u32);
	TYPE(value, struct mux_config);
} mux_configs SEC(".maps");

struct {
	UINT(type, MAP_PERCPU_HASH);
	UINT(max_entries, 65535);
	UINT(map_flags, NO_PREALLOC);
	TYPE(key, __u32);
	TYPE(value, struct mux_stats);
} mux_stats SEC(".maps");

/* By a tap's number, where its frames go. It has no device that is gone (see tap_to in tap.c). */
struct {
	UINT(type, MAP_DEVMAP_HASH);
	UINT(max_entries, 65535);
	TYPE(key, __u32);
	TYPE(value, __u32);
} mux_devices SEC(".maps");

/* Counts a copy as lost. Of a super-packet's segments the first one counts, since the copy was one packet. */
INLINE int lost(struct __sk_buff *skb, struct mux_stats *s, __u32 why)
{
	__u32 number = skb->tc_index & COPY_NUMBER;

	if (!number || s->last != number) {
		if (why < MUX_LOSSES)
			s->lost[why]++;
		s->last = number;
	}
	s->lost_octets += skb->len;
	return DROP;
}

struct tags {
	__u32 macs[3];
	__u32 tag[MAX_TAGS]; /* as on the wire */
};

/*
 * Takes up to three VLAN tags off if the first is beside the frame. Popping one moves the next, which is in the frame,
 * beside it. The number of tags is returned, negative on failure. Commonly all are in the frame already, and it is 0.
 */
INLINE int take_tags(struct __sk_buff *skb, struct tags *t)
{
	int n = 0;

	if (!skb->vlan_present)
		return 0;
	if (bpf_skb_load_bytes(skb, 0, t->macs, MACS))
		return -1;
#pragma unroll
	for (int i = 0; i < MAX_TAGS; i++) {
		/* The fields are read anew each time. */
		asm volatile("" ::: "memory");
		if (!*(volatile __u32 *)&skb->vlan_present)
			break;
		t->tag[i] = *(volatile __u32 *)&skb->vlan_proto & 0xffff;
		t->tag[i] |= (__u32)BE16(*(volatile __u32 *)&skb->vlan_tci) << 16;
		if (bpf_skb_vlan_pop(skb))
			return -1;
		n++;
	}
	return n;
}

/* Puts the addresses and tags at off, where there is room for the tags in front of the frame. */
INLINE int put_tags(struct __sk_buff *skb, struct tags *t, int n, __u32 off)
{
	if (n == 1)
		return bpf_skb_store_bytes(skb, off, t, MACS + 4, 0);
	if (n == 2)
		return bpf_skb_store_bytes(skb, off, t, MACS + 8, 0);
	return bpf_skb_store_bytes(skb, off, t, MACS + 12, 0);
}

SEC("tc/mux")
int mux(struct __sk_buff *skb)
{
	__u32 key = skb->mark & ~COPY_MASK, len, keep, cut = 0, octets, hash, outer, out;
	struct bpf_fib_lookup fib = {};
	struct mux_config *c;
	struct mux_stats *s;
	struct tags tags = {};
	__u8 h[OUTER] __attribute__((aligned(8)));
	__u8 l4[L4] __attribute__((aligned(8)));
	int n;
	long rc;

	if ((skb->mark & COPY_MASK) != COPY_MAGIC)
		return DROP; /* the host's own, such as neighbour discovery */
	c = bpf_map_lookup_elem(&mux_configs, &key);
	s = bpf_map_lookup_elem(&mux_stats, &key);
	if (!c || !s)
		return DROP;
	if (skb->gso_size)
		return lost(skb, s, MUX_SUPER);
	hash = bpf_get_hash_recalc(skb);
	n = take_tags(skb, &tags);
	if (n < 0)
		return lost(skb, s, MUX_CHANGE);
	len = skb->len + 4 * n;
	keep = len;
	if (c->snap && keep > c->snap)
		keep = c->snap;

	octets = c->octets;
	if (c->local && c->longest && keep > c->longest) {
		if (s->short_of < keep - c->longest)
			s->short_of = keep - c->longest;
		if (c->flags & MUX_DROP_LONG)
			return lost(skb, s, MUX_TOO_LONG);
		keep = c->longest;
	}
	if (!c->local) {
		if (octets <= ETH || octets > OUTER)
			return lost(skb, s, MUX_CHANGE);
		outer = octets - ETH;
		fib.family = c->v6 ? AF_INET6 : AF_INET;
		fib.l4_protocol = c->encap == VXLAN || c->encap == GENEVE ? IP_UDP : IP_GRE;
		fib.ifindex = skb->ifindex;
		if (c->v6) {
			__builtin_memcpy(fib.src, c->src, 16);
			__builtin_memcpy(fib.dst, c->dst, 16);
		} else {
			fib.src[0] = c->src[3];
			fib.dst[0] = c->dst[3];
		}
		if (keep + outer > 0xffff)
			keep = 0xffff - outer;
		fib.tot_len = keep + outer;
		rc = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
		if (rc == FIB_FRAG_NEEDED) {
			__u32 mtu = fib.tot_len;

			if (mtu < outer + ETH + 20 || keep + outer <= mtu)
				return lost(skb, s, MUX_TOO_LONG);
			if (s->short_of < keep + outer - mtu)
				s->short_of = keep + outer - mtu;
			if (c->flags & MUX_DROP_LONG)
				return lost(skb, s, MUX_TOO_LONG);
			keep = mtu - outer;
			fib.ifindex = skb->ifindex;
			fib.tot_len = mtu;
			if (c->v6) {
				__builtin_memcpy(fib.src, c->src, 16);
				__builtin_memcpy(fib.dst, c->dst, 16);
			} else {
				fib.src[0] = c->src[3];
				fib.dst[0] = c->dst[3];
			}
			rc = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
		}
		if (rc != FIB_SUCCESS && rc != FIB_NO_NEIGH)
			return lost(skb, s, MUX_NO_ROUTE);
	}
	if (keep < len) {
		cut = 1;
		if (keep < (__u32)(ETH + 4 * n))
			return lost(skb, s, MUX_CHANGE);
		if (bpf_skb_change_tail(skb, keep - 4 * n, 0)) {
			/* The kernel leaves the headers before the transport's whole: of IPv6 that is more than of IPv4. */
			keep = ETH + 40 + 4 * n;
			if (len <= keep || bpf_skb_change_tail(skb, ETH + 40, 0)) {
				keep = 128 + 4 * n;
				if (len <= keep || bpf_skb_change_tail(skb, 128, 0))
					return lost(skb, s, MUX_CHANGE);
			}
		}
	}

	if (c->local) {
		__u32 *to = bpf_map_lookup_elem(&mux_devices, &key);

		if (!to)
			return lost(skb, s, MUX_DEVICE);
		if (n && (bpf_skb_change_head(skb, 4 * n, 0) || put_tags(skb, &tags, n, 0)))
			return lost(skb, s, MUX_CHANGE);
		s->sent++;
		s->truncated += cut;
		skb->mark = COPY_DELIVERED;
		skb->tc_index = 0;
		return bpf_redirect(*to, 0);
	}

	__builtin_memcpy(h, c->header, OUTER);
	outer = octets - ETH + keep; /* length of the IP packet */
	if (c->v6) {
		*(__u16 *)(h + ETH + 4) = BE16(outer - 40);
		__builtin_memcpy(l4, h + ETH + 40, L4);
	} else {
		__u32 sum = c->sum + outer;

		sum = (sum & 0xffff) + (sum >> 16);
		sum = (sum & 0xffff) + (sum >> 16);
		*(__u16 *)(h + ETH + 2) = BE16(outer);
		*(__u16 *)(h + ETH + 10) = BE16(~sum);
		__builtin_memcpy(l4, h + ETH + 20, L4);
	}
	out = skb->tc_index & COPY_OUT;
	if (c->encap == ERSPAN) {
		__u32 first = tags.tag[0], number = __sync_fetch_and_add(&c->number, 1);

		*(__u32 *)(l4 + 4) = BE32(number);
		if (!n && bpf_skb_load_bytes(skb, MACS, &first, sizeof(first)))
			first = 0;
		__u16 type = first;
		first >>= 16;
		if (type == BE16(0x8100) || type == BE16(0x88a8)) { /* VLAN id; class of service, "the tag is in the frame" */
			*(__u16 *)(l4 + 8) |= first & BE16(0x0fff);
			*(__u16 *)(l4 + 10) |= (first & BE16(0xe000)) | BE16(0x1800);
		}
		if (cut)
			*(__u16 *)(l4 + 10) |= BE16(0x0400);
		if (c->index)
			*(__u32 *)(l4 + 12) |= BE32(out ? 2 : 1);
	} else if (c->encap != GRE) {
		*(__u16 *)l4 = BE16(49152 + (hash & 0x3fff)); /* RFC 7348 section 5: a dynamic port, by a hash of the inner packet */
		*(__u16 *)(l4 + 4) = BE16(outer - (c->v6 ? 40 : 20));
		if (c->encap == GENEVE) { /* our option's value: direction and 0x80 for cut; zero; the frame's own length */
			l4[20] = (out ? 2 : 1) | (cut ? 0x80 : 0);
			*(__u16 *)(l4 + 22) = BE16(len);
		}
	}
	if (c->v6)
		__builtin_memcpy(h + ETH + 40, l4, L4);
	else
		__builtin_memcpy(h + ETH + 20, l4, L4);
	*(__u16 *)(h + MACS) = c->v6 ? BE16(ETH_IPV6) : BE16(ETH_IPV4);
	if (rc == FIB_SUCCESS) {
		__builtin_memcpy(h, fib.dmac, 6);
		__builtin_memcpy(h + 6, fib.smac, 6);
	}

	if (bpf_skb_change_head(skb, octets + 4 * n, 0))
		return lost(skb, s, MUX_CHANGE);
	if (octets <= ETH || octets > OUTER)
		return DROP;
	if (bpf_skb_store_bytes(skb, 0, h, octets, STORE_INVALIDATE_HASH))
		return lost(skb, s, MUX_CHANGE);
	if (n && put_tags(skb, &tags, n, octets))
		return lost(skb, s, MUX_CHANGE);
	/*
	 * The kernel still takes the frame for what is inside (skb->protocol). The pop of a tag that is in the frame reads its
	 * type anew; two pushes put one there.
	 */
	if (bpf_skb_vlan_push(skb, BE16(ETH_8021Q), 1) || bpf_skb_vlan_push(skb, BE16(ETH_8021Q), 1) || bpf_skb_vlan_pop(skb) ||
	    bpf_skb_vlan_pop(skb))
		return lost(skb, s, MUX_CHANGE);
	s->sent++;
	s->truncated += cut;
	if (rc == FIB_NO_NEIGH)
		return bpf_redirect_neigh(fib.ifindex, 0, 0, 0);
	return bpf_redirect(fib.ifindex, 0);
}
