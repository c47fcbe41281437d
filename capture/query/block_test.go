package query

import (
	"bytes"
	"testing"

	"opentap/pcap"
)

// FuzzBlock feeds a chunk body with a right checksum and any content: nothing panics, and what a block claims is in it.
func FuzzBlock(f *testing.F) {
	b := pcap.AppendPacket(nil, 0, 5, 100, bytes.Repeat([]byte{1}, 61), pcap.DirectionIn)
	last := len(b)
	b = pcap.AppendPacket(b, 0, 6, 100, bytes.Repeat([]byte{2}, 60), 0)
	epb := len(b)
	f.Add(pcap.Pad(b, last, 400), uint32(last), uint32(epb), byte(3))
	f.Add(pcap.Pad(bytes.Clone(b[:last]), 0, 16), uint32(0), uint32(last), byte(2))
	f.Fuzz(func(t *testing.T, b []byte, last, epb uint32, snap byte) {
		g := piece{last: last, epb: epb, length: uint32(len(b))}
		body, ok := g.unpad(b)
		if !ok {
			return
		}
		p := &Plan{format: PcapNG, window: Window{Snap: int(snap)}}
		var k block
		for len(body) > 0 && k.parse(body) {
			if len(k.data) > len(k.raw) || len(k.raw) > len(body) {
				t.Fatalf("block of %d octets with %d of data in %d", len(k.raw), len(k.data), len(body))
			}
			if n := len(p.encode(nil, 1, &k)); int64(n) != p.encodedSize(&k) {
				t.Fatalf("encoded %d octets, counted %d", n, p.encodedSize(&k))
			}
			body = body[len(k.raw):]
		}
	})
}
