// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
/*
 * Takes copies that come from other hosts out of their tunnel and hands them to the tool's device. It runs at the ingress of the devices that
 * lead to those hosts; all else goes on as it came.
 */
#include "tunnel.h"

char _license[] SEC("license") = "Dual MIT/GPL";

enum { SINK_MADE = 1 };

struct sink {
	__u32 flags;
	__u32 index; /* in sink_devices and sink_stats */
};

/* Who may send to what: the address is the sender's. */
struct {
	UINT(type, MAP_HASH);
	UINT(max_entries, 65536);
	UINT(map_flags, NO_PREALLOC);
	TYPE(key, struct tunnel);
	TYPE(value, struct sink);
} sinks SEC(".maps");

/* By a sink's number, where its frames go. It has no device that is gone (see tap_to in tap.c). */
struct {
	UINT(type, MAP_DEVMAP_HASH);
	UINT(max_entries, 65536);
	TYPE(key, __u32);
	TYPE(value, __u32);
} sink_devices SEC(".maps");

struct address {
	__u32 a[4];
};

/* This host's addresses. */
struct {
	UINT(type, MAP_HASH);
	UINT(max_entries, 4096);
	UINT(map_flags, NO_PREALLOC);
	TYPE(key, struct address);
	TYPE(value, __u32);
} own_addresses SEC(".maps");

enum { SINK_DEVICE, SINK_QUEUE, SINK_CHANGE, SINK_LOSSES };

struct sink_stats {
	__u64 seen, delivered, octets;
	__u64 lost[SINK_LOSSES];
};

struct {
	UINT(type, MAP_PERCPU_HASH);
	UINT(max_entries, 65536);
	UINT(map_flags, NO_PREALLOC);
	TYPE(key, __u32);
	TYPE(value, struct sink_stats);
} sink_stats SEC(".maps");

SEC("tc/sink")
int sink(struct __sk_buff *skb)
{
	struct tunnel_packet t = {};
	struct tunnel k;
	struct address a;
	struct sink_stats *s;
	struct sink *to;
	__u32 head[4] = {}, index, least, *device, flags;
	long ret;

	if (tunnel_of(skb, &t))
		return NEXT;
	tunnel_key(&k, &t, t.src);
	to = bpf_map_lookup_elem(&sinks, &k);
	if (!to)
		return NEXT;
	for (int i = 0; i < 4; i++)
		a.a[i] = t.dst[i];
	if (!bpf_map_lookup_elem(&own_addresses, &a))
		return NEXT; /* passing through */
	index = to->index;
	flags = to->flags;
	s = bpf_map_lookup_elem(&sink_stats, &index);
	if (!s)
		return NEXT;
	s->seen++;
	device = bpf_map_lookup_elem(&sink_devices, &index);
	if (!device) {
		s->lost[SINK_DEVICE]++;
		return DROP;
	}
	if (bpf_skb_load_bytes(skb, t.inner, head, ETH)) {
		s->lost[SINK_CHANGE]++;
		return DROP;
	}
	/* The kernel leaves room for a network header of 20 octets, which a short frame is padded to, as Ethernet pads. */
	least = t.inner + ETH + 20;
	if (skb->len < least && bpf_skb_change_tail(skb, least, 0)) {
		s->lost[SINK_CHANGE]++;
		return DROP;
	}
	if (t.inner > 200 || bpf_skb_adjust_room(skb, -(int)t.inner, ADJ_ROOM_MAC, ADJ_FIXED_GSO | (t.v6 ? ADJ_DECAP_L3_IPV4 : 0)) ||
	    bpf_skb_store_bytes(skb, 0, head, ETH, STORE_INVALIDATE_HASH)) {
		s->lost[SINK_CHANGE]++;
		return DROP;
	}
	skb->mark = COPY_DELIVERED;
	ret = bpf_clone_redirect(skb, *device, 0);
	if (ret && (flags & SINK_MADE))
		ret = bpf_clone_redirect(skb, *device, REDIRECT_INGRESS);
	if (!ret) {
		s->delivered++;
		s->octets += skb->len;
	} else if (ret < 0) {
		s->lost[SINK_DEVICE]++;
	} else {
		s->lost[SINK_QUEUE]++;
	}
	return DROP;
}

/* At the ingress of a tap device that we made: copies were heard by whoever listens, and the host does not get them. */
SEC("tc/swallow")
int swallow(struct __sk_buff *skb)
{
	return (skb->mark & COPY_MASK) == COPY_MAGIC ? DROP : NEXT;
}
