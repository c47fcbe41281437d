// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
/*
 * Copies one tap's packets of one direction of a device. It runs at tcx or clsact; the packet itself goes on as it came.
 * There is a program for each tap and direction, with the tap's options as constants, so that what a tap does not ask for is
 * not even in its program.
 */
#include "tunnel.h"

char _license[] SEC("license") = "Dual MIT/GPL";

enum { HAS_FILTER = 1, HAS_VLANS = 2, TO_MUX = 4, TO_MADE = 8 };

struct tap_config {
	__u64 rate;  /* octets a second; 0 = no bound */
	__u64 burst; /* octets */
	__u32 flags;
	__u32 mark;   /* of its copies */
	__u32 out;    /* COPY_OUT or 0 */
	__u32 sample; /* one in so many; 0 and 1 = all */
	__u32 snap;   /* octets of a frame that are kept; 0 = all */
	__u64 cookie; /* of our network namespace */
	__u32 reach;  /* octets of a frame that the filter may read, a multiple of 8 */
};

volatile const struct tap_config config;
volatile const __u64 vlans[64]; /* a bit for each VLAN id */

/*
 * The interface index of the destination, or of the multiplexer. The kernel takes a device out of such a map when it goes (kernel/bpf/devmap.c,
 * dev_map_notification), before another one can get its index.
 */
struct {
	UINT(type, MAP_DEVMAP);
	UINT(max_entries, 1);
	TYPE(key, __u32);
	TYPE(value, __u32);
} tap_to SEC(".maps");

/* Why a copy was lost, by what bpf_clone_redirect returns. */
enum { LOST_DEVICE, LOST_QUEUE, LOST_OTHER, LOST_LOOP, LOSSES };

struct tap_stats {
	__u64 seen, not_matched, sampled_out, rate_limited, mirrored, octets;
	__u64 lost[LOSSES];
};

struct {
	UINT(type, MAP_PERCPU_ARRAY);
	UINT(max_entries, 1);
	TYPE(key, __u32);
	TYPE(value, struct tap_stats);
} tap_stats SEC(".maps");

struct bucket {
	struct bpf_spin_lock lock;
	__u32 zero;
	__u64 tokens; /* octets */
	__u64 last;   /* ns of the kernel's monotonic clock; 0 = never */
};

struct {
	UINT(type, MAP_ARRAY);
	UINT(max_entries, 1);
	TYPE(key, __u32);
	TYPE(value, struct bucket);
} tap_bucket SEC(".maps");

enum { HEADERS = 256 };

/* All taps share it: a program runs to its end on its processor. */
struct headers {
	__u8 b[HEADERS];
};

struct {
	UINT(type, MAP_PERCPU_ARRAY);
	UINT(max_entries, 1);
	TYPE(key, __u32);
	TYPE(value, struct headers);
} tap_headers SEC(".maps");

/* Not 0 while a copy is being sent on this processor. */
struct {
	UINT(type, MAP_PERCPU_ARRAY);
	UINT(max_entries, 1);
	TYPE(key, __u32);
	TYPE(value, __u32);
} tap_depth SEC(".maps");

/* The tunnels that start or end here, by the other end: their packets are copies, whatever became of their mark. */
struct {
	UINT(type, MAP_HASH);
	UINT(max_entries, 131072);
	UINT(map_flags, NO_PREALLOC);
	TYPE(key, struct tunnel);
	TYPE(value, __u32);
} own_tunnels SEC(".maps");

/* Is replaced by the tap's filter when it is loaded. */
__attribute__((noinline)) static int filter(const void *copy, __u32 octets, __u32 length)
{
	int r = 0;

	asm volatile("" : "+r"(r) : "r"(copy), "r"(octets), "r"(length));
	return r;
}

/*
 * Copies a frame that lies in one piece, as far as the filter may read; 0 if it does not lie so. This costs a few instructions where
 * the kernel's helper costs a call.
 */
INLINE int copy_piece(struct __sk_buff *skb, struct headers *h)
{
	__u8 *p = (__u8 *)(long)skb->data, *end = (__u8 *)(long)skb->data_end;
	__u32 n = 0;

#pragma unroll
	for (int i = 0; i < HEADERS / 8; i++) {
		if (n >= config.reach)
			return 1;
		if (p + 8 > end)
			break;
		*(__u64 *)(h->b + 8 * i) = *(__u64 *)p;
		p += 8;
		n += 8;
	}
	if (n >= config.reach)
		return 1;
	if (n > HEADERS - 8)
		return 0;
	if (p + 4 <= end) {
		*(__u32 *)(h->b + n) = *(__u32 *)p;
		p += 4;
		n += 4;
	}
	if (p + 2 <= end) {
		*(__u16 *)(h->b + n) = *(__u16 *)p;
		n += 2;
	}
	return n == skb->len; /* of odd lengths the helper copies the last octet, and all */
}

