package pcap

import (
	"encoding/binary"
	"slices"

	"opentap/packet"
)

const (
	byteOrderMagic = 0x1a2b3c4d

	epbHeader = 28 // type, length, interface, time high, time low, captured, original
	isbHeader = 20 // type, length, interface, time high, time low

	optEnd     = 0
	optComment = 1

	optHardware    = 2 // shb_hardware
	optSectionOS   = 3 // shb_os
	optApplication = 4 // shb_userappl

	optIfName        = 2
	optIfDescription = 3
	optIfMAC         = 6
	optIfSpeed       = 8
	optIfTSResol     = 9
	optIfFilter      = 11
	optIfOS          = 12
	optIfTSOffset    = 14

	optEPBFlags = 2

	optISBStart        = 2
	optISBEnd          = 3
	optISBReceived     = 4
	optISBDropped      = 5
	optISBFilterAccept = 6
	optISBOSDropped    = 7
	optISBDelivered    = 8

	maxOption = 65535 // octets of one option's value

	// flagsOption is an epb_flags option and the end of options.
	flagsOption = 8 + 4
)

var le = binary.LittleEndian

func align4(n int) int { return (n + 3) &^ 3 }

// AppendSectionHeader appends a little-endian Section Header Block of unknown section length.
func AppendSectionHeader(dst []byte, s Section) []byte {
	at := len(dst)
	dst = le.AppendUint32(dst, BlockSection)
	dst = le.AppendUint32(dst, 0)
	dst = le.AppendUint32(dst, byteOrderMagic)
	dst = le.AppendUint16(dst, 1) // version 1.0
	dst = le.AppendUint16(dst, 0)
	dst = le.AppendUint64(dst, ^uint64(0))
	opts := len(dst)
	dst = appendText(dst, optHardware, s.Hardware)
	dst = appendText(dst, optSectionOS, s.OS)
	dst = appendText(dst, optApplication, s.Application)
	dst = appendText(dst, optComment, s.Comment)
	return closeBlock(dst, at, opts)
}

// AppendInterface appends an Interface Description Block with nanosecond timestamps.
func AppendInterface(dst []byte, i Interface) []byte {
	at := len(dst)
	dst = le.AppendUint32(dst, BlockInterface)
	dst = le.AppendUint32(dst, 0)
	dst = le.AppendUint16(dst, uint16(i.Link))
	dst = le.AppendUint16(dst, 0)
	dst = le.AppendUint32(dst, i.SnapLen)
	opts := len(dst)
	dst = appendText(dst, optIfName, i.Name)
	dst = appendText(dst, optIfDescription, i.Description)
	if i.HasMAC {
		dst = appendOption(dst, optIfMAC, i.MAC[:])
	}
	if i.SpeedBPS != 0 {
		dst = appendUint64(dst, optIfSpeed, i.SpeedBPS)
	}
	dst = append(dst, optIfTSResol, 0, 1, 0, 9, 0, 0, 0)
	if i.Filter != "" {
		f := i.Filter
		if len(f) > maxOption-1 {
			f = cutText(f, maxOption-1)
		}
		dst = le.AppendUint16(dst, optIfFilter)
		dst = le.AppendUint16(dst, uint16(1+len(f)))
		dst = append(dst, 0) // code 0: a pcap-filter string
		dst = append(dst, f...)
		dst = appendZeros(dst, align4(1+len(f))-1-len(f))
	}
	dst = appendText(dst, optIfOS, i.OS)
	return closeBlock(dst, at, opts)
}

// PacketSize is the number of octets AppendPacket appends for capLen captured octets.
func PacketSize(capLen int, dir Direction) int {
	n := epbHeader + align4(capLen) + 4
	if dir != DirectionUnknown {
		n += flagsOption
	}
	return n
}

// AppendPacket appends an Enhanced Packet Block. data is copied once; nothing is allocated when dst has PacketSize
// octets of room. The direction becomes an epb_flags option; an unknown one writes no option.
func AppendPacket(dst []byte, iface uint32, ts packet.Timestamp, origLen uint32, data []byte, dir Direction) []byte {
	n, size := len(dst), PacketSize(len(data), dir)
	if cap(dst)-n < size {
		dst = slices.Grow(dst, size)
	}
	dst = dst[:n+size]
	b := dst[n:]
	_ = b[epbHeader+3]
	le.PutUint32(b[0:], BlockPacket)
	le.PutUint32(b[4:], uint32(size))
	le.PutUint32(b[8:], iface)
	le.PutUint32(b[12:], uint32(uint64(ts)>>32))
	le.PutUint32(b[16:], uint32(ts))
	le.PutUint32(b[20:], uint32(len(data)))
	end := epbHeader + align4(len(data))
	le.PutUint32(b[end-4:], 0) // the padding, or origLen if there is no data: so it comes before both
	le.PutUint32(b[24:], origLen)
	copy(b[epbHeader:], data)
	if dir != DirectionUnknown {
		o := b[end:]
		_ = o[flagsOption+3]
		le.PutUint32(o[0:], optEPBFlags|4<<16)
		le.PutUint32(o[4:], uint32(dir&3))
		le.PutUint32(o[8:], optEnd)
	}
	le.PutUint32(b[size-4:], uint32(size))
	return dst
}

