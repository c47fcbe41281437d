// Package parquetout writes flow records as an Apache Parquet file.
//
// Runs in: agent | tools
//
// The columns are those of flow/csvout under the same names, typed: times are TIMESTAMP(NANOS, UTC), addresses and words
// are strings (dictionary-encoded), and a field without meaning is null. Pages are compressed by zstd. The same records
// give the same octets. The library it stands on links net/http and protobuf, so no engine may import this room.
package parquetout

import (
	"fmt"
	"io"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress/zstd"

	"opentap/flow"
	"opentap/packet"
)

// Row is the schema: what a reader of the file gets.
type Row struct {
	First          int64   `parquet:"first,timestamp(nanosecond),delta"`
	Last           int64   `parquet:"last,timestamp(nanosecond),delta"`
	DurationNS     int64   `parquet:"duration_ns"`
	IPVersion      int32   `parquet:"ip_version,dict"`
	SrcAddr        string  `parquet:"src_addr,dict"`
	DstAddr        string  `parquet:"dst_addr,dict"`
	SrcPort        *int32  `parquet:"src_port,optional"`
	DstPort        *int32  `parquet:"dst_port,optional,dict"`
	Protocol       string  `parquet:"protocol,dict"`
	ProtocolNumber int32   `parquet:"protocol_number,dict"`
	ICMPType       *int32  `parquet:"icmp_type,optional,dict"`
	ICMPCode       *int32  `parquet:"icmp_code,optional,dict"`
	TCPFlags       *int32  `parquet:"tcp_flags,optional,dict"`
	TOS            int32   `parquet:"tos,dict"`
	Packets        int64   `parquet:"packets"`
	Octets         int64   `parquet:"octets"`
	RevPackets     int64   `parquet:"rev_packets"`
	RevOctets      int64   `parquet:"rev_octets"`
	RevTCPFlags    *int32  `parquet:"rev_tcp_flags,optional,dict"`
	RevTOS         *int32  `parquet:"rev_tos,optional,dict"`
	Fragments      int64   `parquet:"fragments"`
	PortsKnown     bool    `parquet:"ports_known"`
	VLAN           *int32  `parquet:"vlan,optional,dict"`
	InnerVLAN      *int32  `parquet:"inner_vlan,optional,dict"`
	SrcMAC         *string `parquet:"src_mac,optional,dict"`
	DstMAC         *string `parquet:"dst_mac,optional,dict"`
	EndReason      string  `parquet:"end_reason,dict"`
	Sampling       int64   `parquet:"sampling,dict"`
}

const (
	columns   = 28
	batch     = 256     // rows handed to the library at once
	groupRows = 1 << 16 // rows of a row group: bounds the memory of writer and reader
)

// Writer writes one file. It is for one goroutine at a time, holds at most one row group in memory (about 15 MB), and
// never closes the io.Writer it was given.
type Writer struct {
	//lint:ignore SA1019 the generic writer takes structs by reflection; rows of values are what costs no allocation
	w    *parquet.Writer
	rows []parquet.Row
	n    int    // rows filled
	text []byte // what the values of the rows filled point to
}

// NewWriter returns a writer; nothing is written before the first row group is full or Close.
func NewWriter(w io.Writer) *Writer {
	x := &Writer{
		w: parquet.NewWriter(w, parquet.SchemaOf(Row{}), parquet.Compression(&zstd.Codec{Level: zstd.SpeedDefault, Concurrency: 1}),
			parquet.MaxRowsPerRowGroup(groupRows), parquet.CreatedBy("opentap", "1", "")),
		rows: make([]parquet.Row, batch),
		text: make([]byte, 0, batch*160),
	}
	for i := range x.rows {
		x.rows[i] = make(parquet.Row, 0, columns)
	}
	return x
}

// protoNames and endNames are texts made once.
var protoNames = func() (names [256][]byte) {
	for i := range names {
		names[i] = []byte(packet.ProtoName(uint8(i)))
	}
	return names
}()

var endNames = func() (names [256][]byte) {
	for i := range names {
		names[i] = []byte(flow.EndReason(i).String())
	}
	return names
}()

// Write adds one record; r is not kept.
func (x *Writer) Write(r *flow.Record) error {
	if r.Sampling > 1 {
		e := r.Estimate()
		r = &e
	}
	row := x.rows[x.n][:0]
	def := 0
	add := func(v parquet.Value) { row = append(row, v.Level(0, def, len(row))) }
	number := func(v int32) { add(parquet.Int32Value(v)) }
	count := func(v uint64) { add(parquet.Int64Value(int64(min(v, 1<<63-1)))) }
	optional := func(v int32, valid bool) {
		if !valid {
			add(parquet.NullValue())
			return
		}
		def = 1
		number(v)
		def = 0
	}
	text := func(from int) { add(parquet.ByteArrayValue(x.text[from:len(x.text):len(x.text)])) }
	mac := func(m packet.MAC) {
		if m == (packet.MAC{}) {
			add(parquet.NullValue())
			return
		}
		from := len(x.text)
		x.text = m.AppendTo(x.text)
		def = 1
		text(from)
		def = 0
	}

	tcp, icmp, ports, reverse := r.HasTCP(), r.HasICMP(), r.HasPorts(), r.RevPackets > 0

	add(parquet.Int64Value(int64(r.First)))
	add(parquet.Int64Value(int64(r.Last)))
	count(uint64(r.Last) - uint64(r.First))
	number(int32(r.Version))
	from := len(x.text)
	x.text = r.SrcAddr().AppendTo(x.text)
	text(from)
	from = len(x.text)
	x.text = r.DstAddr().AppendTo(x.text)
	text(from)
	optional(int32(r.SrcPort), ports)
	optional(int32(r.DstPort), ports)
	add(parquet.ByteArrayValue(protoNames[r.Proto]))
	number(int32(r.Proto))
	optional(int32(r.ICMPType), icmp)
	optional(int32(r.ICMPCode), icmp)
	optional(int32(r.TCPFlags), tcp)
	number(int32(r.TOS))
	count(r.Packets)
	count(r.Octets)
	count(r.RevPackets)
	count(r.RevOctets)
	optional(int32(r.RevTCPFlags), tcp && reverse)
	optional(int32(r.RevTOS), reverse)
	count(r.Fragments)
	add(parquet.BooleanValue(!r.PortsUnknown))
	optional(int32(r.VLAN), r.VLAN != 0)
	optional(int32(r.InnerVLAN), r.InnerVLAN != 0)
	mac(r.SrcMAC)
	mac(r.DstMAC)
	add(parquet.ByteArrayValue(endNames[r.EndReason]))
	add(parquet.Int64Value(int64(max(r.Sampling, 1))))

	x.rows[x.n] = row
	if x.n++; x.n == batch {
		return x.hand()
	}
	return nil
}

// hand gives the rows filled to the library, which copies them.
func (x *Writer) hand() error {
	_, err := x.w.WriteRows(x.rows[:x.n])
	x.n, x.text = 0, x.text[:0]
	if err != nil {
		return fmt.Errorf("write parquet rows: %w", err)
	}
	return nil
}

// Close writes the rest and the footer: without it the output is no Parquet file. It does not close the io.Writer.
func (x *Writer) Close() error {
	if err := x.hand(); err != nil {
		return err
	}
	if err := x.w.Close(); err != nil {
		return fmt.Errorf("write parquet footer: %w", err)
	}
	return nil
}