/* Whether the filter matches a copy of the headers, with a tag that is kept beside the packet put back into its place. */
INLINE int matches(struct __sk_buff *skb)
{
	__u32 zero = 0, octets, length = skb->len;
	struct headers *h = bpf_map_lookup_elem(&tap_headers, &zero);

	if (!h)
		return 0;
	if (!skb->vlan_present) {
		int piece = copy_piece(skb, h);

		/* Read once more, the length is any to the verifier, which else follows the filter for each length by itself. */
		octets = *(volatile __u32 *)&skb->len;
		if (octets > HEADERS)
			octets = HEADERS;
		if (octets < 1 || (!piece && bpf_skb_load_bytes(skb, 0, h->b, octets)))
			return 0;
	} else {
		if (bpf_skb_load_bytes(skb, 0, h->b, MACS))
			return 0;
		*(__u16 *)(h->b + MACS) = skb->vlan_proto;
		*(__u16 *)(h->b + MACS + 2) = BE16(skb->vlan_tci);
		octets = length - MACS;
		if (octets > HEADERS - MACS - 4)
			octets = HEADERS - MACS - 4;
		if (octets < 1 || bpf_skb_load_bytes(skb, MACS, h->b + MACS + 4, octets))
			return 0;
		octets += MACS + 4;
		length += 4;
	}
	return filter(h->b, octets, length);
}

INLINE int in_vlans(struct __sk_buff *skb)
{
	__u32 id;

	if (skb->vlan_present) {
		id = skb->vlan_tci & 0xfff;
	} else {
		__u16 tag[2];

		if (skb->protocol != BE16(0x8100) && skb->protocol != BE16(0x88a8))
			return 0;
		if (bpf_skb_load_bytes(skb, MACS, tag, sizeof(tag)) || (tag[0] != BE16(0x8100) && tag[0] != BE16(0x88a8)))
			return 0;
		id = BE16(tag[1]) & 0xfff;
	}
	return (vlans[(id >> 6) & 63] >> (id & 63)) & 1;
}

/* Takes what the copies of a packet come to out of the bucket. 0 if there is not so much in it. */
INLINE int within_rate(struct __sk_buff *skb, __u64 octets)
{
	__u32 zero = 0;
	__u64 now = bpf_ktime_get_ns(), passed;
	struct bucket *b = bpf_map_lookup_elem(&tap_bucket, &zero);
	int ok = 0;

	if (!b)
		return 0;
	if (config.snap) {
		__u64 most = (__u64)config.snap * (skb->gso_segs > 1 ? skb->gso_segs : 1);

		if (octets > most)
			octets = most;
	}
	bpf_spin_lock(&b->lock);
	passed = now - b->last;
	if (!b->last) {
		b->tokens = config.burst;
		b->last = now;
	} else if ((__s64)passed > 0) { /* another processor's clock may have been read before */
		if (passed > 1000000000ull) {
			passed = 1000000000ull;
			b->last = now - passed;
		}
		__u64 more = passed * config.rate / 1000000000ull; /* fits: a rate is at most 2^34 */

		b->last += more * 1000000000ull / config.rate; /* what is less than an octet stays */
		b->tokens += more;
		if (b->tokens > config.burst)
			b->tokens = config.burst;
	}
	if (b->tokens >= octets) {
		b->tokens -= octets;
		ok = 1;
	}
	bpf_spin_unlock(&b->lock);
	return ok;
}

/*
 * Whether a packet without IP options could be one of a tunnel in a form of ours, by what lies in one piece of it. Nearly all are none, and
 * that is found out for a few instructions.
 */
INLINE int like_tunnel(struct __sk_buff *skb)
{
	__u8 *p = (__u8 *)(long)skb->data, *end = (__u8 *)(long)skb->data_end;
	__u8 proto;

	if (skb->protocol == BE16(ETH_IPV4)) {
		if (p + ETH + 20 + 12 > end || p[ETH] != 0x45)
			return 1;
		proto = p[ETH + 9];
		p += ETH + 20;
	} else if (skb->protocol == BE16(ETH_IPV6)) {
		if (p + ETH + 40 + 12 > end)
			return 1;
		proto = p[ETH + 6];
		p += ETH + 40;
	} else {
		return 0;
	}
	if (proto == IP_UDP)
		return *(__u32 *)(p + 8) == BE32(0x08000000) || (*(__u32 *)(p + 8) & BE32(0xc000ffff)) == BE32(ETH_TEB);
	return proto == IP_GRE;
}

