package query

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"testing"

	"opentap/capture/segment"
	"opentap/ledger"
	"opentap/packet"
	"opentap/pcap"

	"pgregory.net/rapid"
)

type sample struct {
	src  int
	ts   packet.Timestamp
	orig uint32
	data []byte
	dir  pcap.Direction
}

const epoch = 1_700_000_000_000_000_000

// record writes a recording of n packets, 1 ms apart or less, and returns what is in it.
func record(t testing.TB, dir string, src, n int, seed uint64) []sample {
	t.Helper()
	return recordFrom(t, dir, src, n, seed, epoch)
}

func recordFrom(t testing.TB, dir string, src, n int, seed uint64, ts packet.Timestamp) []sample {
	t.Helper()
	return recordLanes(t, dir, src, n, seed, ts, 1)
}

// recordLanes has the packets of each moment appended by another lane than those of the last.
func recordLanes(t testing.TB, dir string, src, n int, seed uint64, ts packet.Timestamp, lanes int) []sample {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, uint64(src)))
	cfg := segment.DefaultConfig(dir)
	cfg.ChunkBytes, cfg.SegmentBytes, cfg.FlushEvery, cfg.NoSync, cfg.Lanes = 4*segment.Page, 256<<10, 0, true, lanes
	cfg.Interface = iface(src)
	w, err := segment.Create(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var out []sample
	for i := range n {
		ts += packet.Timestamp(rng.IntN(10) * 100_000)
		d := make([]byte, rng.IntN(900))
		for j := range d {
			d[j] = byte(rng.Uint32())
		}
		s := sample{src, ts, uint32(len(d)) + uint32(rng.IntN(2)), d, pcap.Direction(rng.IntN(3))}
		for !w.Lane(int(ts/100_000)%lanes).Append(s.ts, s.orig, s.data, s.dir) {
			w.Flush()
		}
		w.Account(ledger.Account{Seen: uint64(i+1) * 2, Captured: uint64(i + 1), Filtered: uint64(i + 1)})
		if rng.IntN(60) == 0 {
			w.Flush()
		}
		out = append(out, s)
	}
	if err := w.Close(ledger.Account{Seen: uint64(n) * 2, Captured: uint64(n), Filtered: uint64(n)}); err != nil {
		t.Fatal(err)
	}
	return out
}

func iface(src int) pcap.Interface {
	return pcap.Interface{Name: fmt.Sprintf("veth%d", src), Link: packet.LinkEthernet, SnapLen: 262144}
}

// expect is what a plan must give, the slow and plain way.
func expect(all [][]sample, w Window) []sample {
	var out []sample
	for _, s := range all {
		out = append(out, s...)
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].ts < out[j].ts })
	var kept []sample
	octets := uint64(0)
	for _, s := range out {
		if s.ts < w.From || w.To != 0 && s.ts >= w.To || w.Match != nil && !w.Match(s.data, s.orig) {
			continue
		}
		if w.Snap > 0 && len(s.data) > w.Snap {
			s.data = s.data[:w.Snap]
		}
		octets += uint64(len(s.data))
		if w.MaxPackets > 0 && uint64(len(kept)) == w.MaxPackets || w.MaxOctets > 0 && octets > w.MaxOctets {
			break
		}
		kept = append(kept, s)
	}
	return kept
}

