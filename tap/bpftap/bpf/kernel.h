/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * The part of the kernel's interface to eBPF programs that ours use, so that they build from what is in this directory:
 * linux include/uapi/linux/bpf.h, if_ether.h, in.h, pkt_cls.h.
 */
#pragma once

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef long long __s64;

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define BE16(x) ((__u16)__builtin_bswap16((__u16)(x)))
#define BE32(x) ((__u32)__builtin_bswap32((__u32)(x)))

/* Maps are declared in BTF. */
#define UINT(name, value) int(*name)[value]
#define TYPE(name, t) t *name

enum { MAP_HASH = 1, MAP_ARRAY = 2, MAP_PERCPU_HASH = 5, MAP_PERCPU_ARRAY = 6, MAP_DEVMAP = 14, MAP_DEVMAP_HASH = 25 };
enum { NO_PREALLOC = 1 };

/* The offsets are the kernel's. */
struct __sk_buff {
	__u32 len, pkt_type, mark, queue_mapping;
	__u32 protocol; /* in network order */
	__u32 vlan_present, vlan_tci;
	__u32 vlan_proto; /* in network order */
	__u32 priority, ingress_ifindex, ifindex, tc_index;
	__u32 cb[5];
	__u32 hash, tc_classid, data, data_end, napi_id;
	__u32 family, remote_ip4, local_ip4, remote_ip6[4], local_ip6[4], remote_port, local_port;
	__u32 data_meta;
	__u64 flow_keys;
	__u64 tstamp;
	__u32 wire_len, gso_segs;
	__u64 sk;
	__u32 gso_size;
};

struct bpf_spin_lock {
	__u32 val;
};

struct bpf_fib_lookup {
	__u8 family, l4_protocol;
	__u16 sport, dport;
	__u16 tot_len; /* in: length of the IP packet; out: the MTU */
	__u32 ifindex; /* in: where it came in; out: where it goes */
	__u32 flowinfo;
	__u32 src[4], dst[4];
	__u16 h_vlan_proto, h_vlan_TCI;
	__u8 smac[6], dmac[6];
};

/* Return values of bpf_fib_lookup. */
enum { FIB_SUCCESS = 0, FIB_NO_NEIGH = 7, FIB_FRAG_NEEDED = 8 };

/* Verdicts. -1 lets the next program, or the stack, have the packet. */
enum { NEXT = -1, DROP = 2 };

enum { STORE_RECOMPUTE = 1, STORE_INVALIDATE_HASH = 2 };
enum { REDIRECT_INGRESS = 1 };
enum { ADJ_ROOM_MAC = 1, ADJ_FIXED_GSO = 1, ADJ_DECAP_L3_IPV4 = 128 };

enum { AF_INET = 2, AF_INET6 = 10 };
enum { ETH_IPV4 = 0x0800, ETH_IPV6 = 0x86dd, ETH_TEB = 0x6558, ETH_ERSPAN = 0x88be, ETH_8021Q = 0x8100 };
enum { IP_UDP = 17, IP_GRE = 47 };
enum { MACS = 12, ETH = 14 };

static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static __u64 (*bpf_ktime_get_ns)(void) = (void *)5;
static __u32 (*bpf_get_prandom_u32)(void) = (void *)7;
static long (*bpf_skb_store_bytes)(struct __sk_buff *skb, __u32 off, const void *from, __u32 len, __u64 flags) = (void *)9;
static long (*bpf_clone_redirect)(struct __sk_buff *skb, __u32 ifindex, __u64 flags) = (void *)13;
static long (*bpf_skb_vlan_push)(struct __sk_buff *skb, __u16 proto, __u16 tci) = (void *)18;
static long (*bpf_skb_vlan_pop)(struct __sk_buff *skb) = (void *)19;
static long (*bpf_redirect)(__u32 ifindex, __u64 flags) = (void *)23;
static long (*bpf_skb_load_bytes)(const struct __sk_buff *skb, __u32 off, void *to, __u32 len) = (void *)26;
static __u32 (*bpf_get_hash_recalc)(struct __sk_buff *skb) = (void *)34;
static long (*bpf_skb_change_tail)(struct __sk_buff *skb, __u32 len, __u64 flags) = (void *)38;
static long (*bpf_skb_change_head)(struct __sk_buff *skb, __u32 room, __u64 flags) = (void *)43;
static long (*bpf_skb_adjust_room)(struct __sk_buff *skb, int diff, __u32 mode, __u64 flags) = (void *)50;
static long (*bpf_fib_lookup)(void *ctx, struct bpf_fib_lookup *params, int len, __u32 flags) = (void *)69;
static long (*bpf_spin_lock)(struct bpf_spin_lock *lock) = (void *)93;
static long (*bpf_spin_unlock)(struct bpf_spin_lock *lock) = (void *)94;
static long (*bpf_redirect_neigh)(__u32 ifindex, void *params, int len, __u64 flags) = (void *)152;
