package packet_test

import (
	"encoding/binary"
	"math/rand/v2"

	"opentap/packet"
)

var be = binary.BigEndian

// frame builds random but correct frames from the link to the payload. What it built is in want.
type frame struct {
	b    []byte
	want packet.Parsed
}

// build returns a random whole frame. It uses only what gopacket and tshark both decode.
func build(r *rand.Rand) frame {
	var f frame
	payload := make([]byte, r.IntN(64))
	for i := range payload {
		payload[i] = byte(r.Uint32())
	}
	v6 := r.IntN(2) == 1
	protos := []uint8{packet.ProtoTCP, packet.ProtoTCP, packet.ProtoUDP, packet.ProtoUDPLite, packet.ProtoSCTP, packet.ProtoDCCP, packet.ProtoICMP, 47}
	proto := protos[r.IntN(len(protos))]
	if v6 && proto == packet.ProtoICMP {
		proto = packet.ProtoICMP6
	}
	if proto == packet.ProtoICMP || proto == packet.ProtoICMP6 {
		payload = append(payload, make([]byte, 40)...) // what the messages need to be whole
	}
	w := &f.want
	l4, hlen := transportBytes(r, w, proto, payload)
	fragment := r.IntN(8) == 0
	var fragOff uint16
	var more bool
	if fragment {
		fragOff, more = uint16(r.IntN(2)*r.IntN(8000)), true
		w.Layers |= packet.LayerFragment
		w.FragOff, w.MoreFrag = fragOff*8, more
	}
	var l3 []byte
	var l4at int
	if v6 {
		l3, l4at = ipv6Bytes(r, w, proto, l4, fragment, fragOff, more)
	} else {
		l3, l4at = ipv4Bytes(r, w, proto, l4, fragOff, more)
	}
	if fragOff != 0 {
		w.Layers &^= packet.LayerTransport | packet.LayerTCP | packet.LayerICMP
		w.SrcPort, w.DstPort, w.TCPFlags, w.ICMPType, w.ICMPCode = 0, 0, 0, 0, 0
	}
	if r.IntN(10) == 0 {
		w.Link = packet.LinkRaw
		f.b = l3
	} else {
		w.Link = packet.LinkEthernet
		f.b = append(linkBytes(r, w, v6, len(l3)), l3...)
	}
	w.L3Offset = uint16(len(f.b) - len(l3))
	if fragOff == 0 {
		w.L4Offset = w.L3Offset + uint16(l4at)
		if hlen > 0 {
			w.Payload = w.L4Offset + uint16(hlen)
		}
	}
	if w.Link == packet.LinkEthernet {
		for len(f.b) < 60 { // the padding of short frames
			f.b = append(f.b, 0)
		}
	}
	w.OrigLen, w.CapLen = uint32(len(f.b)), uint32(len(f.b))
	return f
}

func linkBytes(r *rand.Rand, w *packet.Parsed, v6 bool, l3len int) []byte {
	w.Layers |= packet.LayerEthernet
	b := make([]byte, 12, 128)
	for i := range b {
		b[i] = byte(r.Uint32()) &^ 1
	}
	w.DstMAC, w.SrcMAC = packet.MAC(b[:6]), packet.MAC(b[6:])
	for n := range r.IntN(4) {
		tci := uint16(r.Uint32())
		b = be.AppendUint16(b, []uint16{0x8100, 0x88a8}[r.IntN(2)])
		b = be.AppendUint16(b, tci)
		if n < 2 {
			w.VLANs[n] = tci
			w.VLANCount++
			w.Layers |= packet.LayerVLAN
		}
	}
	typ := uint16(0x0800)
	if v6 {
		typ = 0x86dd
	}
	w.EtherType = typ
	switch r.IntN(8) {
	case 0:
		w.EtherType = 0x8847
		b = be.AppendUint16(b, 0x8847)
		n := 1 + r.IntN(3)
		w.Layers |= packet.LayerMPLS
		for i := range n {
			label := 16 + r.Uint32()%(1<<20-16)
			if i == 0 {
				w.MPLSLabel = label
			}
			e := label<<12 | 64
			if i == n-1 {
				e |= 0x100
			}
			b = be.AppendUint32(b, e)
		}
	case 1:
		w.EtherType = 0x8864
		b = be.AppendUint16(b, 0x8864)
		b = append(b, 0x11, 0, 0, 7)
		b = be.AppendUint16(b, uint16(2+l3len))
		if v6 {
			b = append(b, 0, 0x57)
		} else {
			b = append(b, 0, 0x21)
		}
	default:
		b = be.AppendUint16(b, typ)
	}
	return b
}

