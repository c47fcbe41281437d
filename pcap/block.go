package pcap

import (
	"encoding/binary"
	"fmt"
	"io"

	"opentap/packet"
)

// NextBlock takes the first block of b, which holds little-endian pcapng blocks as OpenTap writes them. body is what is
// between the two lengths and points into b; total is where the next block starts. The error is io.EOF when b is empty,
// and otherwise a *FormatError with offsets relative to b; it wraps io.ErrUnexpectedEOF when b ends inside the block.
func NextBlock(b []byte) (typ uint32, body []byte, total int, err error) {
	if len(b) < 12 {
		if len(b) == 0 {
			return 0, nil, 0, io.EOF
		}
		return 0, nil, 0, shortBlock(0)
	}
	typ = le.Uint32(b)
	n := le.Uint32(b[4:])
	if n < 12 || n%4 != 0 || n > 1<<30 {
		return typ, nil, 0, badLength(0, typ, n)
	}
	if int(n) > len(b) {
		return typ, nil, 0, shortBlock(0)
	}
	if t := le.Uint32(b[n-4:]); t != n {
		return typ, nil, 0, badTrailer(0, typ, n, t)
	}
	return typ, b[8 : n-4 : n-4], int(n), nil
}

// DecodePacket fills p from the body of a little-endian Enhanced Packet Block with nanosecond time, as NextBlock
// returns it and AppendPacket writes it. p.Data points into body. Nothing is allocated unless there is a comment.
func DecodePacket(body []byte, p *Packet) error {
	if msg := decodePacket(body, p, le); msg != "" {
		return &FormatError{Msg: msg}
	}
	return nil
}

// decodePacket is DecodePacket in either byte order; p.Time is left in the interface's own unit. It returns what is
// wrong, or "".
func decodePacket(body []byte, p *Packet, bo binary.ByteOrder) string {
	const head = epbHeader - 8
	if len(body) < head {
		return "packet block: too short for its fields"
	}
	p.Interface = int(bo.Uint32(body))
	p.Time = packet.Timestamp(uint64(bo.Uint32(body[4:]))<<32 | uint64(bo.Uint32(body[8:])))
	capLen := bo.Uint32(body[12:])
	p.OrigLen = bo.Uint32(body[16:])
	if capLen > MaxPacket || int(capLen) > len(body)-head {
		return "packet block: captured length is beyond the block or the limit"
	}
	end := head + int(capLen)
	p.Data = body[head:end:end]
	p.Direction, p.Comment = DirectionUnknown, ""
	if opts := align4(end); opts < len(body) {
		return packetOptions(body[opts:], p, bo)
	}
	return ""
}

func packetOptions(opts []byte, p *Packet, bo binary.ByteOrder) string {
	for len(opts) > 0 {
		code, v, rest, msg := nextOption(opts, bo)
		if msg != "" {
			return "packet block: " + msg
		}
		switch {
		case code == optEnd:
			return ""
		case code == optEPBFlags && len(v) == 4:
			if d := Direction(bo.Uint32(v) & 3); d <= DirectionOut {
				p.Direction = d
			}
		case code == optComment && p.Comment == "":
			p.Comment = string(v)
		}
		opts = rest
	}
	return ""
}

// DecodeStats fills s from the body of a little-endian Interface Statistics Block with nanosecond time, as NextBlock
// returns it and AppendStats writes it. Custom options are copied, except padding.
func DecodeStats(body []byte, s *Stats) error {
	if msg := decodeStats(body, s, le); msg != "" {
		return &FormatError{Msg: msg}
	}
	return nil
}

// decodeStats is DecodeStats in either byte order; times are left in the interface's own unit.
func decodeStats(body []byte, s *Stats, bo binary.ByteOrder) string {
	if len(body) < isbHeader-8 {
		return "statistics block: too short for its fields"
	}
	*s = Stats{Custom: s.Custom[:0]}
	s.Interface = int(bo.Uint32(body))
	s.Time = optionTime(body[4:], bo)
	for opts := body[isbHeader-8:]; len(opts) > 0; {
		code, v, rest, msg := nextOption(opts, bo)
		if msg != "" {
			return "statistics block: " + msg
		}
		opts = rest
		switch code {
		case optEnd:
			return ""
		case optComment:
			if s.Comment == "" {
				s.Comment = string(v)
			}
			continue
		case OptionCustomText, OptionCustomBinary, OptionCustomTextDrop, OptionCustomBinaryDrop:
			if len(v) < 4 {
				return "statistics block: custom option without an enterprise number"
			}
			pen, data := bo.Uint32(v), v[4:]
			padding := pen == PEN && (len(data) < 2 || data[0] == 0 && data[1] == 0)
			if !padding {
				s.Custom = append(s.Custom, CustomOption{PEN: pen, Code: code, Data: append([]byte(nil), data...)})
			}
			continue
		}
		if len(v) != 8 {
			continue
		}
		switch code {
		case optISBStart:
			s.Start, s.Has = optionTime(v, bo), s.Has|HasStart
		case optISBEnd:
			s.End, s.Has = optionTime(v, bo), s.Has|HasEnd
		case optISBReceived:
			s.Received, s.Has = bo.Uint64(v), s.Has|HasReceived
		case optISBDropped:
			s.Dropped, s.Has = bo.Uint64(v), s.Has|HasDropped
		case optISBFilterAccept:
			s.FilterAccepted, s.Has = bo.Uint64(v), s.Has|HasFilterAccepted
		case optISBOSDropped:
			s.OSDropped, s.Has = bo.Uint64(v), s.Has|HasOSDropped
		case optISBDelivered:
			s.Delivered, s.Has = bo.Uint64(v), s.Has|HasDelivered
		}
	}
	return ""
}

func optionTime(v []byte, bo binary.ByteOrder) packet.Timestamp {
	return packet.Timestamp(uint64(bo.Uint32(v))<<32 | uint64(bo.Uint32(v[4:])))
}

// nextOption takes the first option of opts, which is not empty. msg says what is wrong, or is "".
func nextOption(opts []byte, bo binary.ByteOrder) (code uint16, v, rest []byte, msg string) {
	if len(opts) < 4 {
		return 0, nil, nil, "options end inside an option's header"
	}
	code = bo.Uint16(opts)
	n := int(bo.Uint16(opts[2:]))
	if code == optEnd {
		return code, nil, nil, ""
	}
	if 4+align4(n) > len(opts) {
		return code, nil, nil, "option runs past its block"
	}
	return code, opts[4 : 4+n], opts[4+align4(n):], ""
}

func shortBlock(at int64) error {
	return &FormatError{Offset: at, Msg: "file ends inside a block", Err: io.ErrUnexpectedEOF}
}

func badLength(at int64, typ, n uint32) error {
	return &FormatError{Offset: at, Msg: fmt.Sprintf("block type %#x: impossible length %d", typ, n)}
}

func badTrailer(at int64, typ, n, t uint32) error {
	return &FormatError{Offset: at, Msg: fmt.Sprintf("block type %#x: lengths differ: %d before, %d after", typ, n, t)}
}
