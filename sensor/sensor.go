// Package sensor samples measured quantities at a steady period.
//
// Runs in: agent | tools
package sensor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"opentap/packet"
	"opentap/point"
)

// Sample is one reading of one sensor. The zero Sample is a reading of 0 at the epoch.
type Sample struct {
	Time    packet.Timestamp // when it was read
	Point   string           // the sensor's name on its node; may be empty where only one is meant
	Value   float64          // in the point's Unit; meaningless when Missing says something
	Missing string           // why there is no value, in words for people; "" = there is one
}

// Source gives the sensors of one kind. A Source is safe for concurrent use.
type Source interface {
	// Points lists the sensors there are now, by Name. Kind, Quantity, Unit, Aliases and Present are filled.
	Points(ctx context.Context) ([]point.Point, error)
	// Read samples the named sensor. A sensor that does not answer, or that is gone since Points or Read last knew it,
	// gives a Sample with Missing set and no error; a name that was never known is a *fault.Error of kind NotFound.
	Read(ctx context.Context, name string) (Sample, error)
}

// ErrCorrupt is wrapped by errors of the codecs.
var ErrCorrupt = errors.New("corrupt record")

// maxText bounds a text field of a stored record, in octets.
const maxText = 4096

// Codec turns samples into octets and back. It keeps no state and is safe for concurrent use.
type Codec struct{}

// Schema names the record and its version.
func (Codec) Schema() (name string, version uint16) { return "opentap.sensor.sample", 1 }

// Append appends the record to dst: time (8 octets) and value (8 octets, IEEE 754) little-endian, then point and missing,
// each as length (uvarint) and text. Texts longer than 4096 octets are cut.
func (Codec) Append(dst []byte, s *Sample) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, uint64(s.Time))
	dst = binary.LittleEndian.AppendUint64(dst, math.Float64bits(s.Value))
	dst = AppendText(dst, s.Point)
	return AppendText(dst, s.Missing)
}

// Decode fills s from a record that Append made. A text that s holds already is kept, so that decoding rows of one point
// into the same s does not allocate.
func (Codec) Decode(src []byte, s *Sample) error {
	if len(src) < 16 {
		return fmt.Errorf("decode sample: %d octets, want at least 16: %w", len(src), ErrCorrupt)
	}
	s.Time = packet.Timestamp(binary.LittleEndian.Uint64(src))
	s.Value = math.Float64frombits(binary.LittleEndian.Uint64(src[8:]))
	rest, err := DecodeText(src[16:], &s.Point)
	if err == nil {
		rest, err = DecodeText(rest, &s.Missing)
	}
	if err != nil {
		return fmt.Errorf("decode sample: %w", err)
	}
	if len(rest) != 0 {
		return fmt.Errorf("decode sample: %d octets behind the end: %w", len(rest), ErrCorrupt)
	}
	return nil
}

// AppendText appends a text as records hold it: length (uvarint), octets; cut at 4096 octets.
func AppendText(dst []byte, s string) []byte {
	s = s[:min(len(s), maxText)]
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// DecodeText reads a text that AppendText wrote and returns what follows it. *s is set only when it differs.
func DecodeText(src []byte, s *string) ([]byte, error) {
	n, size := binary.Uvarint(src)
	if size <= 0 || n > maxText || n > uint64(len(src)-size) {
		return nil, fmt.Errorf("a text of %d octets does not fit the %d left: %w", n, len(src), ErrCorrupt)
	}
	if text := src[size : size+int(n)]; *s != string(text) {
		*s = string(text)
	}
	return src[size+int(n):], nil
}