func transportBytes(r *rand.Rand, w *packet.Parsed, proto uint8, payload []byte) ([]byte, int) {
	b := make([]byte, 0, 128)
	sp, dp := uint16(r.Uint32()), uint16(r.Uint32())
	w.Proto = proto
	if proto != 47 && proto != packet.ProtoICMP && proto != packet.ProtoICMP6 {
		b = be.AppendUint16(b, sp)
		b = be.AppendUint16(b, dp)
		w.SrcPort, w.DstPort = sp, dp
		w.Layers |= packet.LayerTransport
	}
	hlen := 0
	switch proto {
	case packet.ProtoTCP:
		opts := r.IntN(4) * 4
		hlen = 20 + opts
		w.TCPFlags = uint8(r.Uint32())
		w.Layers |= packet.LayerTCP
		b = be.AppendUint32(b, r.Uint32())
		b = be.AppendUint32(b, r.Uint32())
		b = append(b, byte(hlen/4)<<4, w.TCPFlags, 1, 2, 3, 4, 0, 0)
		for range opts {
			b = append(b, 1) // no operation
		}
	case packet.ProtoUDP:
		hlen = 8
		b = be.AppendUint16(b, uint16(8+len(payload)))
		b = append(b, 0, 0)
	case packet.ProtoUDPLite:
		hlen = 8
		b = append(b, 0, 8, 0, 0)
	case packet.ProtoSCTP:
		hlen = 12
		b = append(b, 1, 2, 3, 4, 5, 6, 7, 8)
	case packet.ProtoDCCP:
		hlen = 16
		b = append(b, 4, 0, 0, 0, 1 /* request, extended sequence numbers */, 0, 0, 0, 0, 0, 0, 0)
	case packet.ProtoICMP, packet.ProtoICMP6:
		w.Layers |= packet.LayerICMP
		types := []uint8{8, 0, 3, 11, 13, 14, 5}
		hlen = 8
		if proto == packet.ProtoICMP6 {
			types, hlen = []uint8{128, 129, 1, 3, 133, 135, 139, 144}, 4
		}
		w.ICMPType, w.ICMPCode = types[r.IntN(len(types))], uint8(r.IntN(3))
		b = append(b, w.ICMPType, w.ICMPCode, 0, 0, 0, 0, 0, 1)
	}
	return append(b, payload...), hlen
}

func ipv4Bytes(r *rand.Rand, w *packet.Parsed, proto uint8, l4 []byte, fragOff uint16, more bool) ([]byte, int) {
	opts := 0
	if r.IntN(3) == 0 {
		opts = r.IntN(11) * 4
	}
	hlen := 20 + opts
	w.Layers |= packet.LayerIPv4
	w.TOS, w.TTL, w.IPOctets = uint8(r.Uint32()), uint8(r.Uint32()), uint32(hlen+len(l4))
	w.FragID = r.Uint32() & 0xffff
	b := []byte{0x40 | byte(hlen/4), w.TOS}
	b = be.AppendUint16(b, uint16(w.IPOctets))
	b = be.AppendUint16(b, uint16(w.FragID))
	ff := fragOff
	if more {
		ff |= 0x2000
	} else if r.IntN(2) == 0 {
		ff |= 0x4000 // don't fragment
	}
	b = be.AppendUint16(b, ff)
	b = append(b, w.TTL, proto, 0, 0)
	src, dst := r.Uint32(), r.Uint32()
	w.Src, w.Dst = [16]byte{10: 0xff, 11: 0xff}, [16]byte{10: 0xff, 11: 0xff}
	be.PutUint32(w.Src[12:], src)
	be.PutUint32(w.Dst[12:], dst)
	b = be.AppendUint32(b, src)
	b = be.AppendUint32(b, dst)
	for range opts {
		b = append(b, 1)
	}
	return append(b, l4...), hlen
}

func ipv6Bytes(r *rand.Rand, w *packet.Parsed, proto uint8, l4 []byte, fragment bool, fragOff uint16, more bool) ([]byte, int) {
	w.Layers |= packet.LayerIPv6
	w.TOS, w.TTL = uint8(r.Uint32()), uint8(r.Uint32())
	var chain []byte // extension headers, each with its next header set by the one after
	first, last := proto, -1
	add := func(typ uint8, h []byte) {
		if last < 0 {
			first = typ
		} else {
			chain[last] = typ
		}
		last = len(chain)
		chain = append(chain, h...)
	}
	options := func() []byte {
		n := r.IntN(3)
		h := []byte{0, byte(n), 1, byte(4 + 8*n)} // PadN
		return append(h, make([]byte, 4+8*n)...)
	}
	if r.IntN(4) == 0 {
		add(0, options())
	}
	if r.IntN(6) == 0 {
		add(43, append([]byte{0, 2, 0, 1, 0, 0, 0, 0}, make([]byte, 16)...))
	}
	if fragment {
		w.FragID = r.Uint32()
		ff := fragOff << 3
		if more {
			ff |= 1
		}
		h := be.AppendUint32(be.AppendUint16([]byte{0, 0}, ff), w.FragID)
		add(44, h)
	}
	if fragOff == 0 {
		if r.IntN(6) == 0 {
			add(51, append([]byte{0, 4, 0, 0}, make([]byte, 20)...))
		}
		if r.IntN(6) == 0 {
			add(60, options())
		}
	}
	if last >= 0 {
		chain[last] = proto
	}
	w.IPOctets = uint32(40 + len(chain) + len(l4))
	b := be.AppendUint32(nil, 6<<28|uint32(w.TOS)<<20|r.Uint32()&0xfffff)
	b = be.AppendUint16(b, uint16(len(chain)+len(l4)))
	b = append(b, first, w.TTL)
	for i := range w.Src {
		w.Src[i], w.Dst[i] = byte(r.Uint32()), byte(r.Uint32())
	}
	w.Src[0], w.Dst[0] = 0x20, 0x20
	b = append(b, w.Src[:]...)
	b = append(b, w.Dst[:]...)
	b = append(b, chain...)
	return append(b, l4...), 40 + len(chain)
}
