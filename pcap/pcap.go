// Package pcap reads, writes and merges pcap and pcapng capture files.
//
// Runs in: agent | controller | tools
//
// There are two tiers. Reader, NGWriter and ClassicWriter are for people: any file of either format in, correct files
// out. The Append functions and NextBlock are for engines that lay out files in memory themselves: no allocation, no
// check of what the caller got wrong; docs/format/pcapng.md says exactly which blocks and options they write.
//
// Sources: draft-ietf-opsawg-pcap (classic) and draft-ietf-opsawg-pcapng.
package pcap

import (
	"fmt"

	"opentap/packet"
)

// PEN is the private enterprise number of OpenTap's custom options: the one RFC 5612 reserves for documentation.
const PEN = 32473

// MaxPacket is the largest captured length of one packet, in octets, as in libpcap (MAXIMUM_SNAPLEN).
const MaxPacket = 262144

// Block types of pcapng.
const (
	BlockSection    = 0x0a0d0d0a // Section Header Block
	BlockInterface  = 1          // Interface Description Block
	BlockOldPacket  = 2          // Packet Block: obsolete, read and never written
	BlockSimple     = 3          // Simple Packet Block: read and never written
	BlockStatistics = 5          // Interface Statistics Block
	BlockPacket     = 6          // Enhanced Packet Block
)

// Codes of custom options: what follows is a PEN and data. Tools that edit a file may copy the first two and must drop
// the others.
const (
	OptionCustomText       = 2988
	OptionCustomBinary     = 2989
	OptionCustomTextDrop   = 19372
	OptionCustomBinaryDrop = 19373
)

// Direction says which way a packet went through its interface.
type Direction uint8

// Directions, with the numbers of the epb_flags option.
const (
	DirectionUnknown Direction = 0
	DirectionIn      Direction = 1
	DirectionOut     Direction = 2
)

// String returns "in", "out" or "unknown".
func (d Direction) String() string {
	switch d {
	case DirectionIn:
		return "in"
	case DirectionOut:
		return "out"
	}
	return "unknown"
}

// Section describes who wrote a pcapng section and on what. Every field may be empty.
type Section struct {
	Hardware    string
	OS          string
	Application string
	Comment     string
}

// Interface describes where packets were captured. Written interfaces always have nanosecond timestamps (if_tsresol 9);
// read ones are converted to nanoseconds, whatever the file's resolution.
type Interface struct {
	Name        string
	Description string
	Filter      string // pcap-filter text in force while capturing
	OS          string
	Link        packet.LinkType
	SnapLen     uint32 // octets kept of each packet; 0 = no limit
	SpeedBPS    uint64 // bits per second; 0 = unknown
	MAC         packet.MAC
	HasMAC      bool
}

// Packet is one captured packet.
type Packet struct {
	Interface int              // index into the file's interfaces, counted over all sections
	Time      packet.Timestamp // 0 where the file has none (Simple Packet Block)
	OrigLen   uint32           // octets on the wire
	Data      []byte           // captured octets; from a Reader: borrowed until the next call of Next
	Direction Direction
	Comment   string
}

// StatsField says which fields of a Stats are known: zero is a count, absence is not.
type StatsField uint8

// Fields of a Stats.
const (
	HasStart StatsField = 1 << iota
	HasEnd
	HasReceived
	HasDropped
	HasFilterAccepted
	HasOSDropped
	HasDelivered
)

// Stats is an Interface Statistics Block. Counters are packets, cumulative since Start.
type Stats struct {
	Interface int              // as in Packet
	Time      packet.Timestamp // when the counters were read
	Start     packet.Timestamp // isb_starttime
	End       packet.Timestamp // isb_endtime

	Received       uint64 // isb_ifrecv: received by the interface
	Dropped        uint64 // isb_ifdrop: dropped by the interface for lack of resources
	FilterAccepted uint64 // isb_filteraccept: accepted by the filter
	OSDropped      uint64 // isb_osdrop: dropped by the operating system
	Delivered      uint64 // isb_usrdeliv: delivered to the user

	Has     StatsField
	Comment string
	Custom  []CustomOption
}

// CustomOption is an option of a private enterprise. In OpenTap's own (PEN), Data starts with a little-endian uint16
// kind; kind 0 is padding and is never returned by readers. docs/format/pcapng.md lists the kinds.
type CustomOption struct {
	PEN  uint32
	Code uint16 // one of the OptionCustom codes; 0 is written as OptionCustomBinary
	Data []byte
}

// FormatError says that a file is not what it claims to be, and where. When the file just ends too early, as after a
// crash or in a file still being written, errors.Is(err, io.ErrUnexpectedEOF) is true.
type FormatError struct {
	Offset int64 // of the block or packet record, in octets from the start of the file
	Msg    string
	Err    error // io.ErrUnexpectedEOF or nil
}

// Error shows the offset and the reason.
func (e *FormatError) Error() string {
	return fmt.Sprintf("read capture file: offset %d: %s", e.Offset, e.Msg)
}

// Unwrap returns the cause.
func (e *FormatError) Unwrap() error { return e.Err }
