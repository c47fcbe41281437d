// Package parquetout writes rows of counters and samples as Parquet files.
//
// Runs in: agent | tools
package parquetout

import (
	"fmt"
	"io"
	"math"

	"github.com/parquet-go/parquet-go"

	"opentap/sensor"
	"opentap/sensor/ifcount"
)

// It is a room of its own because the library it wraps links net/http and protobuf, which the engines do without.
//
// Columns are those of the plain CSV. A row without a value has nulls and says why in the column missing.

// rowsPerGroup bounds what is held in memory before it is written.
const rowsPerGroup = 64 << 10

type sampleRow struct {
	Time    int64    `parquet:"time,timestamp(nanosecond),delta"`
	Point   string   `parquet:"point,dict"`
	Value   *float64 `parquet:"value,optional"`
	Missing *string  `parquet:"missing,optional,dict"`
}

type counterRow struct {
	Time    int64   `parquet:"time,timestamp(nanosecond),delta"`
	Point   string  `parquet:"point,dict"`
	Up      *bool   `parquet:"up,optional"`
	Admin   *bool   `parquet:"admin,optional"`
	Carrier *bool   `parquet:"carrier,optional"`
	IfIndex *uint32 `parquet:"ifindex,optional"`

	RxBytes        *uint64 `parquet:"rx_bytes,optional"`
	RxPackets      *uint64 `parquet:"rx_packets,optional"`
	RxErrors       *uint64 `parquet:"rx_errors,optional"`
	RxDropped      *uint64 `parquet:"rx_dropped,optional"`
	RxOver         *uint64 `parquet:"rx_over_errors,optional"`
	Multicast      *uint64 `parquet:"multicast,optional"`
	TxBytes        *uint64 `parquet:"tx_bytes,optional"`
	TxPackets      *uint64 `parquet:"tx_packets,optional"`
	TxErrors       *uint64 `parquet:"tx_errors,optional"`
	TxDropped      *uint64 `parquet:"tx_dropped,optional"`
	TxCarrier      *uint64 `parquet:"tx_carrier_errors,optional"`
	Collisions     *uint64 `parquet:"collisions,optional"`
	RxLength       *uint64 `parquet:"rx_length_errors,optional"`
	RxCRC          *uint64 `parquet:"rx_crc_errors,optional"`
	RxFrame        *uint64 `parquet:"rx_frame_errors,optional"`
	RxFIFO         *uint64 `parquet:"rx_fifo_errors,optional"`
	RxMissed       *uint64 `parquet:"rx_missed_errors,optional"`
	TxAborted      *uint64 `parquet:"tx_aborted_errors,optional"`
	TxFIFO         *uint64 `parquet:"tx_fifo_errors,optional"`
	TxHeartbeat    *uint64 `parquet:"tx_heartbeat_errors,optional"`
	TxWindow       *uint64 `parquet:"tx_window_errors,optional"`
	RxCompressed   *uint64 `parquet:"rx_compressed,optional"`
	TxCompressed   *uint64 `parquet:"tx_compressed,optional"`
	RxNoHandler    *uint64 `parquet:"rx_nohandler,optional"`
	RxOtherHost    *uint64 `parquet:"rx_otherhost_dropped,optional"`
	CarrierChanges *uint64 `parquet:"carrier_changes,optional"`
	CarrierUp      *uint64 `parquet:"carrier_up_count,optional"`
	CarrierDown    *uint64 `parquet:"carrier_down_count,optional"`
	SpeedBPS       *uint64 `parquet:"speed_bps,optional"`

	Missing *string `parquet:"missing,optional,dict"`
}

// Counters writes rows of interface counters. It is for one goroutine.
type Counters struct {
	w *parquet.GenericWriter[counterRow]
}

// NewCounters begins a file on w. It is whole only after Close.
func NewCounters(w io.Writer) *Counters {
	return &Counters{parquet.NewGenericWriter[counterRow](w, parquet.Compression(&parquet.Zstd), parquet.MaxRowsPerRowGroup(rowsPerGroup))}
}

// Write adds one row. r is not kept.
func (c *Counters) Write(r *ifcount.Row) error {
	row := counterRow{Time: int64(r.Time), Point: r.Point}
	if r.Missing != "" {
		row.Missing = &r.Missing
	} else {
		s := &r.Stats
		row.Up, row.Admin, row.Carrier, row.IfIndex = &r.Up, &r.Admin, &r.Carrier, &r.IfIndex
		row.RxBytes, row.RxPackets, row.RxErrors, row.RxDropped, row.RxOver, row.Multicast = &s.RxBytes, &s.RxPackets, &s.RxErrors, &s.RxDropped, &s.RxOver, &s.Multicast
		row.TxBytes, row.TxPackets, row.TxErrors, row.TxDropped, row.TxCarrier, row.Collisions = &s.TxBytes, &s.TxPackets, &s.TxErrors, &s.TxDropped, &s.TxCarrier, &s.Collisions
		row.RxLength, row.RxCRC, row.RxFrame, row.RxFIFO, row.RxMissed = &s.RxLength, &s.RxCRC, &s.RxFrame, &s.RxFIFO, &s.RxMissed
		row.TxAborted, row.TxFIFO, row.TxHeartbeat, row.TxWindow = &s.TxAborted, &s.TxFIFO, &s.TxHeartbeat, &s.TxWindow
		row.RxCompressed, row.TxCompressed, row.RxNoHandler, row.RxOtherHost = &s.RxCompressed, &s.TxCompressed, &s.RxNoHandler, &s.RxOtherHost
		row.CarrierChanges, row.CarrierUp, row.CarrierDown, row.SpeedBPS = &s.CarrierChanges, &s.CarrierUp, &s.CarrierDown, &s.SpeedBPS
	}
	if _, err := c.w.Write([]counterRow{row}); err != nil {
		return fmt.Errorf("write counters as parquet: %w", err)
	}
	return nil
}

// Close ends the file. It leaves the destination open.
func (c *Counters) Close() error {
	if err := c.w.Close(); err != nil {
		return fmt.Errorf("end parquet file of counters: %w", err)
	}
	return nil
}

// Samples writes samples of sensors. It is for one goroutine.
type Samples struct {
	w *parquet.GenericWriter[sampleRow]
}

// NewSamples begins a file on w. It is whole only after Close.
func NewSamples(w io.Writer) *Samples {
	return &Samples{parquet.NewGenericWriter[sampleRow](w, parquet.Compression(&parquet.Zstd), parquet.MaxRowsPerRowGroup(rowsPerGroup))}
}

// Write adds one sample. v is not kept. A value that is no finite number is written as missing.
func (s *Samples) Write(v *sensor.Sample) error {
	row := sampleRow{Time: int64(v.Time), Point: v.Point}
	notNumber := "not a number"
	switch {
	case v.Missing != "":
		row.Missing = &v.Missing
	case math.IsNaN(v.Value) || math.IsInf(v.Value, 0):
		row.Missing = &notNumber
	default:
		row.Value = &v.Value
	}
	if _, err := s.w.Write([]sampleRow{row}); err != nil {
		return fmt.Errorf("write sample as parquet: %w", err)
	}
	return nil
}

// Close ends the file. It leaves the destination open.
func (s *Samples) Close() error {
	if err := s.w.Close(); err != nil {
		return fmt.Errorf("end parquet file of samples: %w", err)
	}
	return nil
}
