// Package netflow writes and reads the messages of NetFlow version 5 and 9 and of IPFIX.
//
// Runs in: agent | tools
//
// Sources: NetFlow version 5 as Cisco describes it, RFC 3954 (version 9), RFC 7011 and RFC 7012 (IPFIX), RFC 5103 (both
// directions in one record), RFC 7125 (TCP flags). Messages are octets in memory: the sockets are flow/export's and
// flow/collect's. Nothing here looks at a clock.
package netflow

import (
	"encoding/binary"

	"opentap/packet"
)

// Version is the first number of a message.
type Version uint16

// Versions.
const (
	V5    Version = 5
	V9    Version = 9
	IPFIX Version = 10
)

// String returns the name used in configurations.
func (v Version) String() string {
	switch v {
	case V5:
		return "netflow5"
	case V9:
		return "netflow9"
	case IPFIX:
		return "ipfix"
	}
	return "unknown"
}

// Flow is what a data record says. What a record does not say is zero.
type Flow struct {
	First, Last packet.Timestamp

	Src, Dst         [16]byte // IPv4 as IPv4-mapped IPv6
	IP               uint8    // 4 or 6; 0 = the record names no addresses
	Proto            uint8
	TOS              uint8
	TCPFlags         uint8
	EndReason        uint8 // flowEndReason, element 136
	SrcPort, DstPort uint16
	ICMPTypeCode     uint16 // type*256+code
	VLAN, InnerVLAN  uint16
	SrcMAC, DstMAC   packet.MAC
	Input, Output    uint32 // SNMP indices of the interfaces

	Packets, Octets       uint64
	RevPackets, RevOctets uint64
	RevTCPFlags, RevTOS   uint8

	Sampling uint32 // the packets counted were one in this many; 0 = not said
}

var be = binary.BigEndian
