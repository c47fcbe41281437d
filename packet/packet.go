// Package packet decodes frames from the link layer up to the transport ports into a reusable Parsed.
//
// Runs in: agent | controller | tools
package packet

import (
	"net/netip"
	"time"
)

// Timestamp is packet time: nanoseconds since the Unix epoch, UTC. It is what the capture point said, never the
// clock of the reader, so that a replay decides exactly as the live run did.
type Timestamp int64

// TimestampOf converts a wall-clock time.
func TimestampOf(t time.Time) Timestamp { return Timestamp(t.UnixNano()) }

// Time converts to a wall-clock time in UTC.
func (t Timestamp) Time() time.Time { return time.Unix(0, int64(t)).UTC() }

// Add returns t moved by d.
func (t Timestamp) Add(d time.Duration) Timestamp { return t + Timestamp(d) }

// Sub returns t-u.
func (t Timestamp) Sub(u Timestamp) time.Duration { return time.Duration(t - u) }

// LinkType says how a frame begins. The values are the LINKTYPE_ numbers of pcap and pcapng files
// (https://www.tcpdump.org/linktypes.html).
type LinkType uint16

// The link types OpenTap records. Anything else is refused where it is met.
const (
	LinkEthernet LinkType = 1   // Ethernet II and 802.3, with or without 802.1Q tags
	LinkRaw      LinkType = 101 // starts with an IPv4 or IPv6 header (tun devices)
)

// MAC is an IEEE 802 address.
type MAC [6]byte

// AppendTo appends m as text: lower case, with colons.
func (m MAC) AppendTo(b []byte) []byte {
	const hex = "0123456789abcdef"
	for i, o := range m {
		if i > 0 {
			b = append(b, ':')
		}
		b = append(b, hex[o>>4], hex[o&15])
	}
	return b
}

// Layer is a set of what Decode found whole. A field of Parsed is valid iff the layer it names is in Parsed.Layers.
type Layer uint16

// Layers that Decode can find.
const (
	LayerEthernet  Layer = 1 << iota // SrcMAC, DstMAC, EtherType
	LayerVLAN                        // VLANs[:VLANCount]
	LayerMPLS                        // MPLSLabel (outermost)
	LayerARP                         // EtherType is ARP
	LayerIPv4                        // Src, Dst, Proto, TOS, TTL, IPOctets, FragID
	LayerIPv6                        // Src, Dst, Proto, TOS, TTL, IPOctets
	LayerFragment                    // the datagram is a fragment (offset > 0 or more-fragments set): FragOff, MoreFrag, FragID
	LayerTransport                   // SrcPort, DstPort (TCP, UDP, SCTP, UDP-Lite, DCCP)
	LayerTCP                         // TCPFlags
	LayerICMP                        // ICMPType, ICMPCode (ICMP and ICMPv6)
)

// Defect says why Decode stopped before the end of the headers. Zero is a frame without defect.
type Defect uint8

// Defects. A defect never hides what was found before it: Layers stays true.
const (
	DefectNone      Defect = iota
	DefectTruncated        // the capture (snap length) or the frame ends inside a header
	DefectMalformed        // a header contradicts itself (length, version)
)

// Parsed is one decoded frame. It is filled in place by Decode and holds no pointer into the frame, so it can be
// reused for every packet and kept after the frame's memory is given back. Fields are valid as Layer says.
type Parsed struct {
	Time     Timestamp // set by the caller
	OrigLen  uint32    // octets on the wire, without FCS
	CapLen   uint32    // octets captured
	Layers   Layer
	Defect   Defect
	Link     LinkType
	L3Offset uint16 // where the network header begins
	L4Offset uint16 // where the transport header begins; 0 = none
	Payload  uint16 // where the transport payload begins; 0 = none

	SrcMAC, DstMAC MAC
	EtherType      uint16    // after the last VLAN tag
	VLANs          [2]uint16 // TCI (priority, DEI, VID) outermost first
	VLANCount      uint8
	MPLSLabel      uint32

	// Src and Dst hold IPv4 as IPv4-mapped IPv6 (::ffff:a.b.c.d), in network order.
	Src, Dst [16]byte
	IPOctets uint32 // total octets of the IP datagram as its header says: IPv4 total length; IPv6 40 + payload length (0: see Decode)
	Proto    uint8  // last header's protocol number (after IPv6 extension headers)
	TOS      uint8  // IPv4 TOS or IPv6 traffic class
	TTL      uint8
	FragOff  uint16 // octets; valid with LayerFragment
	MoreFrag bool
	FragID   uint32 // IPv4 identification; IPv6: valid with LayerFragment

	SrcPort, DstPort   uint16
	TCPFlags           uint8 // FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32, ECE 64, CWR 128
	ICMPType, ICMPCode uint8
}

// IsIP reports whether the frame carries a whole IPv4 or IPv6 header.
func (p *Parsed) IsIP() bool { return p.Layers&(LayerIPv4|LayerIPv6) != 0 }

// SrcAddr returns the source address, unmapped.
func (p *Parsed) SrcAddr() netip.Addr { return netip.AddrFrom16(p.Src).Unmap() }

// DstAddr returns the destination address, unmapped.
func (p *Parsed) DstAddr() netip.Addr { return netip.AddrFrom16(p.Dst).Unmap() }