// AppendStats appends an Interface Statistics Block holding the fields s.Has names, the comment and the custom options.
func AppendStats(dst []byte, s *Stats) []byte {
	at := len(dst)
	dst = le.AppendUint32(dst, BlockStatistics)
	dst = le.AppendUint32(dst, 0)
	dst = le.AppendUint32(dst, uint32(s.Interface))
	dst = appendTime(dst, s.Time)
	opts := len(dst)
	dst = appendText(dst, optComment, s.Comment)
	if s.Has&HasStart != 0 {
		dst = appendTime(le.AppendUint32(dst, optISBStart|8<<16), s.Start)
	}
	if s.Has&HasEnd != 0 {
		dst = appendTime(le.AppendUint32(dst, optISBEnd|8<<16), s.End)
	}
	if s.Has&HasReceived != 0 {
		dst = appendUint64(dst, optISBReceived, s.Received)
	}
	if s.Has&HasDropped != 0 {
		dst = appendUint64(dst, optISBDropped, s.Dropped)
	}
	if s.Has&HasFilterAccepted != 0 {
		dst = appendUint64(dst, optISBFilterAccept, s.FilterAccepted)
	}
	if s.Has&HasOSDropped != 0 {
		dst = appendUint64(dst, optISBOSDropped, s.OSDropped)
	}
	if s.Has&HasDelivered != 0 {
		dst = appendUint64(dst, optISBDelivered, s.Delivered)
	}
	for i := range s.Custom {
		dst = appendCustom(dst, &s.Custom[i])
	}
	return closeBlock(dst, at, opts)
}

// MinPadding is the least number of octets by which Pad can grow a block.
const MinPadding = 16

// Pad grows the Enhanced Packet Block or Interface Statistics Block that dst ends with, and that starts at dst[block],
// by exactly n octets, with one custom option of kind 0 that every reader ignores. So a run of blocks can end at a disk
// sector. n is a multiple of 4 from MinPadding to 65536; for any other n, or another block, dst is returned as it was.
func Pad(dst []byte, block, n int) []byte {
	if n < MinPadding || n > 65536 || n%4 != 0 || block < 0 || len(dst)-block < isbHeader+4 {
		return dst
	}
	b := dst[block:]
	opts := isbHeader
	switch le.Uint32(b) {
	case BlockStatistics:
	case BlockPacket:
		if len(b) < epbHeader+4 {
			return dst
		}
		opts = epbHeader + align4(int(le.Uint32(b[20:])))
	default:
		return dst
	}
	size := len(b)
	if int(le.Uint32(b[4:])) != size || opts > size-4 {
		return dst
	}
	end := size - 4 // where the padding option goes
	if opts < end {
		end -= 4 // over the end of options
	} else {
		n -= 4 // for the end of options, which is new
	}
	dst = dst[:block+end]
	dst = le.AppendUint32(dst, OptionCustomBinaryDrop|uint32(n-4)<<16)
	dst = le.AppendUint32(dst, PEN)
	dst = appendZeros(dst, n-8)
	dst = le.AppendUint32(dst, optEnd)
	total := uint32(len(dst) - block + 4)
	dst = le.AppendUint32(dst, total)
	le.PutUint32(dst[block+4:], total)
	return dst
}

// closeBlock ends the options, if any were written from opts on, and the block that starts at dst[at].
func closeBlock(dst []byte, at, opts int) []byte {
	if len(dst) > opts {
		dst = le.AppendUint32(dst, optEnd)
	}
	n := uint32(len(dst) - at + 4)
	dst = le.AppendUint32(dst, n)
	le.PutUint32(dst[at+4:], n)
	return dst
}

func appendTime(dst []byte, t packet.Timestamp) []byte {
	dst = le.AppendUint32(dst, uint32(uint64(t)>>32))
	return le.AppendUint32(dst, uint32(t))
}

func appendUint64(dst []byte, code uint16, v uint64) []byte {
	dst = le.AppendUint32(dst, uint32(code)|8<<16)
	return le.AppendUint64(dst, v)
}

// appendText appends a text option; an empty text appends nothing, one too long for an option is cut.
func appendText(dst []byte, code uint16, s string) []byte {
	if s == "" {
		return dst
	}
	s = cutText(s, maxOption)
	dst = le.AppendUint16(dst, code)
	dst = le.AppendUint16(dst, uint16(len(s)))
	dst = append(dst, s...)
	return appendZeros(dst, align4(len(s))-len(s))
}

func appendOption(dst []byte, code uint16, v []byte) []byte {
	dst = le.AppendUint16(dst, code)
	dst = le.AppendUint16(dst, uint16(len(v)))
	dst = append(dst, v...)
	return appendZeros(dst, align4(len(v))-len(v))
}

// appendCustom appends a custom option; data too long for an option is cut.
func appendCustom(dst []byte, c *CustomOption) []byte {
	code, data := c.Code, c.Data
	if code == 0 {
		code = OptionCustomBinary
	}
	if len(data) > maxOption-4 {
		data = data[:maxOption-4]
	}
	dst = le.AppendUint16(dst, code)
	dst = le.AppendUint16(dst, uint16(4+len(data)))
	dst = le.AppendUint32(dst, c.PEN)
	dst = append(dst, data...)
	return appendZeros(dst, align4(len(data))-len(data))
}

var zeros [4096]byte

func appendZeros(dst []byte, n int) []byte {
	for n > len(zeros) {
		dst = append(dst, zeros[:]...)
		n -= len(zeros)
	}
	return append(dst, zeros[:n]...)
}

// cutText cuts s to at most n octets, on a rune boundary.
func cutText(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xc0 == 0x80 {
		n--
	}
	return s[:n]
}