/* Whether it is a packet of a tunnel of ours, sent or received. */
INLINE int own_tunnel(struct __sk_buff *skb)
{
	struct tunnel_packet t = {};
	struct tunnel k;

	if (!like_tunnel(skb) || tunnel_of(skb, &t))
		return 0;
	tunnel_key(&k, &t, t.dst);
	if (bpf_map_lookup_elem(&own_tunnels, &k))
		return 1;
	tunnel_key(&k, &t, t.src);
	return !!bpf_map_lookup_elem(&own_tunnels, &k);
}

/*
 * Of the kernel's own structures these fields are read, wherever this kernel has them (CO-RE).
 */
#define KERNELS __attribute__((preserve_access_index))

struct net {
	__u64 net_cookie;
} KERNELS;

typedef struct {
	struct net *net;
} KERNELS possible_net_t;

struct net_device {
	possible_net_t nd_net;
} KERNELS;

struct sk_buff {
	struct net_device *dev;
} KERNELS;

/* Linux 6.2 has it. */
extern void *bpf_cast_to_kern_ctx(void *ctx) __attribute__((section(".ksyms"), weak));

/*
 * Whether the device was moved to another network namespace: programs move with it. There the destination's index is
 * somebody else's device.
 */
INLINE int elsewhere(struct __sk_buff *skb)
{
	struct sk_buff *k;

	if (!bpf_cast_to_kern_ctx)
		return 0;
	k = bpf_cast_to_kern_ctx(skb);
	return k->dev->nd_net.net->net_cookie != config.cookie;
}

SEC("tc/tap")
int tap(struct __sk_buff *skb)
{
	__u32 zero = 0, mark = skb->mark, index, *to, len = skb->len + (skb->vlan_present ? 4 : 0);
	struct tap_stats *s;
	__u32 *depth;
	long ret;

	if ((mark & COPY_MASK) == COPY_MAGIC)
		return NEXT;
	s = bpf_map_lookup_elem(&tap_stats, &zero);
	if (!s)
		return NEXT;
	s->seen++;
	if (((config.flags & HAS_VLANS) && !in_vlans(skb)) || ((config.flags & HAS_FILTER) && !matches(skb))) {
		s->not_matched++;
		return NEXT;
	}
	depth = bpf_map_lookup_elem(&tap_depth, &zero);
	if (!depth || *depth || elsewhere(skb)) { /* a copy, or no packet of ours */
		s->seen--;
		return NEXT;
	}
	if (config.sample > 1 && bpf_get_prandom_u32() % config.sample) {
		s->sampled_out++;
		return NEXT;
	}
	if (own_tunnel(skb)) {
		s->lost[LOST_LOOP]++;
		return NEXT;
	}
	if (config.rate && !within_rate(skb, len)) {
		s->rate_limited++;
		return NEXT;
	}

	to = bpf_map_lookup_elem(&tap_to, &zero);
	if (!to) {
		s->lost[LOST_DEVICE]++;
		return NEXT;
	}

	/* The copy inherits both fields; the packet gets its own back. */
	index = skb->tc_index;
	skb->mark = config.mark;
	if (config.flags & TO_MUX)
		skb->tc_index = config.out | (skb->gso_size ? (s->mirrored % COPY_NUMBER) + 1 : 0);
	*depth = 1;
	ret = bpf_clone_redirect(skb, *to, 0);
	if (ret && (config.flags & TO_MADE)) /* nobody has the tap device open: whoever listens on it hears it come in */
		ret = bpf_clone_redirect(skb, *to, REDIRECT_INGRESS);
	*depth = 0;
	skb->mark = mark;
	if (config.flags & TO_MUX)
		skb->tc_index = index;

	if (!ret) {
		s->mirrored++;
		s->octets += len;
	} else if (ret == -22 || ret == -19 || ret == -100) { /* EINVAL, ENODEV, ENETDOWN */
		s->lost[LOST_DEVICE]++;
	} else if (ret > 0 || ret == -12 || ret == -105) { /* NET_XMIT_DROP, NET_XMIT_CN, ENOMEM, ENOBUFS */
		s->lost[LOST_QUEUE]++;
	} else {
		s->lost[LOST_OTHER]++;
	}
	return NEXT;
}
