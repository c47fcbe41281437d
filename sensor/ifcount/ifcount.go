// Package ifcount reads the counters of network devices.
//
// Runs in: agent | tools
package ifcount

import (
	"encoding/binary"
	"fmt"

	"opentap/packet"
	"opentap/sensor"
)

// Row is the counters of one device at one moment. Counters are cumulative since the device was made, as the kernel keeps
// them, and may start again at 0 when a driver resets. Names follow struct rtnl_link_stats64, include/uapi/linux/if_link.h
// (Linux 6.1), whose comments define them.
type Row struct {
	Time    packet.Timestamp // when they were read
	Point   string           // the device's name
	Missing string           // why there are no counters, in words for people; "" = there are. Everything below is then 0

	Up      bool // operational state
	Admin   bool // the administrator wants it up
	Carrier bool // the physical layer says it is connected
	IfIndex uint32

	Stats
}

// Stats are the numbers of a Row: all are counters but SpeedBPS.
type Stats struct {
	RxBytes, RxPackets, RxErrors, RxDropped, RxOver, Multicast     uint64
	TxBytes, TxPackets, TxErrors, TxDropped, TxCarrier, Collisions uint64
	RxLength, RxCRC, RxFrame, RxFIFO, RxMissed                     uint64 // details of RxErrors, but RxMissed
	TxAborted, TxFIFO, TxHeartbeat, TxWindow                       uint64 // details of TxErrors
	RxCompressed, TxCompressed                                     uint64
	RxNoHandler                                                    uint64 // no protocol took the packet
	RxOtherHost                                                    uint64 // for another MAC address; 0 before Linux 5.19
	CarrierChanges, CarrierUp, CarrierDown                         uint64 // carrier transitions
	SpeedBPS                                                       uint64 // bit/s; 0 = the kernel does not say
}

// NumStats is the number of fields of Stats.
const NumStats = 29

// Each calls fn with every field's name, as CSV columns and JSON keys spell it, and its address; always in the same order,
// which is also that of stored records: new fields are added at the end.
func (s *Stats) Each(fn func(name string, v *uint64)) {
	for i, v := range s.fields() {
		fn(names[i], v)
	}
}

// Names returns the names of the fields in the order of Each.
func Names() [NumStats]string { return names }

var names = [NumStats]string{
	"rx_bytes", "rx_packets", "rx_errors", "rx_dropped", "rx_over_errors", "multicast",
	"tx_bytes", "tx_packets", "tx_errors", "tx_dropped", "tx_carrier_errors", "collisions",
	"rx_length_errors", "rx_crc_errors", "rx_frame_errors", "rx_fifo_errors", "rx_missed_errors",
	"tx_aborted_errors", "tx_fifo_errors", "tx_heartbeat_errors", "tx_window_errors",
	"rx_compressed", "tx_compressed", "rx_nohandler", "rx_otherhost_dropped",
	"carrier_changes", "carrier_up_count", "carrier_down_count", "speed_bps",
}

func (s *Stats) fields() [NumStats]*uint64 {
	return [NumStats]*uint64{
		&s.RxBytes, &s.RxPackets, &s.RxErrors, &s.RxDropped, &s.RxOver, &s.Multicast,
		&s.TxBytes, &s.TxPackets, &s.TxErrors, &s.TxDropped, &s.TxCarrier, &s.Collisions,
		&s.RxLength, &s.RxCRC, &s.RxFrame, &s.RxFIFO, &s.RxMissed,
		&s.TxAborted, &s.TxFIFO, &s.TxHeartbeat, &s.TxWindow,
		&s.RxCompressed, &s.TxCompressed, &s.RxNoHandler, &s.RxOtherHost,
		&s.CarrierChanges, &s.CarrierUp, &s.CarrierDown, &s.SpeedBPS,
	}
}

// Codec turns rows into octets and back. It keeps no state and is safe for concurrent use.
type Codec struct{}

// Schema names the record and its version.
func (Codec) Schema() (name string, version uint16) { return "opentap.ifcount.row", 1 }

// Bits of a record's flags.
const (
	flagUp = 1 << iota
	flagAdmin
	flagCarrier
)

// Append appends the record to dst: time (8 octets little-endian), flags (1), interface index, the number of counters and
// the counters (uvarints), then point and missing, each as length (uvarint) and text.
func (Codec) Append(dst []byte, r *Row) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, uint64(r.Time))
	var flags byte
	if r.Up {
		flags |= flagUp
	}
	if r.Admin {
		flags |= flagAdmin
	}
	if r.Carrier {
		flags |= flagCarrier
	}
	dst = append(dst, flags)
	dst = binary.AppendUvarint(dst, uint64(r.IfIndex))
	dst = binary.AppendUvarint(dst, NumStats)
	for _, v := range r.fields() {
		dst = binary.AppendUvarint(dst, *v)
	}
	dst = sensor.AppendText(dst, r.Point)
	return sensor.AppendText(dst, r.Missing)
}

// Decode fills r from a record that Append made, now or when there were fewer counters. A text that r holds already is
// kept, so that decoding rows of one point into the same r does not allocate.
func (Codec) Decode(src []byte, r *Row) error {
	if len(src) < 9 {
		return fmt.Errorf("decode counters: %d octets, want at least 9: %w", len(src), sensor.ErrCorrupt)
	}
	r.Time = packet.Timestamp(binary.LittleEndian.Uint64(src))
	r.Up, r.Admin, r.Carrier = src[8]&flagUp != 0, src[8]&flagAdmin != 0, src[8]&flagCarrier != 0
	d := decoder{src: src[9:]}
	r.IfIndex = uint32(d.uvarint())
	n := d.uvarint()
	if n > NumStats {
		return fmt.Errorf("decode counters: a row of %d counters, this version knows %d: %w", n, NumStats, sensor.ErrCorrupt)
	}
	for i, v := range r.fields() {
		*v = 0
		if uint64(i) < n {
			*v = d.uvarint()
		}
	}
	if d.bad {
		return fmt.Errorf("decode counters: the row ends within a number: %w", sensor.ErrCorrupt)
	}
	rest, err := sensor.DecodeText(d.src, &r.Point)
	if err == nil {
		rest, err = sensor.DecodeText(rest, &r.Missing)
	}
	if err != nil {
		return fmt.Errorf("decode counters: %w", err)
	}
	if len(rest) != 0 {
		return fmt.Errorf("decode counters: %d octets behind the end: %w", len(rest), sensor.ErrCorrupt)
	}
	return nil
}

type decoder struct {
	src []byte
	bad bool
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.src)
	if n <= 0 {
		d.bad, d.src = true, nil
		return 0
	}
	d.src = d.src[n:]
	return v
}