func output(t testing.TB, p *Plan) []byte {
	t.Helper()
	size, err := p.Size(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := p.WriteTo(context.Background(), &b, 0, -1); err != nil {
		t.Fatal(err)
	}
	if int64(b.Len()) != size {
		t.Fatalf("wrote %d octets, Size said %d", b.Len(), size)
	}
	return b.Bytes()
}

// check reads out with pcap.Reader and compares with want.
func check(t testing.TB, out []byte, f Format, want []sample) *pcap.Reader {
	t.Helper()
	r, err := pcap.NewReader(bytes.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	var p pcap.Packet
	for i, w := range want {
		if err := r.Next(&p); err != nil {
			t.Fatalf("packet %d of %d: %v", i, len(want), err)
		}
		if f == PcapMicros {
			w.ts -= w.ts % 1000
		}
		if f != PcapNG {
			w.src, w.dir = 0, 0
		}
		if p.Time != w.ts || p.OrigLen != w.orig || p.Interface != w.src || p.Direction != w.dir || !bytes.Equal(p.Data, w.data) {
			t.Fatalf("packet %d differs: time %d/%d, interface %d/%d, %d/%d octets", i, p.Time, w.ts, p.Interface, w.src, len(p.Data), len(w.data))
		}
	}
	if err := r.Next(&p); err != io.EOF {
		t.Fatalf("after the last packet: %v", err)
	}
	return r
}

func TestPlanProperty(t *testing.T) { planProperty(t, [3]int{1, 1, 1}) }

// Recordings that several threads wrote at once are read as others are.
func TestPlanPropertyOfLanes(t *testing.T) { planProperty(t, [3]int{3, 1, 2}) }

func planProperty(t *testing.T, lanes [3]int) {
	dirs := make([]string, 3)
	all := make([][]sample, 3)
	for i := range dirs {
		dirs[i] = filepath.Join(t.TempDir(), "r")
		all[i] = recordLanes(t, dirs[i], i, []int{1500, 400, 900}[i], 7, epoch, lanes[i])
	}
	span := int(all[0][len(all[0])-1].ts-epoch) + 2_000_000
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 3).Draw(rt, "sources")
		f := Format(rapid.IntRange(1, 3).Draw(rt, "format"))
		var w Window
		if rapid.Bool().Draw(rt, "windowed") {
			w.From = packet.Timestamp(epoch + rapid.IntRange(-1000, span).Draw(rt, "from"))
			w.To = packet.Timestamp(epoch + rapid.IntRange(-1000, span).Draw(rt, "to"))
		}
		if rapid.IntRange(0, 2).Draw(rt, "match") == 0 {
			m := byte(rapid.IntRange(1, 200).Draw(rt, "modulus"))
			w.Match = func(b []byte, _ uint32) bool { return len(b) > 0 && b[0]%m == 0 }
		}
		if rapid.IntRange(0, 2).Draw(rt, "limit") == 0 {
			w.MaxPackets = uint64(rapid.IntRange(0, 2000).Draw(rt, "max packets"))
			w.MaxOctets = uint64(rapid.IntRange(0, 1_000_000).Draw(rt, "max octets"))
		}
		if rapid.IntRange(0, 3).Draw(rt, "snap") == 0 {
			w.Snap = rapid.IntRange(1, 1000).Draw(rt, "snap octets")
		}
		var sources []Source
		for i := range n {
			sources = append(sources, Source{Name: "s", Interface: iface(i), Dir: dirs[i]})
		}
		plan, err := New(sources, w, f, Meta{Section: pcap.Section{Comment: "from a test"}})
		if err != nil {
			rt.Fatal(err)
		}
		want := expect(all[:n], w)
		out := output(t, plan)
		r := check(t, out, f, want)
		if res := plan.Result(); res.Packets != uint64(len(want)) || res.CorruptChunks != 0 {
			rt.Fatalf("result %+v, want %d packets", res, len(want))
		}
		if f == PcapNG {
			if len(r.Stats()) != n || r.Stats()[0].Delivered != plan.Result().Sources[0].Packets {
				rt.Fatalf("statistics %+v", r.Stats())
			}
		}
		// Any cut into ranges gives the same octets, also from a new plan.
		again, err := New(sources, w, f, Meta{Section: pcap.Section{Comment: "from a test"}})
		if err != nil {
			rt.Fatal(err)
		}
		var pieces bytes.Buffer
		for at := 0; at < len(out); {
			k := min(rapid.IntRange(1, 1+len(out)/3).Draw(rt, "range"), len(out)-at)
			if err := again.WriteTo(context.Background(), &pieces, int64(at), int64(k)); err != nil {
				rt.Fatal(err)
			}
			at += k
		}
		if !bytes.Equal(pieces.Bytes(), out) {
			rt.Fatal("ranges put together differ from the whole")
		}
		i := 0
		err = plan.Each(context.Background(), func(p *pcap.Packet) error {
			if i >= len(want) || p.Time != want[i].ts || p.Interface != want[i].src || !bytes.Equal(p.Data, want[i].data) {
				rt.Fatalf("Each: packet %d differs", i)
			}
			i++
			return nil
		})
		if err != nil || i != len(want) {
			rt.Fatalf("Each: %d packets of %d, %v", i, len(want), err)
		}
	})
}

// damage changes an octet in the body of the k-th chunk of a recording and returns the packets lost.
func damage(t *testing.T, dir string, k int) (header segment.ChunkHeader) {
	t.Helper()
	r, err := segment.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for h, err := range r.Chunks(0, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if k--; k >= 0 {
			continue
		}
		f, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("%08d.pcapng", h.Segment)), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		var b [1]byte
		at := h.Offset + int64(h.Length) - 700
		f.ReadAt(b[:], at)
		b[0]++
		f.WriteAt(b[:], at)
		return *h
	}
	t.Fatal("no such chunk")
	return
}

func TestDamagedChunk(t *testing.T) {
	for _, n := range []int{1, 2} {
		for _, f := range []Format{PcapNG, Pcap} {
			for _, when := range []string{"before", "after"} {
				t.Run(fmt.Sprintf("%d sources, format %d, damaged %s Size", n, f, when), func(t *testing.T) {
					var sources []Source
					all := make([][]sample, n)
					for i := range n {
						dir := filepath.Join(t.TempDir(), "r")
						all[i] = record(t, dir, i, 800, 9)
						sources = append(sources, Source{Interface: iface(i), Dir: dir})
					}
					p, err := New(sources, Window{}, f, Meta{})
					if err != nil {
						t.Fatal(err)
					}
					if when == "after" {
						if _, err := p.Size(context.Background()); err != nil {
							t.Fatal(err)
						}
					}
					h := damage(t, sources[0].Dir, 5)
					if f == Pcap && when == "after" {
						var damaged *segment.CorruptionError
						if err := p.WriteTo(context.Background(), io.Discard, 0, -1); !errors.As(err, &damaged) {
							t.Fatalf("want a CorruptionError, got %v", err)
						}
						return
					}
					first, last := h.Before, h.Before+uint64(h.Packets)
					all[0] = append(append([]sample(nil), all[0][:first]...), all[0][last:]...)
					out := output(t, p)
					check(t, out, f, expect(all, Window{}))
					if r := p.Result(); r.CorruptChunks != 1 || r.CorruptPackets != uint64(h.Packets) {
						t.Fatalf("result %+v", r)
					}
					if f == Pcap {
						a := p.Result().Sources[0].Account
						if a.Dropped[ledger.Corrupt] != uint64(h.Packets) || a.Check() != nil {
							t.Fatalf("account %+v", a)
						}
					}
					tools(t, out, n*800-int(h.Packets))
				})
			}
		}
	}
}

