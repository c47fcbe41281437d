// Package arrowout writes flow records as a stream of Apache Arrow record batches.
//
// Runs in: agent | tools
//
// The columns are those of flow/csvout under the same names, typed: times are timestamps in nanoseconds, UTC, numbers are
// unsigned and as wide as their field in the packet, addresses and words are strings, and a field without meaning is null.
// Nothing is compressed or put into dictionaries, so every reader reads it, and without copying. The same records give
// the same octets. Source: Arrow columnar format 1.0, "IPC Streaming Format". The library it stands on brings a
// JSON codec and two compressors along, so no engine may import this room.
package arrowout

import (
	"fmt"
	"io"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"opentap/flow"
	"opentap/packet"
)

// batch is how many records stand in one record batch: what a reader holds at once, about 2 MB.
const batch = 8192

// schema makes the description of the columns, in the order Write fills them.
func schema() *arrow.Schema {
	instant := &arrow.TimestampType{Unit: arrow.Nanosecond, TimeZone: "UTC"}
	u8, u16, u32, u64 := arrow.PrimitiveTypes.Uint8, arrow.PrimitiveTypes.Uint16, arrow.PrimitiveTypes.Uint32, arrow.PrimitiveTypes.Uint64
	text := arrow.BinaryTypes.String
	always := func(name string, t arrow.DataType) arrow.Field { return arrow.Field{Name: name, Type: t} }
	maybe := func(name string, t arrow.DataType) arrow.Field {
		return arrow.Field{Name: name, Type: t, Nullable: true}
	}
	return arrow.NewSchema([]arrow.Field{
		always("first", instant), always("last", instant), always("duration_ns", arrow.PrimitiveTypes.Int64),
		always("ip_version", u8), always("src_addr", text), always("dst_addr", text),
		maybe("src_port", u16), maybe("dst_port", u16), always("protocol", text), always("protocol_number", u8),
		maybe("icmp_type", u8), maybe("icmp_code", u8), maybe("tcp_flags", u8), always("tos", u8),
		always("packets", u64), always("octets", u64), always("rev_packets", u64), always("rev_octets", u64),
		maybe("rev_tcp_flags", u8), maybe("rev_tos", u8), always("fragments", u64), always("ports_known", arrow.FixedWidthTypes.Boolean),
		maybe("vlan", u16), maybe("inner_vlan", u16), maybe("src_mac", text), maybe("dst_mac", text),
		always("end_reason", text), always("sampling", u32),
	}, nil)
}

// Writer writes one stream. It is for one goroutine at a time, holds at most one record batch in memory, and never closes
// the io.Writer it was given.
type Writer struct {
	w    *ipc.Writer
	rows *array.RecordBuilder
	n    int // records in rows
	col  int // column that is filled next
	text []byte
}

// NewWriter returns a writer; nothing is written before the first batch is full or Close.
func NewWriter(w io.Writer) *Writer {
	s, mem := schema(), memory.NewGoAllocator()
	return &Writer{w: ipc.NewWriter(w, ipc.WithSchema(s), ipc.WithAllocator(mem)), rows: array.NewRecordBuilder(mem, s), text: make([]byte, 0, 64)}
}

// Write adds one record; r is not kept.
func (x *Writer) Write(r *flow.Record) error {
	if r.Sampling > 1 {
		e := r.Estimate()
		r = &e
	}
	tcp, icmp, ports, reverse := r.HasTCP(), r.HasICMP(), r.HasPorts(), r.RevPackets > 0

	x.col = 0
	x.instant(r.First)
	x.instant(r.Last)
	next[*array.Int64Builder](x).Append(int64(r.Last - r.First))
	x.u8(r.Version, true)
	x.octets(r.SrcAddr().AppendTo(x.text[:0]))
	x.octets(r.DstAddr().AppendTo(x.text[:0]))
	x.u16(r.SrcPort, ports)
	x.u16(r.DstPort, ports)
	x.word(packet.ProtoName(r.Proto))
	x.u8(r.Proto, true)
	x.u8(r.ICMPType, icmp)
	x.u8(r.ICMPCode, icmp)
	x.u8(r.TCPFlags, tcp)
	x.u8(r.TOS, true)
	x.u64(r.Packets)
	x.u64(r.Octets)
	x.u64(r.RevPackets)
	x.u64(r.RevOctets)
	x.u8(r.RevTCPFlags, tcp && reverse)
	x.u8(r.RevTOS, reverse)
	x.u64(uint64(r.Fragments))
	next[*array.BooleanBuilder](x).Append(!r.PortsUnknown)
	x.u16(r.VLAN, r.VLAN != 0)
	x.u16(r.InnerVLAN, r.InnerVLAN != 0)
	x.mac(r.SrcMAC)
	x.mac(r.DstMAC)
	x.word(r.EndReason.String())
	next[*array.Uint32Builder](x).Append(max(r.Sampling, 1))

	if x.n++; x.n == batch {
		return x.hand()
	}
	return nil
}

// next returns the builder of the column that is filled next. The schema says which type it is.
func next[B array.Builder](x *Writer) B {
	b := x.rows.Field(x.col).(B)
	x.col++
	return b
}

func (x *Writer) instant(t packet.Timestamp) {
	next[*array.TimestampBuilder](x).Append(arrow.Timestamp(t))
}

func (x *Writer) u8(v uint8, valid bool) {
	if b := next[*array.Uint8Builder](x); valid {
		b.Append(v)
	} else {
		b.AppendNull()
	}
}

func (x *Writer) u16(v uint16, valid bool) {
	if b := next[*array.Uint16Builder](x); valid {
		b.Append(v)
	} else {
		b.AppendNull()
	}
}

func (x *Writer) u64(v uint64) { next[*array.Uint64Builder](x).Append(v) }

func (x *Writer) word(s string) { next[*array.StringBuilder](x).Append(s) }

// octets adds text that is copied.
func (x *Writer) octets(b []byte) { next[*array.StringBuilder](x).BinaryBuilder.Append(b) }

func (x *Writer) mac(m packet.MAC) {
	if m == (packet.MAC{}) {
		next[*array.StringBuilder](x).AppendNull()
		return
	}
	x.octets(m.AppendTo(x.text[:0]))
}

// hand writes the records collected as one batch.
func (x *Writer) hand() error {
	rows := x.rows.NewRecordBatch()
	defer rows.Release()
	x.n = 0
	if err := x.w.Write(rows); err != nil {
		return fmt.Errorf("write arrow record batch: %w", err)
	}
	return nil
}

// Close writes the rest and the mark of the stream's end; without records, the schema and the mark. It does not close the
// io.Writer.
func (x *Writer) Close() error {
	if x.n > 0 {
		if err := x.hand(); err != nil {
			return err
		}
	}
	if err := x.w.Close(); err != nil {
		return fmt.Errorf("end arrow stream: %w", err)
	}
	return nil
}
