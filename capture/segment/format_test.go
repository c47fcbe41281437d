package segment

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"opentap/ledger"
	"opentap/packet"
	"opentap/pcap"
)

var update = flag.Bool("update", false, "write the golden files anew")

// goldenSegment writes a small segment whose every octet is determined: two chunks and the seal.
func goldenSegment(t testing.TB) []byte {
	t.Helper()
	cfg := testConfig(t.TempDir())
	cfg.Interface = pcap.Interface{Name: "eth0", Link: packet.LinkEthernet, SnapLen: 96}
	cfg.Section = pcap.Section{Application: "OpenTap"}
	w, err := prepare(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.sink.recordID = 0x1122334455667788
	if err := w.sink.begin(); err != nil {
		t.Fatal(err)
	}
	w.publish()
	go w.run()
	const t0 = packet.Timestamp(1_700_000_000_000_000_000)
	w.Append(t0+5, 100, bytes.Repeat([]byte{0xaa}, 60), pcap.DirectionIn)
	w.Append(t0+2, 61, bytes.Repeat([]byte{0xbb}, 61), pcap.DirectionUnknown)
	w.Account(ledger.Account{
		Seen: 9, Captured: 2, Filtered: 3, SampledOut: 1, RateLimited: 1, Dropped: [ledger.NumReasons]uint64{1, 1},
		Octets: 161, StoredOctets: 121, FilterUncounted: true,
	})
	w.Flush()
	w.Append(t0+1_000_000_000, 42, bytes.Repeat([]byte{0xcc}, 42), pcap.DirectionOut)
	w.Flush()
	if err := w.Close(ledger.Account{
		Seen: 10, Captured: 3, Filtered: 3, SampledOut: 1, RateLimited: 1, Dropped: [ledger.NumReasons]uint64{1, 1},
		Octets: 203, StoredOctets: 163,
	}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(segmentPath(cfg.Dir, 1))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// dump is hexdump -C, with runs of equal lines as one asterisk.
func dump(b []byte) string {
	var out strings.Builder
	var previous []byte
	starred := false
	for at := 0; at < len(b); at += 16 {
		line := b[at:min(at+16, len(b))]
		if at > 0 && bytes.Equal(line, previous) {
			if !starred {
				out.WriteString("*\n")
			}
			starred = true
			continue
		}
		previous, starred = line, false
		fmt.Fprintf(&out, "%08x  %s\n", at, strings.TrimSpace(hex.Dump(line)[10:60]))
	}
	fmt.Fprintf(&out, "%08x\n", len(b))
	return out.String()
}

func TestGolden(t *testing.T) {
	path := filepath.Join("testdata", "segment.hexdump")
	got := dump(goldenSegment(t))
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Fatalf("the format changed: it needs another version, docs/format/segment.md and -update\n%s", got)
	}
}

// TestDocumentOffsets reads the golden segment with the numbers of docs/format/segment.md alone.
func TestDocumentOffsets(t *testing.T) {
	b := goldenSegment(t)
	u16 := func(at int) uint64 { return uint64(binary.LittleEndian.Uint16(b[at:])) }
	u32 := func(at int) uint64 { return uint64(binary.LittleEndian.Uint32(b[at:])) }
	u64 := func(at int) uint64 { return binary.LittleEndian.Uint64(b[at:]) }
	is := func(what string, got, want uint64) {
		t.Helper()
		if got != want {
			t.Errorf("%s: got %d (%#x), want %d (%#x)", what, got, got, want, want)
		}
	}
	sum := func(from, to, field int) uint64 {
		c := bytes.Clone(b[from:to])
		if field >= 0 {
			clear(c[field : field+4])
		}
		return uint64(crc32.Checksum(c, crc32.MakeTable(crc32.Castagnoli)))
	}
	is("file size", uint64(len(b)), 4*4096)
	is("head option", u16(24), 19373)
	is("head enterprise", u32(28), 32473)
	is("head kind", u16(32), 1)
	is("head version", u16(34), 1)
	is("head magic", u32(36), uint64(binary.LittleEndian.Uint32([]byte("OTSG"))))
	is("head length", u32(40), 4096)
	is("head crc", u32(44), sum(0, 4096, 44))
	is("record id", u64(48), 0x1122334455667788)
	is("segment number", u32(56), 1)
	is("chunk limit", u32(60), 16384)
	c := 4096 // the first chunk
	const t0 = 1_700_000_000_000_000_000
	is("block type", u32(c), 5)
	is("header length", u32(c+4), 336)
	is("option", u16(c+20), 19373)
	is("option length", u16(c+22), 256)
	is("kind", u16(c+28), 2)
	is("version", u16(c+30), 1)
	is("magic", u32(c+32), uint64(binary.LittleEndian.Uint32([]byte("OTCH"))))
	is("flags", u32(c+36), 4)
	is("header crc", u32(c+40), sum(c, c+336, 40))
	is("body crc", u32(c+44), sum(c+336, c+4096, -1))
	is("header length", u32(c+48), 336)
	is("chunk length", u32(c+52), 4096)
	is("segment", u32(c+56), 1)
	is("sequence", u32(c+60), 0)
	is("record id", u64(c+64), 0x1122334455667788)
	is("packets", u32(c+72), 2)
	is("packet octets", u32(c+76), 28+60+4+12+28+64+4)
	is("last block", u32(c+80), 336+28+60+4+12)
	is("earliest", u64(c+88), t0+2)
	is("latest", u64(c+96), t0+5)
	is("octets", u64(c+104), 161)
	is("stored", u64(c+112), 121)
	is("before", u64(c+120), 0)
	for i, v := range []uint64{9, 2, 3, 1, 1, 161, 121, 1, 1, 0, 0, 0} {
		is(fmt.Sprint("account ", i), u64(c+128+8*i), v)
	}
	is("first packet", u32(c+336), 6)
	is("before the second chunk", u64(c+4096+120), 2)
	is("sequence of the second chunk", u32(c+4096+60), 1)
	s := 3 * 4096
	is("seal flags", u32(s+36), 1)
	is("seal length", u32(s+48), 4096)
	is("seal crc", u32(s+40), sum(s, s+4096, 40))
	is("seal option length", u16(s+330), 64)
	is("seal kind", u16(s+336), 3)
	is("seal magic", u32(s+340), uint64(binary.LittleEndian.Uint32([]byte("OTSE"))))
	is("seal chunks", u32(s+344), 2)
	chain := append(bytes.Clone(b[c+40:c+44]), b[c+4096+40:c+4096+44]...)
	is("seal chain", u32(s+348), uint64(crc32.Checksum(chain, crc32.MakeTable(crc32.Castagnoli))))
	is("seal packets", u64(s+352), 3)
	is("seal earliest", u64(s+360), t0+2)
	is("seal latest", u64(s+368), t0+1_000_000_000)
	is("seal octets", u64(s+376), 203)
	is("seal stored", u64(s+384), 163)
	is("seal account", u64(s+128), 10)
}