func TestFillerSizes(t *testing.T) {
	for n := 32; n < 5<<20; n += 4 + n/300*4 {
		b := appendFiller(nil, 3, 5, n, "something is missing here")
		if len(b) != n {
			t.Fatalf("filler of %d octets, want %d", len(b), n)
		}
		for len(b) > 0 {
			typ, body, total, err := pcap.NextBlock(b)
			if err != nil || typ != pcap.BlockStatistics || total > 2*maxFiller {
				t.Fatalf("filler of %d octets: block of %d, %v", n, total, err)
			}
			var s pcap.Stats
			if err := pcap.DecodeStats(body, &s); err != nil || s.Interface != 3 {
				t.Fatalf("filler of %d octets: %v", n, err)
			}
			b = b[total:]
		}
	}
	file := pcap.AppendInterface(pcap.AppendSectionHeader(nil, pcap.Section{}), iface(0))
	s := sample{ts: epoch, orig: 60, data: make([]byte, 60)}
	for _, n := range []int{32, 36, 60, 4 << 20} {
		file = appendFiller(file, 0, epoch, n, "something is missing here")
		file = pcap.AppendPacket(file, 0, s.ts, s.orig, s.data, 0)
	}
	check(t, file, PcapNG, []sample{s, s, s, s})
	tools(t, file, 4)
}

// tools has other programs count the packets of a file. What they say on standard error is a failure.
func tools(t *testing.T, out []byte, want int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "out")
	if err := os.WriteFile(path, out, 0o600); err != nil {
		t.Fatal(err)
	}
	ran := false
	for _, c := range [][]string{{"capinfos", "-Mc", "-T", "-r", path}, {"tshark", "-n", "-r", path, "-T", "fields", "-e", "frame.number"}} {
		if _, err := exec.LookPath(c[0]); err != nil {
			continue
		}
		ran = true
		cmd := exec.Command(c[0], c[1:]...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		b, err := cmd.Output()
		said := strings.TrimSpace(stderr.String())
		if strings.HasPrefix(said, "Running as user") {
			said = ""
		}
		if err != nil || said != "" {
			t.Fatalf("%s: %v: %s", c[0], err, said)
		}
		got := strings.Count(string(b), "\n")
		if c[0] == "capinfos" {
			f := strings.Fields(string(b))
			got, _ = strconv.Atoi(f[len(f)-1])
		}
		if got != want {
			t.Fatalf("%s finds %d packets, want %d", c[0], got, want)
		}
	}
	if !ran {
		t.Log("needs tshark or capinfos to compare counts")
	}
}

// TestAccountOfWindow checks that what is stated is of the chunks that were read, also when older segments expired.
func TestAccountOfWindow(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "r")
	all := record(t, dir, 0, 2500, 11)
	r, err := segment.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	old, err := r.DropOldest()
	if err != nil || old.Packets == 0 {
		t.Fatalf("%+v, %v", old, err)
	}
	for _, from := range []packet.Timestamp{0, all[1500].ts} {
		p, err := New([]Source{{Interface: iface(0), Dir: dir}}, Window{From: from}, PcapNG, Meta{})
		if err != nil {
			t.Fatal(err)
		}
		output(t, p)
		var stored uint64
		for _, g := range p.sources[0].pieces {
			stored += uint64(g.packets)
		}
		a := p.Result().Sources[0].Account
		if a.Captured != stored || a.Seen != 2*stored || a.Filtered != stored || a.Check() != nil {
			t.Fatalf("from %d: account %+v, want %d captured", from, a, stored)
		}
		if from == 0 && stored != 2500-old.Packets {
			t.Fatalf("%d packets left, %d were dropped of 2500", stored, old.Packets)
		}
	}
	given := ledger.Account{Seen: 5, Captured: 5}
	p, err := New([]Source{{Interface: iface(0), Dir: dir, Account: &given}}, Window{MaxPackets: 3}, PcapNG, Meta{})
	if err != nil {
		t.Fatal(err)
	}
	rd := check(t, output(t, p), PcapNG, all[old.Packets:old.Packets+3])
	if s := rd.Stats()[0]; s.Received != 5 || s.Delivered != 3 || !strings.Contains(s.Comment, "seen 5 = captured 5") {
		t.Fatalf("statistics %+v", s)
	}
}
