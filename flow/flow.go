// Package flow meters packets into flow records.
//
// Runs in: agent | tools
//
// The words are those of RFC 7011 and RFC 7012: a Flow is a set of packets with the same Flow Key that pass an
// Observation Point during an interval; a Flow Record says what was metered of it. Time is packet time alone: the
// table has no clock, so metering a stored capture again gives the same records in the same order, byte for byte.
package flow

import (
	"fmt"
	"math"
	"math/bits"
	"net/netip"
	"time"

	"opentap/packet"
)

// EndReason says why a flow record ended: flowEndReason, RFC 5102 section 5.11.3 (IANA IPFIX element 136).
type EndReason uint8

// End reasons. EndNone is not in the registry: it marks a partial record of a flow that is still alive.
const (
	EndNone   EndReason = 0 // the flow is alive (Snapshot only)
	EndIdle   EndReason = 1 // idle timeout: no packet for IdleTimeout
	EndActive EndReason = 2 // active timeout: reported while still going on
	EndOfFlow EndReason = 3 // end of flow detected: TCP FIN or RST
	EndForced EndReason = 4 // forced end: the meter was flushed
	EndLack   EndReason = 5 // lack of resources: the table was full
	// EndUnsaid is not in the registry either: who sent the record does not say (NetFlow 5 and 9).
	EndUnsaid EndReason = 6
)

var endReasonNames = [...]string{"alive", "idle", "active", "end_of_flow", "forced", "lack_of_resources", "unsaid"}

// String returns the name used in text formats.
func (r EndReason) String() string {
	if int(r) < len(endReasonNames) {
		return endReasonNames[r]
	}
	return fmt.Sprintf("reason_%d", uint8(r))
}

// Config says how a Table meters. DefaultConfig is a good start.
type Config struct {
	IdleTimeout   time.Duration // a flow ends this long after its last packet
	ActiveTimeout time.Duration // a flow is reported, and begins anew, this long after its earliest packet
	LingerTimeout time.Duration // a TCP flow that saw its end (FIN, RST) waits this long for trailing packets; at most IdleTimeout counts
	MaxFlows      int           // most flows alive; memory is bounded by 128 octets each, those that end within the same 8 ms some 24 to 48 more, and 200 KiB
	Bidirectional bool          // both directions in one record, RFC 5103: the initiator is who sent the first packet seen
	Sampling      uint32        // the packets are one in this many; records say so. 0 and 1: all of them
	Inner         bool          // Meter and Parallel: of a tunnel's packet, meter what it carries (packet.Parsed.Inner)

	// MaxReorder bounds how far packet time may go back (several queues, several rings). A packet older than that against
	// the newest one is a stepped clock: all flows are flushed (EndForced) and time starts again from that packet.
	MaxReorder time.Duration
}

// DefaultConfig returns idle 15 s, active 120 s, linger 2 s, a million flows, one record a direction, reorder up to 10 s.
func DefaultConfig() Config {
	return Config{
		IdleTimeout:   15 * time.Second,
		ActiveTimeout: 120 * time.Second,
		LingerTimeout: 2 * time.Second,
		MaxFlows:      1 << 20,
		MaxReorder:    10 * time.Second,
	}
}

// maxMaxFlows keeps a flow's number inside the 28 bits that a slot of the index has for it.
const maxMaxFlows = 1 << 27

// maxTimeout bounds the work of running the wheel ahead.
const maxTimeout = 24 * time.Hour

func (c *Config) check() error {
	switch {
	case c.IdleTimeout <= 0:
		return fmt.Errorf("flow: idle timeout %v is not positive", c.IdleTimeout)
	case c.ActiveTimeout <= 0:
		return fmt.Errorf("flow: active timeout %v is not positive", c.ActiveTimeout)
	case c.LingerTimeout < 0:
		return fmt.Errorf("flow: linger timeout %v is negative", c.LingerTimeout)
	case c.MaxReorder < 0 || c.MaxReorder > maxTimeout:
		return fmt.Errorf("flow: reorder bound %v is outside 0s..%v", c.MaxReorder, maxTimeout)
	case max(c.IdleTimeout, c.ActiveTimeout) > maxTimeout:
		return fmt.Errorf("flow: timeouts idle %v, active %v: more than %v", c.IdleTimeout, c.ActiveTimeout, maxTimeout)
	case c.MaxFlows < 1 || c.MaxFlows > maxMaxFlows:
		return fmt.Errorf("flow: max flows %d is outside 1..%d", c.MaxFlows, maxMaxFlows)
	}
	return nil
}

// Record is one flow record. It is a plain value without pointers: copy it freely.
//
// The Flow Key is IP version, addresses, protocol, ports (ICMP: type and code) and VLAN identifiers. ToS, TCP flags and
// MAC addresses are not part of the key, as in the records of softflowd and nfdump; ToS and MACs are the first packet's,
// TCP flags the union over all packets.
type Record struct {
	First, Last packet.Timestamp // earliest and latest packet, both directions; Last >= First always

	// Src is who sent the first packet. IPv4 is held as IPv4-mapped IPv6, in network order, as in packet.Parsed.
	Src, Dst         [16]byte
	SrcPort, DstPort uint16 // host order; ICMP: SrcPort 0, DstPort type*256+code as in NetFlow; 0 when the protocol has none
	VLAN, InnerVLAN  uint16 // VLAN identifiers (12 bits), outer and inner tag; 0 = no tag or a priority tag
	Proto            uint8  // IANA protocol number of the last header
	Version          uint8  // 4 or 6
	TOS              uint8  // IPv4 ToS or IPv6 traffic class
	TCPFlags         uint8  // union; see packet.Parsed
	ICMPType         uint8  // valid when Proto is 1 or 58 and PortsUnknown is false
	ICMPCode         uint8
	EndReason        EndReason
	PortsUnknown     bool // later fragments, or packets cut before the ports: SrcPort and DstPort are 0 and mean nothing
	SrcMAC, DstMAC   packet.MAC

	Packets   uint64
	Octets    uint64 // IP octets: header and payload, as octetDeltaCount
	Fragments uint64 // packets (both directions) that were IP fragments; saturates at 2^32-1

	// The direction from Dst to Src; zero unless metered bidirectionally.
	RevPackets, RevOctets uint64
	RevTCPFlags, RevTOS   uint8

	// Sampling is the interval of the packets that were counted, one in this many; 0 and 1 are all of them. The counts of a
	// Record are what was counted: Estimate multiplies.
	Sampling uint32
}

// Estimate returns r with Packets, Octets, RevPackets, RevOctets and Fragments multiplied by its sampling interval, which
// it keeps. What overflows stays at the largest number.
func (r *Record) Estimate() Record {
	e := *r
	if r.Sampling > 1 {
		for _, n := range [...]*uint64{&e.Packets, &e.Octets, &e.RevPackets, &e.RevOctets, &e.Fragments} {
			hi, lo := bits.Mul64(*n, uint64(r.Sampling))
			if *n = lo; hi != 0 {
				*n = math.MaxUint64
			}
		}
	}
	return e
}

// SrcAddr returns the source address: IPv4 as IPv4.
func (r *Record) SrcAddr() netip.Addr { return addrOf(r.Src, r.Version) }

// DstAddr returns the destination address: IPv4 as IPv4.
func (r *Record) DstAddr() netip.Addr { return addrOf(r.Dst, r.Version) }

func addrOf(a [16]byte, version uint8) netip.Addr {
	if version == 4 {
		return netip.AddrFrom4([4]byte(a[12:]))
	}
	return netip.AddrFrom16(a)
}

// HasPorts says whether SrcPort and DstPort are ports of the flow's protocol, and known.
func (r *Record) HasPorts() bool {
	switch r.Proto {
	case packet.ProtoTCP, packet.ProtoUDP, packet.ProtoDCCP, packet.ProtoSCTP, packet.ProtoUDPLite:
		return !r.PortsUnknown
	}
	return false
}

// HasICMP says whether ICMPType and ICMPCode mean something.
func (r *Record) HasICMP() bool {
	return (r.Proto == packet.ProtoICMP || r.Proto == packet.ProtoICMP6) && !r.PortsUnknown
}

// HasTCP says whether TCPFlags and RevTCPFlags do.
func (r *Record) HasTCP() bool { return r.Proto == packet.ProtoTCP }

// Duration is Last-First, never negative.
func (r *Record) Duration() time.Duration { return r.Last.Sub(r.First) }

// Stats are a table's accounts, cumulative since New, but for Flows. The identities are
//
//	Packets = Metered + NonIP + Truncated + Malformed
//	Metered = sum of Packets+RevPackets, Octets = sum of Octets+RevOctets, over all records given out and all live flows
type Stats struct {
	Packets   uint64 // frames given to Add
	Metered   uint64 // frames that are in a flow
	Octets    uint64 // their IP octets
	NonIP     uint64 // whole frames of something else: ARP, LLDP, …
	Truncated uint64 // cut before the end of the IP header: not metered
	Malformed uint64 // no sound IP header: not metered

	Fragments    uint64 // of Metered: IP fragments, first ones included
	PortsUnknown uint64 // of Metered: ports not known (later fragments, cut or malformed transport headers)
	Late         uint64 // frames with a time before the newest time seen
	ClockSteps   uint64 // times the clock stepped back by more than MaxReorder
	Flows        int    // flows alive now
	FlowsBegun   uint64 // flows ever begun
	RecordsGiven uint64 // records given to the sink
	FlowsEvicted uint64 // of those, ended early because the table was full (EndLack)
}
